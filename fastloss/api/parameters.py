"""What an optimizer is given: arrays in a structure, ways to keep them, gradients of some rows; checked, and put in order."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from .. import interop
from .._kernels import arrays


class SparseRows(NamedTuple):
    """A gradient that is 0 but for some rows: row numbers of shape (n,), and values of shape (n, ...) like the parameter's rows.

    The other rows stay as they are, and their states too; a row that is there several times has the sum of its values. A rule that
    looks at whole tensors looks at the rows that move, all together.
    """

    rows: Any
    values: Any


def floating_dtype(who, name, given):
    """A floating dtype of two to eight bytes."""
    if given == "bfloat16":
        given = interop.bfloat16(who)
    try:
        dtype = np.dtype(given)
    except TypeError:
        dtype = None
    if dtype is None or not arrays.is_floating(dtype) or dtype.byteorder == ">":
        raise TypeError(f"{who}: {name} must be float64, float32, float16 or bfloat16, got {given!r}")
    return dtype


def state_dtypes(who, states, given):
    """{state: dtype} of what was asked for."""
    if given is None:
        return {}
    if not isinstance(given, dict):
        return dict.fromkeys(states, floating_dtype(who, "state_dtype", given))
    unknown = [name for name in given if name not in (*states, "ema")]
    if unknown:
        raise ValueError(f"{who}: state_dtype must be for states among {', '.join((*states, 'ema'))}, got {unknown[0]!r}")
    return {name: floating_dtype(who, f"state_dtype[{name!r}]", dtype) for name, dtype in given.items()}


def check_rounding(who, rounding, tensors):
    if rounding not in ("nearest", "stochastic", "compensated"):
        raise ValueError(f"{who}: rounding must be 'nearest', 'stochastic' or 'compensated', got {rounding!r}")
    for _, name, array in tensors:
        if rounding == "stochastic" and array.dtype == np.float16:
            raise TypeError(f"{who}: rounding must be 'nearest' or 'compensated' for {name} of float16, got 'stochastic'")
    return rounding


def check_seed(who, seed):
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool) or not 0 <= seed < 2**64:
        raise ValueError(f"{who}: seed must be a whole number from 0 to 2**64, got {seed!r}")
    return int(seed)


def row_gradient(who, name, param, grad):
    """Row numbers and values of a sparse gradient, every row once."""
    rows, values = np.asarray(grad.rows), np.asarray(grad.values)
    if rows.ndim != 1 or (rows.dtype.kind not in "iu" and rows.size):
        raise TypeError(
            f"{who}: the rows of the gradient of {name} must be whole numbers of shape (n,), got {rows.dtype} {rows.shape}"
        )
    if values.shape != (len(rows), *param.shape[1:]) or param.ndim == 0:
        raise ValueError(
            f"{who}: the values of the gradient of {name} must have the shape {(len(rows), *param.shape[1:])}, got {values.shape}"
        )
    outside = (rows < 0) | (rows >= param.shape[0])
    if outside.any():
        raise ValueError(
            f"{who}: the rows of the gradient of {name} must be from 0 to {param.shape[0] - 1}, got {rows[outside][0]}"
        )
    rows = rows.astype(np.int64)
    if (rows[1:] > rows[:-1]).all():
        return rows, values
    order = np.argsort(rows, kind="stable")
    rows, first = np.unique(rows[order], return_index=True)
    precision = np.float64 if param.dtype == np.float64 else np.float32
    arrays.check_floating(who, f"the gradient of {name}", values)
    return rows, np.add.reduceat(values[order].astype(precision), first, axis=0)


def of_rows(who, name, given, count, kinds):
    given = np.asarray(given)
    if given.shape != (count,) or given.dtype.kind not in kinds:
        what = "True or False" if kinds == "b" else "a number"
        raise ValueError(f"{who}: {name} must hold {what} for each of {count} rows, got {given.dtype} {given.shape}")
    return given


def check_keys(who, name, given, keys):
    if not isinstance(given, dict) or set(given) != set(keys):
        got = ", ".join(map(str, given)) if isinstance(given, dict) else type(given).__name__
        raise ValueError(f"{who}: {name} must be a dictionary of {', '.join(keys)}, got {got or 'nothing'}")


def is_group(value):
    return isinstance(value, dict) and "params" in value


def named(who, prefix, params):
    """(name, array) for every array of one group."""
    if isinstance(params, dict):
        return [(f"{prefix}[{key!r}]", array) for key, array in params.items()]
    if isinstance(params, list | tuple):
        return [(f"{prefix}[{k}]", array) for k, array in enumerate(params)]
    return [(prefix, params)]


def as_parameter(who, name, array):
    """The array that is rewritten in place: the one given, or the memory of a PyTorch tensor."""
    array = interop.writable(who, name, array)
    if type(array) is not np.ndarray:
        raise TypeError(f"{who}: {name} must be a NumPy array, for it is rewritten in place, got {type(array).__name__}")
    arrays.check_floating(who, name, array)
    arrays.check_output(who, name, array, array.shape, array.dtype.newbyteorder("="))
    return array


def match(who, name, params, grads):
    """One group's gradients, or what else comes in its structure, in the order of its parameters."""
    if isinstance(params, dict):
        # Whether something is a `Mapping` takes longer to say than whether it is a dictionary, and every step asks.
        is_mapping = type(grads) is dict or isinstance(grads, Mapping)
        if not is_mapping or set(grads) != set(params):
            got = sorted(map(str, grads)) if is_mapping else type(grads).__name__
            raise ValueError(f"{who}: {name} must be a dictionary of {sorted(map(str, params))}, got {got}")
        return [grads[key] for key in params]
    if isinstance(params, list | tuple):
        if not isinstance(grads, list | tuple) or len(grads) != len(params):
            got = f"{len(grads)}" if isinstance(grads, list | tuple) else type(grads).__name__
            raise ValueError(f"{who}: {name} must be a list of {len(params)} arrays, got {got}")
        return list(grads)
    return [grads]
