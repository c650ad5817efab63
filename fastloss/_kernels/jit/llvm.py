"""The operations of emitted Python as LLVM instructions: for Numba on this processor and on GPUs alike."""

from llvmlite import ir


def operations(intrinsic, types, precision):
    """The operations of a precision, made by a target's `intrinsic` for its `types`."""
    real = types.float32 if precision.f32 else types.float64
    whole = types.int32 if precision.f32 else types.int64
    of_real = ir.FloatType() if precision.f32 else ir.DoubleType()
    of_whole = ir.IntType(precision.width)

    def unary(build, argument=None, result=None):
        def operation(typing, a):
            kind = argument or a
            return (result or kind)(kind), lambda context, builder, signature, values: build(builder, *values)

        return intrinsic(operation)

    def binary(build):
        def operation(typing, a, b):
            return b(b, b), lambda context, builder, signature, values: build(builder, *values)

        return intrinsic(operation)

    def fused(typing, a, b, c):
        return real(real, real, real), lambda context, builder, signature, values: builder.fma(*values)

    def call(name):
        return lambda builder, x: builder.call(builder.module.declare_intrinsic(name, [x.type]), [x])

    def absolute(builder, x):
        # NVVM does not know llvm.fabs.
        magnitude = builder.and_(builder.bitcast(x, of_whole), ir.Constant(of_whole, (1 << (precision.width - 1)) - 1))
        return builder.bitcast(magnitude, of_real)

    def extreme(sign):
        def build(builder, a, b):
            floating = isinstance(a.type, ir.FloatType | ir.DoubleType)
            compare = builder.fcmp_ordered if floating else builder.icmp_signed
            return builder.select(compare(sign, a, b), a, b)

        return build

    def select(typing, condition, a, b):
        return a(types.boolean, a, a), lambda context, builder, signature, values: builder.select(*values)

    return {
        "real": real,
        "whole": whole,
        # A select, not a branch: what holds branches is not always vectorised.
        "where": intrinsic(select),
        "fma": intrinsic(fused),
        "lesser": binary(extreme("<")),
        "greater": binary(extreme(">")),
        "absolute": unary(absolute, real),
        "sqrt": unary(call("llvm.sqrt"), real),
        "bits": unary(lambda builder, x: builder.bitcast(x, of_whole), real, whole),
        "from_bits": unary(lambda builder, i: builder.bitcast(i, of_real), whole, real),
        "to_float": unary(lambda builder, i: builder.sitofp(i, of_real), whole, real),
    }
