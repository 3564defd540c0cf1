"""Every setting, from ENGINESMITH_* variables or the command line. The only reader of the environment."""

import os
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.inputs.limits import InputLimits

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

#: What a child may know of the environment: never a token, a key or a database's address.
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "XDG_CACHE_HOME")
_INHERITED_PREFIXES = ("OPENBLAS_", "OMP_", "NUMBA_", "CUDA_", "NVIDIA_")


def child_environment() -> dict[str, str]:
    """Return the environment of a throw-away process."""
    kept = {name: value for name, value in os.environ.items() if name in _INHERITED or name.startswith(_INHERITED_PREFIXES)}
    # pydantic reads what every installed distribution offers, 5 ms in each process, to find plugins that nobody wants here.
    return kept | {"PYTHONPATH": _python_path(), "PYTHONUNBUFFERED": "1", "PYDANTIC_DISABLE_PLUGINS": "__all__"}


def _python_path() -> str:
    """Return where we are installed, then where this process was told to look: TensorRT may be there alone.

    All are absolute: a child stands in a job's folder, whose files users name.
    """
    told = [Path(entry).absolute() for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    return os.pathsep.join(dict.fromkeys(str(path) for path in (Path(__file__).parent.parent, *told)))


class StepLimits(BaseModel):
    """How long each stage of a job may run, in seconds, before its process is ended."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    inspect_seconds: float = 120
    observe_seconds: float = 4 * 3600
    derive_seconds: float = 1800
    #: What stays float may be found by hundreds of measurements.
    quantize_seconds: float = 2 * 3600
    build_seconds: float = 2 * 3600
    judge_seconds: float = 2 * 3600


class Settings(BaseSettings):
    """What one server or worker runs with; `GET /limits` shows the limits among them."""

    model_config = SettingsConfigDict(env_prefix="ENGINESMITH_", env_nested_delimiter="__", extra="ignore")

    data: Path = Path("enginesmith-data")
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    #: Tokens that may call the API, comma-separated; without any the server binds to loopback only.
    tokens: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    #: SQLAlchemy URL of our tables; default is SQLite in `data`.
    database_url: str | None = None
    #: The same for the job engine; default is a second SQLite file, or the schema `dbos` of the Postgres above.
    jobs_url: str | None = None
    #: file:///... or s3://bucket/prefix; default is a folder in `data`.
    blob_url: str | None = None
    #: Endpoint of an S3-compatible store; keys come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
    s3_endpoint: str | None = None
    #: Whether `serve` starts a worker of its own.
    worker: bool = True
    #: Queues to serve, comma-separated; default is all that this machine can.
    queues: Annotated[tuple[str, ...], NoDecode] = ()
    #: Whether a worker has a process ready for the next step, which saves it 0.3 s and takes 100 MB of memory.
    spare: bool = True

    #: A worker asks its queues for jobs so often; ten times a second takes 5 % of a core, which calibrations lack.
    poll_seconds: float = Field(default=0.1, gt=0)
    heartbeat_seconds: float = Field(default=5.0, gt=0)
    #: A worker that was not heard of for so long is dead: its jobs go to another.
    dead_after_seconds: float = Field(default=45.0, gt=0)
    #: A job that was queued when the last worker that could do it was lost waits so long for another; then it fails.
    lost_worker_seconds: float = Field(default=900.0, gt=0)
    #: A job that ended its worker so often is not tried again.
    max_crashes: int = Field(default=3, ge=1)
    #: How long an upload may stand still.
    upload_idle_seconds: float = Field(default=30.0, gt=0)
    max_upload_bytes: int = Field(default=64 << 30, ge=1)
    #: How many uploads are parsed at once, each in a process of its own.
    inspectors: int = Field(default=2, ge=1)
    #: Address space of a process that parses an upload.
    inspector_memory_bytes: int = Field(default=12 << 30, ge=1 << 30)
    #: Optimized models of this machine's observer; those not used for longest go first, none within a day.
    prepared_bytes: int = Field(default=8 << 30, ge=0)
    #: Decoded pictures that are kept for the next model and the judge; 0 keeps none.
    pixels_bytes: int = Field(default=8 << 30, ge=0)
    input_limits: InputLimits = InputLimits()
    step_limits: StepLimits = StepLimits()
    log_level: str = "INFO"
    #: Ends this worker with SIGKILL at `STAGE:before` or `STAGE:after` its save, once: for recovery drills.
    failpoint: str | None = None

    @field_validator("tokens", "queues", mode="before")
    @classmethod
    def _comma_separated(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if any(len(token.get_secret_value()) < 16 for token in self.tokens):
            raise ValueError("a token has at least 16 characters; `openssl rand -hex 32` makes a good one")
        return self

    @field_validator("database_url", "jobs_url")
    @classmethod
    def _known_database(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("postgresql://", "postgresql+psycopg://", "sqlite:///")):
            raise ValueError("a database URL starts with postgresql:// or sqlite:///")
        return value

    @field_validator("blob_url")
    @classmethod
    def _known_store(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("file:///", "s3://")):
            raise ValueError("a blob URL starts with file:/// or s3://")
        return value

    @property
    def is_loopback(self) -> bool:
        return self.host in LOOPBACK

    @property
    def effective_database_url(self) -> str:
        url = self.database_url or f"sqlite:///{self.data.absolute()}/app.db"
        return url.replace("postgresql://", "postgresql+psycopg://", 1)

    @property
    def effective_jobs_url(self) -> str:
        if self.jobs_url:
            return self.jobs_url
        if self.database_url and self.database_url.startswith("postgresql"):
            return self.database_url
        return f"sqlite:///{self.data.absolute()}/jobs.db"

    @property
    def effective_blob_url(self) -> str:
        return self.blob_url or (self.data.absolute() / "blobs").as_uri()

    @property
    def temporary_folder(self) -> Path:
        """Folder for uploads and job files in work; on the file system of local blobs, so that a rename suffices."""
        return self.data.absolute() / "tmp"

    @property
    def prepared_folder(self) -> Path:
        """Folder for what the observer keeps of models, good on this machine alone."""
        return self.data.absolute() / "prepared"

    @property
    def pixels_folder(self) -> Path:
        """Folder for decoded pictures."""
        return self.data.absolute() / "pixels"

    def worker_environment(self) -> dict[str, str]:
        """Return the environment of this server's own worker: these settings, whoever gave them, but no token."""
        told = self.model_dump(
            mode="json", exclude={"tokens", "host", "port", "worker", "queues", "input_limits", "step_limits"}
        )
        own = {f"ENGINESMITH_{name.upper()}": str(value) for name, value in told.items() if value is not None}
        own |= {"ENGINESMITH_QUEUES": ",".join(self.queues), "ENGINESMITH_DATA": str(self.data.absolute())}
        own |= {"ENGINESMITH_INPUT_LIMITS": self.input_limits.model_dump_json()}
        own |= {"ENGINESMITH_STEP_LIMITS": self.step_limits.model_dump_json()}
        inherited = {name: value for name, value in os.environ.items() if name != "ENGINESMITH_TOKENS"}
        # `-P` keeps the folder where the server was started off the path, so the worker is told where it is installed.
        return inherited | own | {"PYTHONPATH": _python_path()}
