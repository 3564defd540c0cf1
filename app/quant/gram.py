"""Gram matrices of what the weights of a node are multiplied with: the sums of x x^T over positions and images."""

from dataclasses import dataclass

import numpy as np
import onnx

from app.quant.nodes import get_attribute, get_int

#: Of one image so many positions are looked at, evenly spread: neighbours say nearly the same.
_MOST_POSITIONS = 1024


@dataclass(frozen=True)
class Columns:
    """How the inputs of a node become columns: x is float[groups, K, positions], the weight float[groups, O, K].

    An output channel of group g is a row of weight[g] times a column of x[g], plus bias.
    """

    node: onnx.NodeProto
    weight_shape: tuple[int, ...]

    @property
    def groups(self) -> int:
        return get_int(self.node, "group", 1) if self.node.op_type == "Conv" else 1

    @property
    def length(self) -> int:
        """K: how many inputs make one output."""
        return int(np.prod(self.weight_shape)) // self._outputs

    @property
    def _outputs(self) -> int:
        return self.weight_shape[0] if self._has_outputs_first else self.weight_shape[1]

    @property
    def _has_outputs_first(self) -> bool:
        return self.node.op_type == "Conv" or (self.node.op_type == "Gemm" and bool(get_int(self.node, "transB", 0)))

    def rows(self, weight: np.ndarray) -> np.ndarray:
        """Return the weight, or anything of its shape, as [groups, O, K]."""
        flat = weight.reshape(self._outputs, -1) if self._has_outputs_first else weight.T
        return flat.reshape(self.groups, -1, self.length)

    def weight(self, rows: np.ndarray) -> np.ndarray:
        """Return rows [groups, O, K] in the shape of the weight."""
        flat = rows.reshape(self._outputs, self.length)
        return flat.reshape(self.weight_shape) if self._has_outputs_first else flat.T

    def gram(self, batch: np.ndarray) -> np.ndarray:
        """Return float64[groups, K, K] summed over the positions of all images of an input, the batch first."""
        total = np.zeros((self.groups, self.length, self.length))
        for image in batch:
            columns = self._of_image(image)
            total += columns @ columns.transpose(0, 2, 1)
        return total

    def _of_image(self, image: np.ndarray) -> np.ndarray:
        if self.node.op_type != "Conv":
            return image.reshape(1, -1, self.length).transpose(0, 2, 1)
        patches = _patches(self.node, image, self.weight_shape[2:])
        rank = len(self.weight_shape) - 2
        positions = patches.shape[1 : 1 + rank]
        every = int(np.ceil((np.prod(positions) / _MOST_POSITIONS) ** (1 / rank)))
        chosen = patches[(slice(None), *[slice(None, None, every)] * rank)]
        # [channels, positions..., kernel...] -> [groups, channels of one, kernel, positions]
        moved = np.moveaxis(chosen, range(1, 1 + rank), range(-rank, 0))
        return np.ascontiguousarray(moved, np.float32).reshape(self.groups, self.length, -1)


def find_columns(node: onnx.NodeProto, weight: np.ndarray, position: int) -> Columns | None:
    """Return how node's input becomes columns; None for what is not told apart here.

    Told apart are Conv with explicit or no padding, Gemm without transA and scaling, MatMul of an activation and a matrix.
    """
    if position != 1:
        return None
    is_known = {
        "Conv": weight.ndim > 2 and get_attribute(node, "auto_pad", b"NOTSET") in (b"NOTSET", b"VALID"),
        "Gemm": not get_int(node, "transA", 0) and get_attribute(node, "alpha", 1.0) == 1.0,
        "MatMul": weight.ndim == 2,
    }
    return Columns(node, weight.shape) if is_known.get(node.op_type, False) else None


def _patches(conv: onnx.NodeProto, image: np.ndarray, kernel: tuple[int, ...]) -> np.ndarray:
    """Return a view float[channels, positions..., kernel...] of image float[channels, sizes...]."""
    rank = len(kernel)
    pads, strides, dilations = (
        list(get_attribute(conv, name) or default)  # pyright: ignore[reportArgumentType] - ints, by ONNX
        for name, default in (("pads", [0] * 2 * rank), ("strides", [1] * rank), ("dilations", [1] * rank))
    )
    padded = np.pad(image, [(0, 0), *zip(pads[:rank], pads[rank:], strict=True)])
    reach = tuple((size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=tuple(range(1, rank + 1)))
    return windows[(slice(None), *(slice(None, None, n) for n in strides), *(slice(None, None, n) for n in dilations))]
