"""Gram matrices of what the weights of a node are multiplied with: the sums of x x^T over positions and images."""

from dataclasses import dataclass, field

import numpy as np
import onnx

from app.quant.nodes import get_attribute, get_int

#: Of one image about K positions are looked at, within these bounds, evenly spread: neighbours say nearly the same.
_FEWEST_POSITIONS, _MOST_POSITIONS = 128, 1024
#: So many values are summed up at once.
_SUMMED = 4 << 20


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

    def of_batch(self, batch: np.ndarray) -> np.ndarray:
        """Return float32[groups, K, positions] of an input with the batch first."""
        return np.concatenate([self._of_image(image) for image in batch], axis=2)

    def _of_image(self, image: np.ndarray) -> np.ndarray:
        if self.node.op_type != "Conv":
            return image.astype(np.float32, copy=False).reshape(1, -1, self.length).transpose(0, 2, 1)
        patches = _patches(self.node, image, self.weight_shape[2:])
        rank = len(self.weight_shape) - 2
        positions = patches.shape[1 : 1 + rank]
        wanted = min(max(self.length, _FEWEST_POSITIONS), _MOST_POSITIONS)
        every = int(np.ceil((np.prod(positions) / wanted) ** (1 / rank)))
        chosen = patches[(slice(None), *[slice(None, None, every)] * rank)]
        # [channels, positions..., kernel...] -> [groups, channels of one, kernel, positions]
        moved = np.moveaxis(chosen, range(1, 1 + rank), range(-rank, 0))
        return np.ascontiguousarray(moved, np.float32).reshape(self.groups, self.length, -1)


@dataclass
class GramSum:
    """Adds columns up to their Gram matrix, as many at once as make one product worth its sum."""

    total: np.ndarray | None = None
    _waiting: list[np.ndarray] = field(default_factory=list)

    def add(self, columns: np.ndarray) -> None:
        """Count float32[groups, K, positions]."""
        self._waiting.append(columns)
        if sum(each.size for each in self._waiting) >= _SUMMED:
            self._sum_up()

    def matrix(self) -> np.ndarray:
        """Return float64[groups, K, K]: the sum of x x^T over all columns x."""
        if self._waiting:
            self._sum_up()
        assert self.total is not None
        return self.total

    def _sum_up(self) -> None:
        columns = np.concatenate(self._waiting, axis=2)
        self._waiting.clear()
        # One group's product is one of a matrix with its own transpose, of which BLAS computes half.
        product = (columns[0] @ columns[0].T)[None] if len(columns) == 1 else columns @ columns.transpose(0, 2, 1)
        if self.total is None:
            self.total = product.astype(np.float64)
        else:
            self.total += product


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
