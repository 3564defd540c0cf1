"""Round weights so that the outputs move least: each rounding error is made up for by the weights not yet rounded.

Source: Frantar, Ashkboos, Hoefler, Alistarh: GPTQ (2022), after the Optimal Brain Surgeon. With H the Gram matrix of the
inputs and U the upper Cholesky factor of H^-1, column i is rounded and the columns behind it change by
-(error / U[i, i]) * U[i, i+1:]. The columns with the largest inputs go first. The scales stay what they are.
"""

import numpy as np

#: Added to the diagonal of H, as a share of its mean: H of few images is not to be trusted to the last digit.
DAMPING = 0.01
#: Columns that are updated one by one before the rest is, all at once.
_BLOCK = 128
_LARGEST = 127


def round_weights(weight: np.ndarray, scales: np.ndarray, gram: np.ndarray) -> np.ndarray:
    """Return int8[groups, O, K] for weight float[groups, O, K], scales that broadcast over it, gram float64[groups, K, K].

    The sum over the inputs x of |(weight - scales * result) x|^2 is small, not minimal. Columns whose inputs were always
    zero are rounded to the nearest.
    """
    order = np.argsort(-np.diagonal(gram, axis1=1, axis2=2), axis=1, kind="stable")
    factors = _factors(np.take_along_axis(np.take_along_axis(gram, order[:, :, None], 1), order[:, None, :], 2))
    left = np.take_along_axis(np.divide(weight, scales, dtype=np.float64), order[:, None, :], 2)
    rounded = np.empty_like(left)
    columns = left.shape[2]
    for start in range(0, columns, _BLOCK):
        stop = min(start + _BLOCK, columns)
        errors = _round_block(left, rounded, factors, (start, stop))
        left[:, :, stop:] -= errors @ factors[:, start:stop, stop:]
    result = np.empty_like(rounded)
    np.put_along_axis(result, np.broadcast_to(order[:, None, :], result.shape), rounded, 2)
    return result.astype(np.int8)


def _round_block(left: np.ndarray, rounded: np.ndarray, factors: np.ndarray, block: tuple[int, int]) -> np.ndarray:
    start, stop = block
    errors = np.empty((*left.shape[:2], stop - start))
    for column in range(start, stop):
        rounded[:, :, column] = np.clip(np.rint(left[:, :, column]), -_LARGEST, _LARGEST)
        error = (left[:, :, column] - rounded[:, :, column]) / factors[:, column, column, None]
        left[:, :, column + 1 : stop] -= error[:, :, None] * factors[:, None, column, column + 1 : stop]
        errors[:, :, column - start] = error
    return errors


def _factors(gram: np.ndarray) -> np.ndarray:
    """Return U, upper triangular, of gram^-1 = U^T U, for each group."""
    damped = gram.copy()
    diagonal = np.einsum("gii->gi", damped)
    mean = diagonal.mean(axis=1, keepdims=True)
    diagonal += np.where(mean > 0, DAMPING * mean, 1.0)
    return np.linalg.cholesky(np.linalg.inv(damped)).transpose(0, 2, 1)
