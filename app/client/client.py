"""Every call of the HTTP interface as a method; documents come back as the JSON that the server sent."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from app.client.download import Download, fetch
from app.client.events import Event
from app.client.follow import Follower
from app.client.problems import LocalProblem
from app.client.transport import DEFAULT_SERVER, Call, Transport
from app.client.upload import Progress, ignore_progress, open_upload
from app.spec import JobSpec

Document = dict[str, Any]
Spec = JobSpec | Mapping[str, Any]

#: What a call may wait on the server at most, in seconds.
MAX_WAIT_SECONDS = 60


class Client:
    """A server, as one object. Close it, or use it in a `with`.

    Every method raises ServerProblem for an answer of 400 or above, Unreachable when none comes, and LocalProblem for
    a file of this side.
    """

    def __init__(self, server: str = DEFAULT_SERVER, token: str | None = None) -> None:
        self._transport = Transport(server, token)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    @property
    def server(self) -> str:
        """The address of the server."""
        return self._transport.url

    def push_model(self, path: Path, name: str, progress: Progress = ignore_progress) -> Document:
        """Upload an ONNX file, or an archive or folder of one and its external data."""
        return self._upload(_Target("PUT", "models", name), path, progress)

    def push_dataset(self, path: Path, name: str, progress: Progress = ignore_progress) -> Document:
        """Upload an archive of images, or a folder, which is packed while it is sent."""
        return self._upload(_Target("PUT", "datasets", name), path, progress)

    def add_images(self, path: Path, name: str, progress: Progress = ignore_progress) -> Document:
        """Make a new version of a dataset: its images and those of the archive or folder."""
        return self._upload(_Target("PATCH", "datasets", name), path, progress)

    def submit(self, spec: Spec, wait_seconds: int = 0) -> Document:
        """Start a job, or join the live one of the same spec, and return its document with `joined`."""
        params = {"wait": wait_seconds or None}
        # identical jobs are one job, so that sending it again after a 503 starts no second one
        call = Call("POST", "/v1/jobs", params, json=_spec_json(spec), read_seconds=MAX_WAIT_SECONDS + 30)
        return self._transport.json(call)

    def job(self, job_id: str) -> Document:
        """Return a job's document."""
        return self._get("jobs", job_id)

    def events(self, job_id: str) -> Iterator[Event]:
        """Yield a job's events from its first to its end, through broken connections and restarts of the server."""
        return Follower(self._transport, f"/v1/jobs/{_quoted(job_id)}").events()

    def wait(self, job_id: str, on_event: Callable[[Event], None] = lambda _event: None) -> Document:
        """Return the job's document once it has ended."""
        for event in self.events(job_id):
            on_event(event)
        return self.job(job_id)

    def cancel(self, job_id: str) -> Document:
        """Ask a job to end, and return its document."""
        return self._transport.json(Call("POST", f"/v1/jobs/{_quoted(job_id)}/cancel"))

    def lookup(self, spec: Spec) -> Document:
        """Return `{hit, table_id, reason}`: whether the spec's table is there already."""
        return self._transport.json(Call("POST", "/v1/tables/lookup", json=_spec_json(spec)))

    def models(self) -> Iterator[Document]:
        """Yield all models, newest first."""
        return self._list("models", {})

    def datasets(self) -> Iterator[Document]:
        """Yield all datasets, newest first."""
        return self._list("datasets", {})

    def jobs(self, state: str | None = None) -> Iterator[Document]:
        """Yield all jobs, newest first, of one state if given."""
        return self._list("jobs", {"state": state})

    def tables(self, model: str | None = None, dataset: str | None = None) -> Iterator[Document]:
        """Yield all tables, newest first; `stale` is relative to the names given."""
        return self._list("tables", {"model": model, "dataset": dataset})

    def workers(self) -> list[Document]:
        """Return the workers that were heard of."""
        return list(self._list("workers", {}))

    def model(self, reference: str) -> Document:
        """Return a model by name or id."""
        return self._get("models", reference)

    def dataset(self, reference: str) -> Document:
        """Return a dataset by name or id."""
        return self._get("datasets", reference)

    def table(self, table_id: str) -> Document:
        """Return a table with its scales."""
        return self._transport.json(Call("GET", f"/v1/tables/{_quoted(table_id)}", {"full": 1}))

    def export(self, table_id: str, options: Mapping[str, str]) -> bytes:
        """Return a table as a file; options are `format`, `trt_version` and `algorithm`."""
        return self._transport.send(Call("GET", f"/v1/tables/{_quoted(table_id)}/export", options)).content

    def qdq(self, table_id: str, options: Mapping[str, Any]) -> bytes:
        """Return the Q/DQ ONNX of a table's model; options are `float_type`, `exclude` and `placement`."""
        return self._transport.send(Call("GET", f"/v1/tables/{_quoted(table_id)}/qdq", options)).content

    def qdq_report(self, table_id: str, options: Mapping[str, Any]) -> Document:
        """Return what is INT8 in that model, why the rest is not, and what changes against implicit quantization."""
        return self._transport.json(Call("GET", f"/v1/tables/{_quoted(table_id)}/qdq/report", options))

    def coverage(self, table_id: str) -> Document:
        """Return which tensors TensorRT asks for when it builds from the table's cache, and which it would miss."""
        return self._transport.json(Call("GET", f"/v1/tables/{_quoted(table_id)}/coverage"))

    def diff(self, a: str, b: str) -> Document:
        """Return how the scales of two tables differ, the largest drift first."""
        return self._transport.json(Call("GET", f"/v1/tables/{_quoted(a)}/diff/{_quoted(b)}"))

    def import_table(self, path: Path, options: Mapping[str, Any]) -> Document:
        """Store a TRT cache, or another tool's table, and return its document; or that of the job which measures first.

        options: `model`, `min_coverage`, `fill`, `extremes`, and for what is measured `dataset` and `preprocess`.
        """
        content = _read(path)
        call = Call("POST", "/v1/tables/import", options, content=lambda: content, repeatable=False)
        return self._transport.json(call)

    def engine(self, engine_id: str) -> Document:
        """Return what is known of an engine."""
        return self._get("engines", engine_id)

    def download_plan(self, engine_id: str, destination: Path, progress: Progress = ignore_progress) -> Path:
        """Write an engine's plan to destination: whole and with the right digest, or not at all."""
        digest = self.engine(engine_id)["digest"]
        path = f"/v1/engines/{_quoted(engine_id)}/plan"
        return fetch(self._transport, Download(path, digest, destination, progress))

    def report(self, engine_id: str) -> Document:
        """Return what the latest judge measured of an engine."""
        return self._transport.json(Call("GET", f"/v1/engines/{_quoted(engine_id)}/report"))

    def job_report(self, job_id: str) -> Document:
        """Return what a job's judge measured."""
        return self._transport.json(Call("GET", f"/v1/jobs/{_quoted(job_id)}/report"))

    def limits(self) -> Document:
        """Return the server's limits."""
        return self._transport.json(Call("GET", "/limits"))

    def ready(self) -> Document:
        """Return once the server and a worker take jobs; a ServerProblem of status 503 says what is missing."""
        return self._transport.json(Call("GET", "/readyz", repeatable=False, read_seconds=5))

    def _get(self, kind: str, reference: str) -> Document:
        return self._transport.json(Call("GET", f"/v1/{kind}/{_quoted(reference)}"))

    def _list(self, kind: str, params: Mapping[str, Any]) -> Iterator[Document]:
        cursor = None
        while True:
            page = self._transport.json(Call("GET", f"/v1/{kind}", {**params, "cursor": cursor}))
            yield from page["items"]
            cursor = page.get("next")
            if cursor is None:
                return

    def _upload(self, target: "_Target", path: Path, progress: Progress) -> Document:
        upload = open_upload(path)
        call = Call(
            target.method,
            f"/v1/{target.kind}/{_quoted(target.name)}",
            headers=upload.headers(),
            content=lambda: upload.with_progress(progress),
        )
        return self._transport.json(call)


@dataclass(frozen=True)
class _Target:
    method: str
    kind: str
    name: str


def _quoted(part: str) -> str:
    return quote(part, safe="")


def _spec_json(spec: Spec) -> Any:
    return spec.model_dump(mode="json", exclude_unset=True) if isinstance(spec, JobSpec) else dict(spec)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise LocalProblem(f"Cannot read {path}: {error.strerror}.") from error
