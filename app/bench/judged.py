"""Judge a quantized model of whatever origin as jobs are judged: the same arithmetic, images and figures."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from app.bench.prepare import image_names
from app.bench.subject import Subject
from app.engines.judge_run import JudgedModels
from app.engines.judge_run import judge as judge_models
from app.inputs.labels import labels_from_listing
from app.quant.folding import fold_constants
from app.quant.macs import count_multiply_adds
from app.quant.nodes import Index, index_graph
from app.quant.placement import WEIGHTED_OPS
from app.quant.tensor_types import infer_types

_BATCH = 8


def judge(request: dict[str, Any], report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Return a judge's report of the model `tested`, and `float_share`: of the multiply-adds.

    request: {"subject": the images to judge on, "archive": path of their zip, for the labels, "tested": path}.
    """
    subject = Subject.from_json(request["subject"])
    names = image_names(Path(request["archive"]))
    labels = labels_from_listing({"files": [{"path": name} for name in names]}) or {}
    models = JudgedModels(Path(subject.model), Path(request["tested"]), len(os.sched_getaffinity(0)), len(names))
    batches = (
        (batch, [labels.get(name) for name in names[number * _BATCH : number * _BATCH + len(batch)]])
        for number, batch in enumerate(subject.batches(_BATCH))
    )
    return judge_models(models, batches, report) | {"float_share": float_share(onnx.load(request["tested"]))}


def float_share(model: onnx.ModelProto) -> float:
    """Return the share of the known multiply-adds in nodes that do not read both their factors in INT8; folds constants."""
    fold_constants(model)  # paddings that exporters compute are what shapes hang on
    types, index = infer_types(model), index_graph(model.graph)
    weighted = [node for node in model.graph.node if node.op_type in WEIGHTED_OPS]
    counts = {node.output[0]: count_multiply_adds(node, types) or 0 for node in weighted}
    outside = sum(counts[node.output[0]] for node in weighted if not _reads_int8(node, index))
    return outside / max(sum(counts.values()), 1)


def _reads_int8(node: onnx.NodeProto, index: Index) -> bool:
    # Of a weight the INT8 values may be stored, or (modelopt) made by a QuantizeLinear.
    makers = [index.producers.get(name) for name in node.input[:2]]
    return all(maker is not None and maker.op_type == "DequantizeLinear" for maker in makers)
