"""What `enginesmith demo` does with a server: the packaged digits through every method and backend."""

import json
import shlex
import time
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from app.client.client import Client
from app.client.problems import JobFailed, LocalProblem
from app.client.summary import accuracies_from_report
from app.client.transport import DEFAULT_SERVER

METHODS = ("minmax", "entropy", "percentile")
JUDGE_IMAGES = 1500
#: TensorRT for RTX builds for a GPU that need not be there; 8.6 is GeForce RTX 30.
COMPUTE_CAPABILITY = "8.6"

_MODEL, _CALIBRATION, _TEST = "mnist-cnn.onnx", "mnist-calibration-500.zip", "mnist-test-1500.zip"
_SUFFIXES = {"onnxruntime": "onnx"}


@dataclass(frozen=True)
class Row:
    """How one job ended. `found` names the steps that were in the cache; `seconds` is its time seen from here."""

    backend: str
    method: str
    accuracy_fp32: float | None
    accuracy_int8: float | None
    agreement: float | None
    found: str
    seconds: float
    plan_bytes: int
    job_id: str
    plan: str


@dataclass(frozen=True)
class Showcase:
    """Runs jobs on the pushed digits and keeps their results in the folder `out`."""

    client: Client
    out: Path

    def run(self, backend: str, method: str) -> Row:
        """Run one job to its end and download its plan, table and report. Raises JobFailed."""
        began = time.monotonic()
        job = self.client.submit(job_spec(backend, method))
        if job["state"] in ("queued", "running"):
            job = self.client.wait(job["id"])
        seconds = time.monotonic() - began
        if job["state"] != "succeeded":
            raise JobFailed(job)
        return self._row(job, seconds)

    def _row(self, job: dict[str, Any], seconds: float) -> Row:
        backend, method = job["spec"]["engine"]["backend"], job["spec"]["calibration"]["method"]
        engine = self.client.engine(job["engine_id"])
        report = self.client.job_report(job["id"])
        plan = self.out / f"digits-{method}-{backend}.{_SUFFIXES.get(backend, 'plan')}"
        self.client.download_plan(engine["id"], plan)
        self._keep(job, report)
        accuracies = accuracies_from_report(report)
        return Row(
            backend=backend,
            method=method,
            accuracy_fp32=accuracies["fp32"],
            accuracy_int8=accuracies["int8"],
            agreement=report.get("agreement"),
            found=", ".join(step for step in ("observation", "table", "engine") if job["cache"][step] == "hit") or "-",
            seconds=seconds,
            plan_bytes=engine["bytes"],
            job_id=job["id"],
            plan=str(plan),
        )

    def _keep(self, job: dict[str, Any], report: dict[str, Any]) -> None:
        backend, method = job["spec"]["engine"]["backend"], job["spec"]["calibration"]["method"]
        for form, suffix in (("trt", "cache"), ("json", "json")):
            content = self.client.export(job["table_id"], {"format": form})
            (self.out / f"digits-{method}-table.{suffix}").write_bytes(content)
        (self.out / f"digits-{method}-{backend}-report.json").write_text(json.dumps(report, indent=2) + "\n")


def job_spec(backend: str, method: str) -> dict[str, Any]:
    """Return the demo's JobSpec as JSON."""
    engine = {"backend": backend}
    if backend == "tensorrt-rtx":
        engine["compute_capability"] = COMPUTE_CAPABILITY
    return {
        "model": "digits",
        "dataset": "digits-train",
        "calibration": {"method": method},
        "engine": engine,
        "judge": {"dataset": "digits-test", "images": JUDGE_IMAGES},
    }


def backends_of(client: Client) -> list[str]:
    """Return the backends of live workers that the demo can use, ONNX Runtime first."""
    live = {backend for worker in client.workers() if worker["alive"] for backend in worker["backends"]}
    return [backend for backend in ("onnxruntime", "tensorrt-rtx") if backend in live]


def push_digits(client: Client, out: Path) -> None:
    """Copy the packaged digits to `out`, where the curl lines find them, and push them from there."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in (_MODEL, _CALIBRATION, _TEST):
            with as_file(files("app.client") / "digits" / name) as source:
                (out / name).write_bytes(source.read_bytes())
    except OSError as error:
        raise LocalProblem(f"Cannot write to {out}: {error.strerror}. Name another folder with --out.") from error
    client.push_model(out / _MODEL, "digits")
    client.push_dataset(out / _CALIBRATION, "digits-train")
    client.push_dataset(out / _TEST, "digits-test")


def curl_lines(out: Path, server: str = DEFAULT_SERVER) -> list[str]:
    """Return shell lines that do the demo's first job without this client."""
    spec = json.dumps(job_spec("onnxruntime", METHODS[0]))
    json_type = "-H 'Content-Type: application/json'"
    uploads = [("models/digits", _MODEL), ("datasets/digits-train", _CALIBRATION), ("datasets/digits-test", _TEST)]
    return [
        *(f"curl -T {shlex.quote(str(out / name))} {server}/v1/{path}" for path, name in uploads),
        f"curl {json_type} -d '{spec}' '{server}/v1/jobs?wait=60'",
        f"curl -O -J {server}/v1/engines/ENGINE_ID/plan    # the job's engine_id",
        f"curl '{server}/v1/tables/TABLE_ID/export?format=trt' -o digits.cache    # the job's table_id",
    ]
