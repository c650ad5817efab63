# What a step is given, and what it makes of that: the norm of all gradients and the factors that scale and clip them; kernels.

cdef class StepOptions:
    """The numbers and arrays of one step. The caller of a step decides on the first ones, the optimizer fills in the others.

    `counts` are (object, attribute, value) to set once the step is taken. The norm of all gradients is computed if `measures`; if
    `skips`, the step is left out where it cannot be taken with finite numbers.
    """

    cdef public double grad_scale, max_norm, clip_value
    cdef public bint measures, skips
    cdef public object row_lr, row_mask
    cdef public list counts
    # The step's number, from 1, None where only the GPU knows; by tensor its gradient, or the rows that it is of.
    cdef public object step
    cdef public list grads
    cdef public dict sparse
    # By bucket: the kernels; the numbers that they take, of which the first is the step's; -1 where the gradients' sign is turned.
    cdef public list variants, vectors, signs
    # How far averages go towards the parameters.
    cdef public double ema_weight
    # Makes the call's result of the norm, of whether the step was left out and whether a number overflowed; and where no norm was
    # asked for, the result of a step in which none did, and of one in which one did.
    cdef public object result, usual, unusual

    def __cinit__(self, *counts):
        self.grad_scale, self.max_norm, self.clip_value = 1, INFINITY, INFINITY
        self.counts = list(counts)


cdef struct Norm:
    # raw * 2^exponent; the exponent is 0 where the norm itself is a normal number.
    double raw
    int exponent


cdef inline bint is_normal(double x) noexcept:
    return DBL_MIN <= fabs(x) <= DBL_MAX


cdef double total_norm(const Norm* norm, double grad_scale) noexcept:
    """The norm of unscaled gradients; infinite where it is beyond the doubles."""
    cdef int exponent
    cdef double by = 1 / grad_scale
    if norm.exponent == 0 and is_normal(by):
        return by * norm.raw
    by = 1 / frexp(grad_scale, &exponent)
    return ldexp(by * norm.raw, norm.exponent - exponent)


cdef bint set_factors(Factor* factors, list signs, double grad_scale, const Norm* norm, double max_norm) except -1:
    """What each group's gradients are multiplied by: its sign, the inverse scale, and what clips them; whether one is not 1."""
    cdef double by = 1 / grad_scale
    cdef double total = total_norm(norm, grad_scale)
    cdef bint clips = total > max_norm
    cdef double down = max_norm / total if clips else 1
    cdef double most
    cdef int exponent = 0, other
    cdef Factor factor
    cdef Py_ssize_t k
    cdef bint scales
    if is_normal(by * down) or (by * down == 0 and norm.raw == INFINITY):
        factor.first, factor.second = by * down, 1
    else:
        if clips:
            most = frexp(max_norm, &exponent)
            factor.first = most / frexp(norm.raw, &other)
            exponent -= other + norm.exponent
        else:
            factor.first = 1 / frexp(grad_scale, &other)
            exponent = -other
        # Two factors of about one size: each is a normal number, and so is their product with an element if the result is.
        exponent = max(-2000, min(exponent, 2000))
        factor.first = ldexp(factor.first, exponent // 2)
        factor.second = ldexp(1, exponent - exponent // 2)
    factor.is_plain[F64] = factor.second == 1
    factor.is_plain[F32] = factor.second == 1 and not (0 < factor.first < FLT_MIN or FLT_MAX < factor.first < INFINITY)
    scales = factor.first != 1 or factor.second != 1
    for k in range(len(signs)):
        factors[k] = factor
        factors[k].first *= <double>signs[k]
        scales = scales or factors[k].first != factor.first
    return scales


cdef class RuleVariant:
    """One variant of an update rule, bound to its kernels."""

    cdef readonly str name
    cdef uniforms_function fill
    cdef kernel_function[2] kernels
    cdef object library
    # Of a rule that looks at tensors as a whole, see `Update`; the length's place among the parameters, or -1.
    cdef kernel_function[2] folds
    cdef int length
    cdef int sums
    cdef uint32_t squares
    cdef uint32_t reads
    cdef int lr_slot

    def __init__(self, name, library=None, lr_slot=-1):
        """`lr_slot` is the place of the learning rate among the numbers that the kernel takes, -1 if it has none."""
        self.name, self.library, self.lr_slot = name, _tiles if library is None else library, lr_slot
        self.fill = <uniforms_function>address_in(self.library, name + "_uniforms")
        layout = self.library.layout(name) or {"length": -1, "squares": [], "reads": []}
        self.length, self.sums = layout["length"], len(layout["squares"])
        self.squares = sum(1 << f for f, is_square in enumerate(layout["squares"]) if is_square)
        self.reads = sum(1 << k for k in layout["reads"])
        for precision, real in ((F32, "f32"), (F64, "f64")):
            self.kernels[precision] = <kernel_function>address_in(self.library, f"{name}_step_{real}")
            if self.sums:
                self.folds[precision] = <kernel_function>address_in(self.library, f"{name}_fold_{real}")
