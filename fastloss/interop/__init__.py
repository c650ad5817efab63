"""Arrays of other libraries: taken without a copy where their memory allows, and results handed back in the caller's kind.

A library is known by the module of a type, so none is imported here: who holds its arrays has imported it.
"""

import functools
import sys

import numpy as np

_KNOWN = {"torch": "torch", "jax": "jax", "jaxlib": "jax", "pandas": "pandas", "polars": "polars"}


@functools.lru_cache(256)
def library(kind):
    """The library that a type is of: "torch", "jax", "pandas", "polars", or None."""
    if issubclass(kind, np.ndarray | np.generic | float | int | list | tuple | dict | str):
        return None
    roots = (base.__module__.partition(".")[0] for base in kind.__mro__)
    return next((_KNOWN[root] for root in roots if root in _KNOWN), None)


def bfloat16(who):
    """The dtype, which NumPy does not have by itself."""
    try:
        from ml_dtypes import bfloat16 as dtype
    except ImportError:
        raise ImportError(f"{who}: bfloat16 needs ml_dtypes: pip install 'fastloss[state]'") from None
    return np.dtype(dtype)


def as_numpy(who, name, value):
    """The value as an array, over the same memory where NumPy can see it."""
    known = library(type(value))
    if known == "torch":
        return _from_torch(who, name, value)
    if known == "pandas":
        return _from_pandas(value)
    if known == "polars":
        return value.to_numpy()
    if known is None and not hasattr(value, "__array__") and hasattr(value, "__dlpack__"):
        try:
            return np.from_dlpack(value)
        except (RuntimeError, BufferError, TypeError) as refused:
            raise TypeError(
                f"{who}: {name} must be an array that DLPack shares with NumPy, got {_named(value)} ({refused})"
            ) from None
    return np.asarray(value)


def writable(who, name, value):
    """The memory of a PyTorch tensor as an array that may be written to; anything else as it is."""
    if value is None or type(value) is np.ndarray:
        return value
    if isinstance(value, tuple | list):
        return (
            type(value)(writable(who, f"{name}[{k}]", each) for k, each in enumerate(value)) if holds_foreign(value) else value
        )
    return _from_torch(who, name, value) if library(type(value)) == "torch" else value


def is_foreign(inputs, *outputs):
    """Whether the first input, or an output, is an array of another library."""
    return any(library(type(first)) is not None for first in inputs[:1]) or any(map(holds_foreign, outputs))


def holds_foreign(out):
    """Whether an output, or one of several, is an array of another library."""
    if isinstance(out, tuple | list):
        return any(library(type(each)) is not None for each in out)
    return library(type(out)) is not None


def evaluate(plan, want, inputs, sample_weight, reduction, normalizer, value_out, grad_out, hess_out, check, *others):
    """`plan.evaluate` for a call with arrays of other libraries: results are of the first input's kind, outputs the given ones."""
    who, outputs = plan.who, {"value_out": value_out, "grad_out": grad_out, "hess_out": hess_out}
    first = inputs[0] if inputs else None
    inputs = tuple(as_numpy(who, name, x) if library(type(x)) else x for name, x in zip(plan.inputs, inputs, strict=False))
    arrays = [_output(who, name, out) for name, out in outputs.items()]
    results = plan.evaluate(want, inputs, sample_weight, reduction, normalizer, *arrays, check, *others)
    given = [_given(result, out, first) for result, out in zip(results, outputs.values(), strict=False)]
    return (*given, *(in_kind(result, first) for result in results[3:]))


def _output(who, name, out):
    out = writable(who, name, out)
    if holds_foreign(out):
        wrong = next(each for each in (out if isinstance(out, tuple | list) else [out]) if library(type(each)))
        raise TypeError(f"{who}: {name} must be a NumPy array or a PyTorch tensor, got {_named(wrong)}")
    return out


def _given(result, out, first):
    """A result as its caller gets it: the output that was given for it, or an array of the caller's kind."""
    if isinstance(result, tuple):
        outs = out if out is not None else (None,) * len(result)
        return tuple(_given(each, own, first) for each, own in zip(result, outs, strict=True))
    return in_kind(result, first) if out is None else out


def in_kind(result, like):
    """An array as one of the library of `like`, with its labels where it has its rows; anything else as it is."""
    if isinstance(result, dict):
        return {name: in_kind(each, like) for name, each in result.items()}
    known = library(type(like))
    if known is None or not isinstance(result, np.ndarray):
        return result
    return {"torch": _to_torch, "jax": _to_jax, "pandas": _to_pandas, "polars": _to_polars}[known](result, like)


def _named(value):
    return f"{type(value).__module__.partition('.')[0]}.{type(value).__name__}"


def _from_torch(who, name, tensor):
    """A tensor's memory; what autograd knows of it stays behind."""
    torch = sys.modules["torch"]
    if tensor.device.type != "cpu":
        raise TypeError(f"{who}: {name} must be in the memory of the processor, got a tensor on {tensor.device}")
    tensor = tensor.detach()
    try:
        if tensor.dtype == torch.bfloat16:
            return tensor.view(torch.int16).numpy().view(bfloat16(who))
        return tensor.numpy()
    except (TypeError, RuntimeError) as refused:
        raise TypeError(
            f"{who}: {name} must be a plain dense tensor, got {tensor.dtype}, {tensor.layout} ({refused})"
        ) from None


def _to_torch(array, like):
    torch = sys.modules["torch"]
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _to_jax(array, like):
    jax = sys.modules["jax"]
    if (
        array.dtype == np.float64 and like.dtype == np.float64
    ):  # or JAX would make it float32, if the context that `like` is from is left
        enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
        with enable_x64(True):
            return jax.numpy.asarray(array)
    return jax.numpy.asarray(array)


def _from_pandas(value):
    """The values in order; a missing one of a nullable column is NaN."""
    dtypes = [value.dtype] if value.ndim == 1 else list(value.dtypes)
    nullable = [dtype for dtype in dtypes if not isinstance(dtype, np.dtype)]
    if nullable and all(getattr(dtype, "kind", "O") in "fiub" for dtype in dtypes):
        plain = [np.dtype(getattr(dtype, "numpy_dtype", dtype)) for dtype in dtypes]
        if value.isna().to_numpy().any():
            plain.append(np.dtype(np.float32) if all(dtype == np.float32 for dtype in plain) else np.dtype(np.float64))
            return value.to_numpy(dtype=np.result_type(*plain), na_value=np.nan)
        return value.to_numpy(dtype=np.result_type(*plain))
    return value.to_numpy()


def _to_pandas(array, like):
    """With the index of `like`; an array of another length stays as it is."""
    pandas = sys.modules["pandas"]
    if array.shape == like.shape and array.ndim == 2:
        return pandas.DataFrame(array, index=like.index, columns=like.columns, copy=False)
    if array.shape == like.shape[:1]:
        return pandas.Series(array, index=like.index, name=like.name if like.ndim == 1 else None, copy=False)
    return array


def _to_polars(array, like):
    polars = sys.modules["polars"]
    if array.shape == like.shape and array.ndim == 2:
        return polars.DataFrame(array, schema=like.columns)
    name = like.name if isinstance(like, polars.Series) else ""
    return polars.Series(name, array) if array.shape == like.shape[:1] else array
