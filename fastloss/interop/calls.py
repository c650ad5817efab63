"""Calls with arrays of other libraries: as NumPy's on the way in, as the caller's on the way out."""

import numpy as np

from .library import library_of, named


def on_device(value):
    """Whether it is an array in a GPU's memory; no library is imported to find out."""
    return not isinstance(value, np.ndarray | float | int | list | tuple) and library_of(value).on_device(value)


def number(value):
    """What a 0-d array holds; one on a GPU is waited for."""
    return library_of(value).number(value) if on_device(value) else value


def as_numpy(who, name, value):
    """The value as an array, over the same memory where NumPy can see it."""
    return library_of(value).to_numpy(who, name, value)


def writable(who, name, value):
    """An output as NumPy's array over the same memory if its library allows that; anything else as it is."""
    if value is None or type(value) is np.ndarray:
        return value
    if isinstance(value, tuple | list):
        return (
            type(value)(writable(who, f"{name}[{k}]", each) for k, each in enumerate(value)) if holds_foreign(value) else value
        )
    library = library_of(value)
    return library.to_numpy(who, name, value) if library.is_foreign and library.is_mutable else value


def is_foreign(inputs, *outputs):
    """Whether the first input, or an output, is an array of another library."""
    return any(library_of(first).is_foreign for first in inputs[:1]) or any(map(holds_foreign, outputs))


def holds_foreign(out):
    """Whether an output, or one of several, is an array of another library."""
    if isinstance(out, tuple | list):
        return any(library_of(each).is_foreign for each in out)
    return library_of(out).is_foreign


def evaluate(plan, want, inputs, sample_weight, reduction, normalizer, value_out, grad_out, hess_out, check, *others):
    """`plan.evaluate` with arrays of other libraries: results are of the first input's, outputs the given ones."""
    who, outputs = plan.who, {"value_out": value_out, "grad_out": grad_out, "hess_out": hess_out}
    first = inputs[0] if inputs else None
    inputs = tuple(
        as_numpy(who, name, x) if library_of(x).is_foreign else x for name, x in zip(plan.inputs, inputs, strict=False)
    )
    arrays = [_output(who, name, out) for name, out in outputs.items()]
    results = plan.evaluate(want, inputs, sample_weight, reduction, normalizer, *arrays, check, *others)
    # A Hessian-vector product goes where a gradient does.
    wanted = [out for out, bits in ((value_out, 1), (grad_out, 2 | 8), (hess_out, 4)) if want & bits]
    given = [_given(result, out, first) for result, out in zip(results, wanted, strict=False)]
    return (*given, *(in_kind(result, first) for result in results[len(wanted) :]))


def _output(who, name, out):
    out = writable(who, name, out)
    if holds_foreign(out):
        wrong = next(each for each in (out if isinstance(out, tuple | list) else [out]) if library_of(each).is_foreign)
        raise TypeError(f"{who}: {name} must be a NumPy array or a PyTorch tensor, got {named(wrong)}")
    return out


def _given(result, out, first):
    """A result as its caller gets it: the output that was given for it, or an array of the caller's library."""
    if isinstance(result, tuple):
        outs = out if out is not None else (None,) * len(result)
        return tuple(_given(each, own, first) for each, own in zip(result, outs, strict=True))
    return in_kind(result, first) if out is None else out


def in_kind(result, like):
    """An array as one of the library of `like`, with its labels where it has its rows; anything else as it is."""
    if isinstance(result, dict):
        return {name: in_kind(each, like) for name, each in result.items()}
    return library_of(like).from_numpy(result, like) if isinstance(result, np.ndarray) else result
