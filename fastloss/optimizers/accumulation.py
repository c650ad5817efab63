"""Gradients of several parts of a batch, added up."""

from typing import Any

from .._kernels import arrays
from ..api.parameters import SparseRows
from ..formula import Real
from .arithmetic import Add
from .writers import over

# Between them are the normal numbers of float32.
_SMALLEST, _LARGEST = 2.0**-126, 2.0**128 - 2.0**104


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
    scale = Real().check(who, "scale", scale)
    adder = over(Add, who, "into", into, scale=scale)
    tree = adder._tree
    given = tree.flatten(grads)
    for k, grad in enumerate(given):
        if type(grad) is not SparseRows:
            given[k] = arrays.as_array(who, f"the gradient of {tree.names[k]}", grad)
    # A scale that is no normal number of float32 is none in it, but the product may be.
    beyond = scale != 0 and not _SMALLEST <= abs(scale) <= _LARGEST
    wide = [beyond or (type(grad) is not SparseRows and grad.dtype == "float64") for grad in given]
    if any(wide):
        adder._compute_in_double(wide)
    adder.step(tree.unflatten(given))
