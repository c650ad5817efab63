"""Gradients of several parts of a batch, added up."""

from typing import Any

from .._kernels import arrays
from .._kernels.cpu import norms
from ..api.parameters import SparseRows
from .arithmetic import Add, named, over


def accumulate(into: Any, grads: Any, scale: float = 1.0) -> None:
    r"""Add a multiple of gradients to a buffer, in place.

    .. math:: b \leftarrow b + s\, g

    It is computed in float32, or in float64 where the buffer or the gradient is float64, and rounded once. Denormal numbers
    count as 0.

    Parameters
    ----------
    into : numpy.ndarray, list, dict, or list of these for groups
        The buffers, of any floating dtypes and layouts.
    grads : numpy.ndarray, list or dict
        The gradients in the structure of `into`, of any floating dtypes and layouts. An entry may be `SparseRows`, which are
        computed in the buffer's precision.
    scale : float, default 1.0
        What the gradients are multiplied by, such as 1 / the number of parts. A real number.

    Raises
    ------
    ValueError, TypeError
        As `Optimizer.step` does, before anything is written.

    Examples
    --------
    >>> import numpy as np, fastloss as fl
    >>> total = np.zeros(2)
    >>> for grad in (np.array([1.0, 2.0]), np.array([3.0, 6.0])):
    ...     fl.accumulate(total, grad, scale=0.5)
    >>> total
    array([2., 4.])
    """
    who = "accumulate"
    adder = over(Add, who, "into", into, scale=scale)
    given, wide = adder._flat(grads), {}
    for k, (_, name, buffer) in enumerate(adder._tensors):
        if type(given[k]) is SparseRows or buffer.dtype == "float64":
            continue
        grad = arrays.as_array(who, f"the gradient of {name}", given[k])
        if grad.dtype == "float64":
            if grad.shape != buffer.shape:
                raise ValueError(f"{who}: the gradient of {name} must have its shape {buffer.shape}, got {grad.shape}")
            # Summed beside the buffer, and rounded from the sum in double: the engine keeps a copy in the buffer's dtype.
            beside = named(Add, who, "into")(buffer.astype("float64"), scale=scale, copy_dtype=buffer.dtype)
            beside.step(grad)
            given[k], wide[k] = norms.everywhere(0.0, grad.shape), beside.copies
    adder.step(adder._structured(given))
    for k, total in wide.items():
        adder._tensors[k][2][...] = total
