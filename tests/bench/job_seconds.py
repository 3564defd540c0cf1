"""How long small jobs take, with a spare process and without: `python -m tests.bench.job_seconds`.

From the request to the end, the digits CNN in a real server. full: 400 images, nothing known but the prepared model ·
added: 20 images more · method: another method for the same images. Medians of eight, after a first round that counts
for nothing.
"""

import io
import statistics
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import httpx

from tests.running import CALIBRATION, TEST_DIGITS, RunningServer, upload_digits

_ROUNDS, _IMAGES, _ADDED = 9, 400, 20
#: Between requests, so that a server is idle when one comes.
_PAUSE_SECONDS = 1.5


def _archive(first: int, end: int) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(CALIBRATION) as digits, zipfile.ZipFile(content, "w") as archive:
        for name in sorted(digits.namelist())[first:end]:
            archive.writestr(name, digits.read(name))
    return content.getvalue()


def _job_seconds(client: httpx.Client, dataset: str, method: str) -> float:
    time.sleep(_PAUSE_SECONDS)
    spec = {"model": "digits", "dataset": dataset, "calibration": {"method": method}, "judge": {"dataset": "test"}}
    began = time.perf_counter()
    job = client.post("/v1/jobs", params={"wait": 60}, json=spec).json()
    assert job["state"] == "succeeded", job["error"]
    return time.perf_counter() - began


def _round(client: httpx.Client, number: int) -> dict[str, float]:
    dataset, images = f"digits-{number}", _IMAGES - number
    client.put(f"/v1/datasets/{dataset}", content=_archive(0, images)).raise_for_status()
    full = _job_seconds(client, dataset, "entropy")
    client.patch(f"/v1/datasets/{dataset}", content=_archive(images, images + _ADDED)).raise_for_status()
    return {"full": full, "added": _job_seconds(client, dataset, "entropy"), "method": _job_seconds(client, dataset, "mse")}


def measure(spare: bool) -> dict[str, float]:
    """Return the median seconds of each kind of job."""
    with tempfile.TemporaryDirectory() as folder:
        server = RunningServer(Path(folder), ENGINESMITH_SPARE=str(spare).lower()).start()
        try:
            with server.client() as client:
                upload_digits(client)
                client.put("/v1/datasets/test", content=TEST_DIGITS.read_bytes()).raise_for_status()
                rounds = [_round(client, number) for number in range(_ROUNDS)][1:]
        finally:
            server.stop()
    return {kind: statistics.median(each[kind] for each in rounds) for kind in rounds[0]}


def main() -> None:
    """Measure both, in turns."""
    for spare in (True, False, True, False):
        figures = ", ".join(f"{kind} {seconds:.2f} s" for kind, seconds in measure(spare).items())
        print(f"{'spare process' if spare else 'none':14}{figures}", file=sys.stdout, flush=True)


if __name__ == "__main__":
    main()
