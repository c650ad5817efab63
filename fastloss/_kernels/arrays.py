"""What the engine takes as an array, and what it says to anything else. Called only off the fast path."""

import sys

import numpy as np

from .. import interop
from ..formula import Positive, Real
from ..formula.record import frozen


def is_bfloat16(dtype):
    return dtype.name == "bfloat16" and dtype.itemsize == 2


def is_floating(dtype):
    return (dtype.kind == "f" and dtype.itemsize <= 8) or is_bfloat16(dtype)


def is_masked(value):
    """Whether it is a masked array, or a list that holds one. Importing NumPy's module of them would take some 6 ms."""
    masked = sys.modules.get("numpy.ma")
    return masked is not None and _holds(value, masked.MaskedArray)


def _holds(value, kind):
    if isinstance(value, list | tuple):
        kinds = set(map(type, value))
        if any(issubclass(each, kind) for each in kinds):
            return True
        return any(issubclass(each, list | tuple) for each in kinds) and any(_holds(each, kind) for each in value)
    return isinstance(value, kind)


def as_array(who, name, value):
    """`value` as a plain, aligned, native array of real numbers; a copy only where its memory does not serve."""
    if is_masked(value):
        raise TypeError(
            f"{who}: {name} must be a plain array, got a masked array (its mask would be lost): pass weights instead"
        )
    if interop.on_device(value):
        raise TypeError(f"{who}: {name} must be in the host's memory, as the others are, got a CUDA array")
    array = interop.as_numpy(who, name, value)
    if not (is_floating(array.dtype) or array.dtype.kind in "iub"):
        raise TypeError(
            f"{who}: {name} must hold real numbers (float16 to float64, bfloat16, integers or bool), got dtype {array.dtype}"
        )
    return np.require(array, array.dtype.newbyteorder("="), "A")


def check_floating(who, name, array):
    """Integers have no gradient to receive: the caller must say which precision is meant."""
    if not is_floating(array.dtype):
        raise TypeError(
            f"{who}: {name} must be a floating-point array, got dtype {array.dtype}: convert it, e.g. {name}.astype(float)"
        )


def check_same_dtype(who, name, array, first_name, first):
    """Inputs with gradients are of one dtype."""
    if array.dtype != first.dtype:
        raise TypeError(f"{who}: {name} must have {first_name}'s dtype {first.dtype}, got {array.dtype}")


def shape_error(who, name, shape, first_name, first_shape):
    return ValueError(f"{who}: {name} must broadcast to {first_name}'s shape {first_shape}, got {shape}")


def domain_error(who, name, domain, array, shape, index):
    index = tuple(int(i) for i in np.unravel_index(index, shape))
    value = np.broadcast_to(array, shape)[index]
    return ValueError(f"{who}: {name} must be {domain}, got {float(value):g} at index {index if len(index) != 1 else index[0]}")


def check_output(who, name, array, shape, dtype):
    """An array that results may be written into."""
    if not isinstance(array, np.ndarray) or is_masked(array):
        raise TypeError(f"{who}: {name} must be a NumPy array, got {type(array).__name__}")
    if array.shape != shape:
        raise ValueError(f"{who}: {name} must have shape {shape}, got {array.shape}")
    if array.dtype.newbyteorder("=") != dtype:
        raise ValueError(f"{who}: {name} must have dtype {dtype}, got {array.dtype}")
    if not array.dtype.isnative or not array.flags.aligned:
        raise ValueError(f"{who}: {name} must be aligned and in native byte order")
    if not array.flags.writeable:
        raise ValueError(f"{who}: {name} must be writeable, got a read-only array")


def assign(array, values):
    """Write values into an array, rounded to its dtype without a word, as the kernels round."""
    if array is not values:
        with np.errstate(all="ignore"):
            array[...] = values


def overlaps_itself(array):
    """Whether two elements may share memory: some dimension steps less far than the smaller-stepping ones reach."""
    if array.size == 0:
        return False
    reach = array.itemsize
    for step, length in sorted((abs(step), n) for step, n in zip(array.strides, array.shape, strict=True) if n > 1):
        if step < reach:
            return True
        reach += (length - 1) * step
    return False


# Candidates that the exact test of two arrays for a common element tries before it gives up.
_MOST_WORK = 1 << 16


def share_memory(a, b):
    """Whether two arrays have an element in common; True too where that would take too long to find out."""
    try:
        return np.shares_memory(a, b, max_work=_MOST_WORK)
    except np.exceptions.TooHardError:
        return True


def same_elements(a, b):
    """Whether two arrays lay the same elements over the same memory."""
    place_a, place_b = a.__array_interface__["data"], b.__array_interface__["data"]
    return place_a[0] == place_b[0] and (a.dtype, a.shape, a.strides) == (b.dtype, b.shape, b.strides)


def overlap_error(who, name, other):
    return ValueError(f"{who}: {name} must not share memory with {other}")


@frozen
class Domain:
    """What an input may hold, as the engine's scan reads it: closed ends in each precision."""

    text: str
    ends32: tuple[float, float]
    ends64: tuple[float, float]
    nan_is_outside: bool = False  # in data a NaN is no error: it stays in its place
    is_summed: bool = False

    @classmethod
    def of(cls, interval):
        return cls(str(interval), *(_closed(interval, dtype) for dtype in (np.float32, np.float64)))

    def __str__(self):
        return self.text


def _closed(interval, dtype):
    """The interval's ends; an open one is the next number of the precision that is compared."""
    with np.errstate(all="ignore"):
        low, high = dtype(interval.low), dtype(interval.high)
        low = np.nextafter(low, dtype(np.inf)) if interval.open_low else low
        high = np.nextafter(high, dtype(-np.inf)) if interval.open_high else high
    return float(low), float(high)


_DIVISOR = Positive()
_NUMBER = Real()

WEIGHTS = Domain(
    "finite and not negative",
    (0.0, float(np.finfo(np.float32).max)),
    (0.0, float(np.finfo(np.float64).max)),
    nan_is_outside=True,
    is_summed=True,
)


def as_number(who, name, value):
    """A finite number."""
    return _NUMBER.check(who, name, value)


def check_normalizer(who, value):
    try:
        return _DIVISOR.check(who, "normalizer", value)
    except (TypeError, ValueError):
        raise ValueError(f"{who}: normalizer must be a positive number or 'samples', got {value!r}") from None


def divisor_error(who, divisor, normalizer, first):
    what = "the sum of sample_weight" if normalizer is None else "normalizer"
    dtype = "float64" if first.dtype == np.float64 else "float32"
    return ValueError(
        f"{who}: {what} must be within {dtype}'s range, and its inverse too, for a {first.dtype} input, got {divisor:g}"
    )


def check_divisor(who, divisor, normalizer, first):
    """Whether what a mean divides by, and its inverse, are numbers of the precision; 0 is left to the caller."""
    real = np.finfo(np.float64 if first.dtype == np.float64 else np.float32)
    if divisor > 0 and not float(real.tiny) <= 1 / divisor <= float(real.max):
        raise divisor_error(who, divisor, normalizer, first)


def as_shape(who, name, array, first_name, shape):
    """The array, broadcast to that shape."""
    try:
        return np.broadcast_to(array, shape)
    except ValueError:
        raise ValueError(f"{who}: {name} must broadcast to {first_name} {shape}, got {array.shape}") from None


def class_weights(who, name, array, length, dtype):
    """A weight for each class, as the kernels want them."""
    array = as_array(who, name, array).copy()  # what is checked is what is used, whoever writes into the caller's meanwhile
    if array.shape != (length,):
        raise ValueError(f"{who}: {name} must have one number for each of the {length} classes, got shape {array.shape}")
    low, high = WEIGHTS.ends64 if dtype == np.float64 else WEIGHTS.ends32
    with np.errstate(all="ignore"):  # a weight may be below the precision's normal numbers
        weights = np.array(array, dtype, order="C")
        inside = (array >= low) & (array <= high)
    if not inside.all():
        wrong = float(array[~inside][0])
        within = f" in {np.dtype(dtype)}" if wrong > high and np.isfinite(wrong) else ""
        raise ValueError(f"{who}: {name} must be {WEIGHTS}{within}, got {wrong:g}")
    return weights


def label_error(who, name, length, array, shape, index):
    index = tuple(int(i) for i in np.unravel_index(index, shape))
    value = np.broadcast_to(array, shape)[index]
    return ValueError(
        f"{who}: {name} must be a class from 0 to {length - 1}, got {value} at index {index if len(index) != 1 else index[0]}"
    )


def list_error(who, name, array, shape, axis, found):
    """`found` counts along the rows, one after the other."""
    array = np.moveaxis(np.broadcast_to(array, shape), axis, -1)
    row, k = divmod(found, shape[axis])
    index = list(map(int, np.unravel_index(row, array.shape[:-1])))
    value = array[(*index, k)]
    index.insert(axis, k)
    return ValueError(
        f"{who}: {name} must be classes from 0 to {shape[axis] - 1}, ended by -1, got {value} at index {tuple(index)}"
    )
