"""The yardstick: the FP32 model run by onnxruntime on all images and nothing else."""

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import onnxruntime as ort

from app.bench.meter import Meter
from app.bench.subject import Subject, fill_batch
from app.observers.lanes import take_threads
from app.observers.warm import warm_runtime


def plain(request: dict[str, Any], _report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Run the model on all images; return what a Meter does.

    request: {"subject", "threads": "one session, all threads" or "one thread per core", "batch": images a run}. A model
    whose batch is fixed is run with that.
    """
    subject = Subject.from_json(request["subject"])
    cores = len(os.sched_getaffinity(0))
    is_wide = request["threads"] == "one session, all threads"
    # As where ours begins: the runtime has run, threads are there, each on a core of its own where all cores have one.
    warm_runtime()
    pool = take_threads(1 if is_wide else cores)
    meter = Meter()
    options = ort.SessionOptions()
    options.intra_op_num_threads = cores if is_wide else 1
    options.log_severity_level = 4
    session = ort.InferenceSession(subject.model, options, providers=["CPUExecutionProvider"])
    fixed = session.get_inputs()[0].shape[0]
    batch = fixed if isinstance(fixed, int) else request["batch"]
    meter.started()
    with pool:
        _run_all(session, subject, batch, pool, 2 if is_wide else 2 * cores)
    return meter.ended()


def _run_all(session: ort.InferenceSession, subject: Subject, batch: int, pool: ThreadPoolExecutor, ahead: int) -> None:
    name = session.get_inputs()[0].name
    running: deque[Future[Any]] = deque()
    is_fixed = isinstance(session.get_inputs()[0].shape[0], int)
    for images in subject.batches(batch):
        given = fill_batch(images, batch) if is_fixed else images
        running.append(pool.submit(session.run, None, {name: given}))
        if len(running) > ahead:
            running.popleft().result()
    for future in running:
        future.result()
