"""Write the model that is observed where its weights will be equalized."""

from pathlib import Path

import onnx

from app.quant.equalize import equalize_model
from app.quant.graph import find_activations, prepare_model

_MAX_PROTOBUF_BYTES = 1_900_000_000


def write_equalized(model_path: Path, out: Path) -> tuple[Path, set[str]]:
    """Write the model prepared and equalized, as `quantize_model` does it; return its path and its activations' names."""
    model = prepare_model(onnx.load(model_path))
    equalize_model(model)
    is_large = model.ByteSize() > _MAX_PROTOBUF_BYTES
    onnx.save_model(model, out, save_as_external_data=is_large, location=f"{out.name}.data")
    return out, set(find_activations(model))
