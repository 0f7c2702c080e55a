"""A numba type for vectors of LANES float32 numbers, with the few operations that scoring needs.

Compilers do not reliably vectorise loops over single numbers. With this type a sum over frames or words is a single value, which stays in
registers. A machine with narrower registers uses several per vector.

After changing this file, delete `__pycache__`: numba's cache of compiled loops checks the file of a loop, but not the files it imports.
"""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

LANES = 16

_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_INTEGERS = ir.VectorType(ir.IntType(32), LANES)
# Allows fused multiply-add, which rounds a product and a sum only once.
_CONTRACT = ("contract",)
_LOWEST_EXPONENT = -87.0
# Minimax polynomial for exp(r) - 1 - r, |r| <= ln(2) / 2.
_LOG2_E, _LN_2_HIGH, _LN_2_LOW = 1.44269504, 0.693359375, -2.12194440e-4
_POLYNOMIAL = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)


class LanesType(types.Type):  # type: ignore[misc]
    """The numba type of a vector."""

    def __init__(self) -> None:
        super().__init__(name="Lanes")


VECTOR = LanesType()


@register_model(LanesType)
class _LanesModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _FLOATS)


def _constant(value: float) -> Any:
    return ir.Constant(_FLOATS, [float(np.float32(value))] * LANES)


def _splat(builder: Any, number: Any) -> Any:
    nothing = ir.Constant(_FLOATS, ir.Undefined)
    first = builder.insert_element(nothing, number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, nothing, ir.Constant(_INTEGERS, [0] * LANES))


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, offset: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [offset]), _FLOATS.as_pointer())


def _call(builder: Any, name: str, argument: Any) -> Any:
    """Apply an LLVM intrinsic, such as sqrt, to every lane."""
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_FLOATS, [_FLOATS]), f"llvm.{name}.v{LANES}f32")
    return builder.call(function, [argument])


def _load(_context: Any, array: Any, offset: Any) -> Any:
    """Load LANES numbers from a flat float32 array, starting at `offset`. Bounds are not checked."""

    def generate(context: Any, builder: Any, called: Any, arguments: Any) -> Any:
        return builder.load(_pointer(context, builder, called.args[0], *arguments), align=4)

    return VECTOR(array, types.intp), generate


def _store(_context: Any, array: Any, offset: Any, x: Any) -> Any:
    """Store a vector in a flat float32 array, starting at `offset`. Bounds are not checked."""

    def generate(context: Any, builder: Any, called: Any, arguments: Any) -> Any:
        builder.store(arguments[2], _pointer(context, builder, called.args[0], *arguments[:2]), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, VECTOR), generate


def _factor(_context: Any, x: Any, offset: Any) -> Any:
    """Load a vector from an array, like `load`; or, if `x` is a tuple of one array, a single number into every lane."""
    numbers = isinstance(x, types.BaseTuple)
    array = x[0] if numbers else x

    def generate(context: Any, builder: Any, _called: Any, arguments: Any) -> Any:
        if numbers:
            data = context.make_array(array)(context, builder, builder.extract_value(arguments[0], 0)).data
            return _splat(builder, builder.load(builder.gep(data, [arguments[1]])))
        return builder.load(_pointer(context, builder, array, *arguments), align=4)

    return VECTOR(x, types.intp), generate


def _fill(_context: Any, number: Any) -> Any:
    """Put the same number in every lane."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return _splat(builder, arguments[0])

    return VECTOR(types.float32), generate


def _where_greater(_context: Any, a: Any, b: Any, x: Any, y: Any) -> Any:
    """x in lanes where a > b, else y (also where a or b is NaN)."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        a, b, x, y = arguments
        return builder.select(builder.fcmp_ordered(">", a, b), x, y)

    return VECTOR(VECTOR, VECTOR, VECTOR, VECTOR), generate


def _root(_context: Any, x: Any) -> Any:
    """The square root of every lane."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return _call(builder, "sqrt", arguments[0])

    return VECTOR(VECTOR), generate


def _exp(_context: Any, x: Any) -> Any:
    """exp(x) for x <= 0, with a relative error of about 1e-7. NaN stays NaN."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        def times(a: Any, b: Any) -> Any:
            return builder.fmul(a, b, flags=_CONTRACT)

        def plus(a: Any, b: Any) -> Any:
            return builder.fadd(a, b, flags=_CONTRACT)

        low = _constant(_LOWEST_EXPONENT)
        x = builder.select(builder.fcmp_ordered("<", arguments[0], low), low, arguments[0])
        whole = _call(builder, "floor", plus(times(x, _constant(_LOG2_E)), _constant(0.5)))
        r = plus(plus(x, times(whole, _constant(-_LN_2_HIGH))), times(whole, _constant(-_LN_2_LOW)))
        poly = _constant(_POLYNOMIAL[0])
        for factor in _POLYNOMIAL[1:]:
            poly = plus(times(poly, r), _constant(factor))
        poly = plus(plus(times(times(poly, r), r), r), _constant(1.0))
        exponent = builder.add(builder.fptosi(whole, _INTEGERS), ir.Constant(_INTEGERS, [127] * LANES))
        return builder.fmul(poly, builder.bitcast(builder.shl(exponent, ir.Constant(_INTEGERS, [23] * LANES)), _FLOATS))

    return VECTOR(VECTOR), generate


def _total(_context: Any, x: Any) -> Any:
    """The sum of all lanes as a float32, added pairwise (lower half to upper half)."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        lanes = [builder.extract_element(arguments[0], ir.Constant(ir.IntType(32), lane)) for lane in range(LANES)]
        while len(lanes) > 1:
            half = len(lanes) // 2
            lanes = [builder.fadd(low, high) for low, high in zip(lanes[:half], lanes[half:], strict=True)]
        return lanes[0]

    return types.float32(VECTOR), generate


load, factor, store, fill, where_greater, root, exp, total = map(
    intrinsic, (_load, _factor, _store, _fill, _where_greater, _root, _exp, _total)
)


def _implement(operation: Callable[[Any, Any], Any], instruction: str) -> None:
    """Implement a Python operator for two vectors."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return getattr(builder, instruction)(*arguments, flags=_CONTRACT)

    infer_global(operation)(type(instruction, (ConcreteTemplate,), {"cases": [signature(VECTOR, VECTOR, VECTOR)]}))
    lower_builtin(operation, LanesType, LanesType)(generate)


for _operation, _instruction in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul"), (operator.truediv, "fdiv")):
    _implement(_operation, _instruction)
