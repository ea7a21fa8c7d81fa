"""Instructions of processors that numba has no function for."""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

LANES = 64  # entries that `bits_above` looks at


def _address(context, builder, signature, arguments):
    """Pointer to ``array[position]``, the first two arguments of an intrinsic."""
    data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
    return builder.gep(data, [arguments[1]])


@intrinsic
def prefetch(_, array, position):
    """Prefetch the cache line of ``array[position]``, and the next one."""

    def generate(context, builder, signature, arguments):
        byte = ir.IntType(8).as_pointer()
        place = builder.bitcast(_address(context, builder, signature, arguments), byte)
        flags = [ir.IntType(32)(flag) for flag in (0, 3, 1)]  # to read, often, data
        kind = ir.FunctionType(ir.VoidType(), [place.type, *(flag.type for flag in flags)])
        instruction = builder.module.declare_intrinsic("llvm.prefetch", [place.type], kind)
        for offset in (0, 64):
            builder.call(instruction, [builder.gep(place, [ir.IntType(64)(offset)]), *flags])
        return context.get_dummy_value()

    return types.void(array, position), generate


@intrinsic
def bits_above(_, array, position, limit):
    """Mark those of the `LANES` entries from ``array[position]`` on that are above ``limit``.

    The lowest bit belongs to the first entry. ``limit`` has the dtype of the array.
    """

    def generate(context, builder, signature, arguments):
        number = context.get_value_type(signature.args[0].dtype)
        lanes = ir.VectorType(number, LANES)
        place = _address(context, builder, signature, arguments)
        entries = builder.load(builder.bitcast(place, lanes.as_pointer()))
        entries.align = signature.args[0].dtype.bitwidth // 8
        zero, undefined = ir.IntType(32)(0), ir.Constant(lanes, ir.Undefined)
        first = builder.insert_element(undefined, arguments[2], zero)
        all_zero = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        limits = builder.shuffle_vector(first, undefined, all_zero)
        return builder.bitcast(builder.fcmp_ordered(">", entries, limits), ir.IntType(LANES))

    return types.uint64(array, position, limit), generate


@intrinsic
def lowest_bit(_, bits):
    """Position of the lowest bit that is set; undefined if none is."""

    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.IntType(1)(1))

    return types.uint64(bits), generate
