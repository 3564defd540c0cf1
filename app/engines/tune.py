"""Tune a Q/DQ model on images: weights rounded with each other in mind, biases corrected for the error to expect.

One pass of the float model over the images says what every INT8 node reads; what is learned of a node does not depend on
the others, so it stays true whichever of them stay float.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from app.engines.backend import Report
from app.engines.onnxruntime import OnnxRuntimeRunner, open_session, session_options
from app.quant.bias_correction import add_to_biases, channel_means, detach_nodes
from app.quant.gptq import round_weights
from app.quant.gram import GramSum
from app.quant.int8_nodes import find_int8_nodes
from app.quant.tunable import TunableNode, find_tunable, portions, store_values

#: Gram matrices held at a time; with more of them there are more passes over the images.
_GRAM_BYTES = 512 << 20
_MAX_PROTOBUF_BYTES = 1_900_000_000
_LEAST, _LARGEST = -128, 127

Images = Callable[[], Iterable[np.ndarray]]


@dataclass(frozen=True)
class TuneSpec:
    """What is done, on how many images, with how many threads."""

    corrects_bias: bool
    rounds_weights: bool
    images: int
    threads: int = 1


@dataclass
class _Seen:
    """Sums over all rows (images) of one tensor: as it is, and rounded to its INT8 grid."""

    rows: int = 0
    plain: np.ndarray = field(default_factory=lambda: np.zeros(()))
    rounded: np.ndarray = field(default_factory=lambda: np.zeros(()))

    def add(self, values: np.ndarray, rounded: np.ndarray) -> None:
        self.rows += len(values)
        self.plain = self.plain + values.sum(axis=0, dtype=np.float64)
        self.rounded = self.rounded + rounded.sum(axis=0, dtype=np.float64)

    def means(self) -> tuple[np.ndarray, np.ndarray]:
        return (self.plain / self.rows)[None].astype(np.float32), (self.rounded / self.rows)[None].astype(np.float32)


@dataclass(frozen=True)
class Learned:
    """What tuning found, by the node's first output: int8 weights, and what its output channels lack (float64)."""

    images: int
    values: dict[str, np.ndarray]
    corrections: dict[str, np.ndarray]
    left: dict[str, str]

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
    """Learns how to tune `quantized` from what the nodes of `float_model` read."""

    def __init__(self, float_model: onnx.ModelProto, quantized: onnx.ModelProto, spec: TuneSpec) -> None:
        self._float, self._spec = float_model, spec
        self._nodes, self._refused = find_tunable(float_model, quantized)
        self._input = float_model.graph.input[0].name
        self._values: dict[str, np.ndarray] = {}
        self._corrections: dict[str, np.ndarray] = {}

    def learn(self, images: Images, report: Report) -> Learned:
        """Return what the images say; `images` yields float32[N, ...], each time from the start. Raises EngineProblem."""
        lists = list(portions(self._nodes, _GRAM_BYTES)) if self._spec.rounds_weights else [self._nodes]
        with tempfile.TemporaryDirectory() as folder:
            for number, nodes in enumerate(lists):
                steps = _Steps(report, number * self._spec.images, len(lists) * self._spec.images)
                self._learn(nodes, images, Path(folder), steps)
        return Learned(self._spec.images, self._values, self._corrections, self._refused)

    def _learn(self, nodes: list[TunableNode], images: Images, folder: Path, steps: "_Steps") -> None:
        if not nodes:
            return
        seen, grams = self._collect(nodes, images, folder, steps)
        if self._spec.rounds_weights:
            for node in (node for node in nodes if node.columns is not None):
                self._values[node.output] = _rounded(node, grams[node.output].matrix())
        if self._spec.corrects_bias:
            self._corrections |= self._expected_errors(nodes, seen, folder)

    def _collect(
        self, nodes: list[TunableNode], images: Images, folder: Path, steps: "_Steps"
    ) -> tuple[dict[str, _Seen], dict[str, GramSum]]:
        seen: dict[str, _Seen] = {}
        grams: dict[str, GramSum] = {}
        readers = {node.activation.tensor: node for node in nodes}
        for values in self._run_all(list(readers), images(), folder):
            rounded = {name: _on_grid(values[name], node.activation.scale) for name, node in readers.items()}
            for name, node in readers.items():
                as_rows = (lambda array: array) if node.is_image_wise else _as_rows
                seen.setdefault(name, _Seen()).add(as_rows(values[name]), as_rows(rounded[name]))
            if self._spec.rounds_weights:
                for node in (node for node in nodes if node.columns is not None):
                    assert node.columns is not None
                    columns = node.columns.of_batch(rounded[node.activation.tensor])
                    grams.setdefault(node.output, GramSum()).add(columns)
            steps.add(len(values[self._input]))
        return seen, grams

    def _run_all(self, names: list[str], batches: Iterable[np.ndarray], folder: Path) -> Iterator[dict[str, np.ndarray]]:
        path = _with_outputs(self._float, [name for name in names if name != self._input], folder / "float.onnx")
        runner = OnnxRuntimeRunner(open_session(path, session_options(self._spec.threads)))
        for batch in batches:
            yield runner.run(batch) | {self._input: batch}

    def _expected_errors(self, nodes: list[TunableNode], seen: dict[str, _Seen], folder: Path) -> dict[str, np.ndarray]:
        means = {node.output: seen[node.activation.tensor].means() for node in nodes}
        int8 = {node.output: node.stored.spread_scales() * self._int8(node) for node in nodes}
        wanted = self._run_detached([(node, node.weight, means[node.output][0]) for node in nodes], folder)
        found = self._run_detached([(node, int8[node.output], means[node.output][1]) for node in nodes], folder)
        return {node.output: wanted[node.output] - found[node.output] for node in nodes}

    def _int8(self, node: TunableNode) -> np.ndarray:
        return self._values.get(node.output, node.stored.values).astype(np.float64)

    def _run_detached(self, rows: list[tuple[TunableNode, np.ndarray, np.ndarray]], folder: Path) -> dict[str, np.ndarray]:
        detached = [node.detached(weight) for node, weight, _ in rows]
        path = folder / "detached.onnx"
        _save(detach_nodes(detached, self._float.opset_import), path)
        session = open_session(path, session_options(self._spec.threads))
        names = [node.output for node, _, _ in rows]
        feeds = {each.given: mean for each, (_, _, mean) in zip(detached, rows, strict=True)}
        outputs = [np.asarray(output) for output in session.run(names, feeds)]
        return {node.output: channel_means(node.node, output) for (node, _, _), output in zip(rows, outputs, strict=True)}


class _Steps:
    """Tells the progress of one pass among several."""

    def __init__(self, report: Report, done: int, total: int) -> None:
        self._report, self._done, self._total = report, done, total

    def add(self, images: int) -> None:
        self._done += images
        self._report({"progress": [min(self._done, self._total), self._total]})


def _rounded(node: TunableNode, gram: np.ndarray) -> np.ndarray:
    assert node.columns is not None
    scales = node.columns.rows(np.broadcast_to(node.stored.spread_scales(), node.weight.shape))[:, :, :1]
    return node.columns.weight(round_weights(node.columns.rows(node.weight), scales, gram))


def _on_grid(values: np.ndarray, scale: np.float32) -> np.ndarray:
    return np.clip(np.rint(values / scale), _LEAST, _LARGEST) * scale


def _as_rows(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, values.shape[-1])


def _with_outputs(model: onnx.ModelProto, names: list[str], path: Path) -> Path:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    _save(copy, path)
    return path


def _save(model: onnx.ModelProto, path: Path) -> None:
    onnx.save_model(model, path, save_as_external_data=model.ByteSize() > _MAX_PROTOBUF_BYTES, location=f"{path.name}.data")
