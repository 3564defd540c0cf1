"""The step sensitivity: what each group of INT8 nodes loses, on a few images."""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx

from app.engines.reference import Reference
from app.engines.sensitivity import IMAGES, QuantizedPair, measure_sensitivity
from app.spec import JobSpec, QuantizeSpec
from app.worker.steps.images import Chosen, choosing_files, labelled_batches
from app.worker.steps.quantize import Quantizer, read_table

Report = Callable[[dict[str, Any]], None]


def sensitivity(request: dict[str, Any], report: Report) -> dict[str, Any]:
    """Return `measure_sensitivity` of the job's Q/DQ model, and `chosen_on`: what the images are.

    request: that of the step judge without "tested", and {"table": path, "dataset": {"listing", "packs"}}.
    Raises EngineProblem, JudgeProblem, ImageCorrupt.
    """
    spec = JobSpec.model_validate(request["spec"])
    quantizer = Quantizer(onnx.load(request["model"]), read_table(request["table"]), request, report)
    chosen = choosing_files(request, spec)
    few = Chosen(chosen.files[:IMAGES], chosen.dataset, chosen.source)
    with open_reference(request, few) as reference:
        return measure_pair(quantizer, spec, reference, report) | {"chosen_on": chosen.source}


def measured_spec(spec: JobSpec, excluded: Iterable[str]) -> QuantizeSpec:
    """Return the quantize spec that is measured with: what stays float does so in FP32, for fp16 is the same to the groups."""
    return spec.quantize.excluding(excluded).model_copy(update={"float_type": "fp32"})


@contextmanager
def open_reference(request: dict[str, Any], chosen: Chosen) -> Iterator[Reference]:
    """Give the chosen images with what the FP32 model makes of them; they are in the step's folder meanwhile."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        reference = Reference(Path(folder), len(os.sched_getaffinity(0)))
        reference.add_all(Path(request["model"]), labelled_batches(request, chosen.dataset, chosen.files))
        yield reference


def measure_pair(quantizer: Quantizer, spec: JobSpec, reference: Reference, report: Report) -> dict[str, Any]:
    """Return what the groups of the Q/DQ model lose that excludes what the job names, and nothing else."""
    quantized = quantizer.quantize(measured_spec(spec, ()))
    report({"log": f"measuring the groups of INT8 nodes, each alone, on {min(IMAGES, reference.images)} images"})
    return measure_sensitivity(QuantizedPair(quantized.model, quantized.float_model, quantized.given), reference, report)
