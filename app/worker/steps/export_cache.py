"""The step export_cache: every range that TensorRT asks for when it builds from a cache, constants included."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from app.engines.network_tensors import NetworkTensor, find_network_tensors, parser_name
from app.quant.graph import find_activations
from app.quant.inner import find_inner, inner_bounds
from app.quant.trt_names import constant_amax, range_of_constant
from app.worker.steps.quantize import read_table

_RULE = "rule"


def export_cache(request: dict[str, Any], _report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Return what a cache of the table lists, and what TensorRT asks for beyond it.

    request: {"model": path, "table": path, "kept": {name: amax} of names beside the model's tensors that an imported cache
    listed or that were measured inside nodes, "listed": an imported cache's names in order}. Returns {"amax": {name: amax} in
    the order of the cache, "added": names of constants and products that TensorRT makes tensors of and nobody gave,
    "asked": how many float tensors its network has, "missing": those of them without a range, "names_from": the parser,
    or `rule` where none is installed}.
    """
    model = onnx.load(request["model"])
    stored = read_table(request["table"])
    table = stored.amax
    network = find_network_tensors(Path(request["model"]), stored.method)
    amax = table | request["kept"]
    beside = constant_amax(model.graph, stored.method) | inner_bounds(model.graph, table)
    if network is not None:
        beside = _of_network(network, beside, amax)
    added = {name: value for name, value in beside.items() if name not in amax}
    asked = (
        [tensor.name for tensor in network]
        if network is not None
        else [*find_activations(model), *beside, *find_inner(model.graph)]
    )
    known = amax | added
    order = dict.fromkeys([*request["listed"], *asked, *known])
    return {
        "amax": {name: known[name] for name in order if name in known},
        "added": list(added),
        "asked": len(set(asked)),
        "missing": [name for name in dict.fromkeys(asked) if name not in known],
        "names_from": parser_name() if network is not None else _RULE,
    }


def _of_network(network: Sequence[NetworkTensor], beside: Mapping[str, float], amax: Mapping[str, float]) -> dict[str, float]:
    """Return the ranges of the network's own tensors: constants, and what only hands another one's values on.

    What such a tensor takes from one of the model's own it also says of that one's source: the matrix of a Softmax has
    the values of the activation that is shaped from it, and TensorRT's own scale of both is the same.
    """
    found: dict[str, float] = {}
    handed_on = {tensor.same_as: amax[tensor.name] for tensor in network if tensor.same_as and tensor.name in amax}
    for tensor in network:
        source = tensor.same_as or ""
        value = beside.get(tensor.name, handed_on.get(tensor.name, tensor.amax))
        value = found.get(source, amax.get(source)) if value is None else value
        if value is not None:
            found[tensor.name] = range_of_constant(value)
    return found
