"""Pack what is not zero, sixteen values at a time, on CPUs that have an instruction for it (AVX-512)."""

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

#: Values that `pack_indices` takes at once.
LANES = 16


def _has_instruction() -> bool:
    try:
        return bool(llvm.get_host_cpu_features().get("avx512f"))
    except RuntimeError:  # LLVM does not know this CPU
        return False


#: Without the instruction LLVM would go through the lanes one by one.
CAN_PACK = _has_instruction()

_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_INTS, _SHORTS, _BITS = (ir.VectorType(ir.IntType(width), LANES) for width in (32, 16, 1))


def _pack_indices(_typing: Any, values: Any, first: Any, scale: Any, indices: Any, filled: Any) -> Any:
    """Write the bins of the values [first, first + LANES) that are not zero to indices[filled:]; return how many.

    values: float32, none negative · scale: float32 · indices: uint16, of which LANES are written. A bin is the value times
    scale, truncated.
    """
    return types.int64(values, types.int64, types.float32, indices, types.int64), _generate


pack_indices: Any = intrinsic(_pack_indices)


def _generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    values, first, scale, indices, filled = arguments
    x = builder.load(_address(context, builder, (signature.args[0], values), first, _FLOATS), align=4)
    bins = builder.fptosi(builder.fmul(x, _splat(builder, scale)), _INTS)
    kept = builder.fcmp_unordered("!=", x, ir.Constant(_FLOATS, [0.0] * LANES))
    compress = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(_INTS, [_INTS, _BITS, _INTS]), f"llvm.experimental.vector.compress.v{LANES}i32"
    )
    packed = builder.trunc(builder.call(compress, [bins, kept, ir.Constant(_INTS, ir.Undefined)]), _SHORTS)
    builder.store(packed, _address(context, builder, (signature.args[3], indices), filled, _SHORTS), align=2)
    return builder.zext(builder.ctpop(builder.bitcast(kept, ir.IntType(LANES))), ir.IntType(64))


def _address(context: Any, builder: Any, array: tuple[Any, Any], place: Any, kind: Any) -> Any:
    data = context.make_array(array[0])(context, builder, array[1]).data
    return builder.bitcast(builder.gep(data, [place]), kind.as_pointer())


def _splat(builder: Any, value: Any) -> Any:
    nothing = ir.Constant(_FLOATS, ir.Undefined)
    alone = builder.insert_element(nothing, value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(alone, nothing, ir.Constant(_INTS, [0] * LANES))
