"""Tune a Q/DQ model on images: weights rounded with each other in mind, biases corrected for the error to expect.

The float model is run on the images, and each INT8 node alone on what it would read of them. So what is learned of a node
does not depend on the others. It does depend on the node's own bias, weights and scales, which excluding others may change:
an activation is centred no more where one of its readers stays float, and tensors that share a scale may part.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from app.engines.backend import Report
from app.engines.onnxruntime import OnnxRuntimeRunner, open_session, session_options
from app.quant.bias_correction import ErrorSum, add_to_biases, detach_nodes
from app.quant.gptq import round_weights
from app.quant.gram import GramSum
from app.quant.int8_nodes import find_int8_nodes
from app.quant.tunable import TunableNode, find_tunable, portions, store_values

_MAX_PROTOBUF_BYTES = 1_900_000_000

Images = Callable[[], Iterable[np.ndarray]]
Tensors = dict[str, np.ndarray]


@dataclass(frozen=True)
class TuneSpec:
    """What is done, on how many images, with how many threads."""

    corrects_bias: bool
    rounds_weights: bool
    images: int
    threads: int = 1


@dataclass(frozen=True)
class Found:
    """What was learned of one node: int8 weights, and what its output channels lack (float64); None for what was not asked."""

    values: np.ndarray | None
    correction: np.ndarray | None


#: By `TunableNode.digest`.
Known = Mapping[str, Found]


@dataclass(frozen=True)
class Learned:
    """What tuning found, by the node's first output: see `Found`. `digests`: of the nodes that it was found of."""

    images: int
    values: Tensors
    corrections: Tensors
    left: dict[str, str]
    digests: dict[str, str]

    @property
    def known(self) -> Known:
        """What was found, by the digest of the node."""
        return {digest: Found(self.values.get(output), self.corrections.get(output)) for output, digest in self.digests.items()}

    def apply(self, _float_model: onnx.ModelProto, quantized: onnx.ModelProto) -> dict[str, Any]:
        """Write it into a Q/DQ model, in place; nodes that stay float there stay as they are. Return what was done.

        images: how many were looked at · rounded, corrected: nodes whose weights, or bias, were tuned · left: [{node,
        reason}] of INT8 nodes that were not.
        """
        nodes = [node for node in find_int8_nodes(quantized.graph) if node.weight is not None]
        rounded = {n.weight.stored: self.values[n.output] for n in nodes if n.weight and n.output in self.values}
        corrections = {n.output: self.corrections[n.output] for n in nodes if n.output in self.corrections}
        store_values(quantized.graph, rounded)
        refused = add_to_biases(quantized.graph, corrections)
        left = {n.output: reason for n in nodes if (reason := (self.left | refused).get(n.output))}
        return {
            "images": self.images,
            "rounded": len(rounded),
            "corrected": len(corrections) - len(refused),
            "left": [{"node": name, "reason": reason} for name, reason in left.items()],
        }


class Tuner:
    """Learns how to tune `quantized` from what the nodes of `float_model` read and make."""

    def __init__(self, float_model: onnx.ModelProto, quantized: onnx.ModelProto, spec: TuneSpec) -> None:
        self._float, self._spec = float_model, spec
        self._nodes, self._refused = find_tunable(float_model, quantized)
        self._input = float_model.graph.input[0].name
        self._values: Tensors = {}
        self._corrections: Tensors = {}

    def learn(self, images: Images, report: Report, known: Known = MappingProxyType({})) -> Learned:
        """Return what the images say; `images` yields float32[N, ...], each time from the start. Raises EngineProblem.

        Nodes of which something is `known` are not looked at again. Learned beside others, a node may get other values in
        the last bits, for the runtime fuses what is not asked for: so models to keep are tuned with nothing known.
        """
        digests = {node.output: node.digest for node in self._nodes}
        self._take({output: known[digest] for output, digest in digests.items() if digest in known})
        lists = list(portions([node for node in self._nodes if digests[node.output] not in known]))
        passes = [self._learn_weights] * self._spec.rounds_weights + [self._learn_biases] * self._spec.corrects_bias
        steps = _Steps(report, len(lists) * len(passes) * self._spec.images)
        with tempfile.TemporaryDirectory() as folder:
            for nodes in lists:
                for learn in passes:
                    learn(nodes, steps.counted(images()), Path(folder))
        return Learned(self._spec.images, self._values, self._corrections, self._refused, digests)

    def _take(self, found: Mapping[str, Found]) -> None:
        self._values |= {output: each.values for output, each in found.items() if each.values is not None}
        self._corrections |= {output: each.correction for output, each in found.items() if each.correction is not None}

    def _learn_weights(self, nodes: list[TunableNode], batches: Iterable[np.ndarray], folder: Path) -> None:
        columns = {node.output: node.columns for node in nodes if node.columns is not None}
        tunable = [node for node in nodes if node.output in columns]
        grams = {output: GramSum() for output in columns}
        for values in self._run_all([node.activation.tensor for node in tunable], batches, folder):
            rounded = _on_grids(tunable, values)
            for node in tunable:
                grams[node.output].add(columns[node.output].of_batch(rounded[node.activation.tensor]))
        for node in tunable:
            own = columns[node.output]
            scales = own.rows(node.spread_scales)[:, :, :1]
            rows = round_weights(own.rows(node.weight), scales, grams[node.output].matrix())
            self._values[node.output] = own.weight(rows)

    def _learn_biases(self, nodes: list[TunableNode], batches: Iterable[np.ndarray], folder: Path) -> None:
        detached = [node.detached(self._values.get(node.output, node.stored.values)) for node in nodes]
        path = folder / "detached.onnx"
        _save(detach_nodes(detached, self._float.opset_import), path)
        session = open_session(path, session_options(self._spec.threads))
        errors = {node.output: ErrorSum(node.node.op_type, node.window) for node in nodes}
        wanted = [name for node in nodes for name in (node.activation.tensor, node.output)]
        for values in self._run_all(wanted, batches, folder):
            rounded = _on_grids(nodes, values)
            feeds = {each.given: rounded[node.activation.tensor] for each, node in zip(detached, nodes, strict=True)}
            found = session.run(list(errors), feeds)
            for node, output in zip(nodes, found, strict=True):
                errors[node.output].add(values[node.output], np.asarray(output))
        self._corrections |= {output: error.mean() for output, error in errors.items()}

    def _run_all(self, names: list[str], batches: Iterable[np.ndarray], folder: Path) -> Iterator[Tensors]:
        outputs = dict.fromkeys(name for name in names if name != self._input)
        path = folder / "float.onnx"
        _save(_with_outputs(self._float, list(outputs)), path)
        runner = OnnxRuntimeRunner(open_session(path, session_options(self._spec.threads)))
        for batch in batches:
            made = runner.run(batch) if outputs else {}  # a runtime that is asked for nothing fails
            yield made | {self._input: batch}


class _Steps:
    """Tells how many images were looked at, in all passes."""

    def __init__(self, report: Report, total: int) -> None:
        self._report, self._done, self._total = report, 0, total

    def counted(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        for batch in batches:
            yield batch
            self._done += len(batch)
            self._report({"progress": [min(self._done, self._total), self._total]})


def _on_grids(nodes: list[TunableNode], values: Tensors) -> Tensors:
    return {node.activation.tensor: node.activation.on_grid(values[node.activation.tensor]) for node in nodes}


def _with_outputs(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    return copy


def _save(model: onnx.ModelProto, path: Path) -> None:
    onnx.save_model(model, path, save_as_external_data=model.ByteSize() > _MAX_PROTOBUF_BYTES, location=f"{path.name}.data")
