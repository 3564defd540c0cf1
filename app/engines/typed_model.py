"""The model in the types that a strongly typed engine shall compute in."""

from pathlib import Path

import onnx

from app.engines.backend import BuildRequest
from app.quant.float16 import float16_from_model
from app.quant.qdq import model_to_bytes


def typed_model(request: BuildRequest) -> tuple[Path, list[dict[str, str]]]:
    """Return the model's path, for fp16 that of a copy beside the plan, and what of it had to stay fp32."""
    if request.precision != "fp16":
        return request.model, []
    model, kept = float16_from_model(onnx.load(request.model))
    path = request.plan.with_name(f"{request.plan.name}.fp16.onnx")
    path.write_bytes(model_to_bytes(model))
    return path, kept
