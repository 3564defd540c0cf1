"""Which tensors TensorRT's ONNX parser makes of a model: a calibration cache without a warning lists all float ones."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from app.quant.trt_names import measure_constant

#: Layers that hand on the values of their first input.
_KEEPING = ("SHUFFLE", "IDENTITY", "CAST")
#: Activation functions whose values never exceed 1: the parser makes a HardSwish of a HARD_SIGMOID and a product.
_UNIT = ("HARD_SIGMOID", "SIGMOID", "SOFTSIGN", "TANH")


@dataclass(frozen=True)
class NetworkTensor:
    """A float tensor of the network: `amax` where its layer is a constant or bounds it, `same_as` where it hands one on."""

    name: str
    amax: float | None = None
    same_as: str | None = None


def find_network_tensors(model: Path, method: str = "minmax") -> list[NetworkTensor] | None:
    """Return the float tensors in the order of the network; None where no parser is installed, or it refuses the model.

    The parser is TensorRT-RTX's, which needs no GPU; it gives the names that TensorRT 10 writes into its caches. Constants
    have the range that a calibrator gives them by that method.
    """
    trt = _find_parser()
    if trt is None:
        return None
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(model)):
        return None
    tensors = [NetworkTensor(network.get_input(number).name) for number in range(network.num_inputs)]
    for number in range(network.num_layers):
        tensors.extend(_outputs(trt, network.get_layer(number), method))
    return tensors


def parser_name() -> str | None:
    """Return the parser with its version, None where there is none."""
    trt = _find_parser()
    return f"tensorrt-rtx {trt.__version__}" if trt else None


def _outputs(trt: ModuleType, layer: Any, method: str) -> list[NetworkTensor]:
    kind = layer.type.name
    outputs = [layer.get_output(number) for number in range(layer.num_outputs)]
    floats = [output.name for output in outputs if output.dtype in (trt.float32, trt.float16)]
    source = layer.get_input(0).name if kind in _KEEPING and layer.num_inputs else None
    amax = _amax(trt, layer, method) if floats else None
    return [NetworkTensor(name, amax, source) for name in floats]


def _amax(trt: ModuleType, layer: Any, method: str) -> float | None:
    kind = layer.type.name
    if kind == "ACTIVATION":
        layer.__class__ = trt.IActivationLayer
    if kind == "SOFTMAX" or (kind == "ACTIVATION" and layer.type.name in _UNIT):
        return 1.0
    if kind != "CONSTANT":
        return None
    layer.__class__ = trt.IConstantLayer
    values = np.asarray(layer.weights, np.float32)
    return measure_constant(values, method) if np.isfinite(values).all() else None


def _find_parser() -> ModuleType | None:
    try:
        return import_module("tensorrt_rtx")
    except (ImportError, OSError):  # OSError: the package is there, a library that it loads is not
        return None
