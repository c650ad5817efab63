"""Gradients made smaller where they are too large, in place; `Optimizer.step` clips by norm and by value on its way."""

import math
from typing import Any

from .._kernels import arrays
from .._kernels.cpu import norms
from ..api.parameters import holds_groups
from ..formula import Flag, Interval, Positive
from .arithmetic import Assign, Clamp, Multiply
from .writers import over

_ORDER = Interval(0.0, math.inf, open_low=True)
_CLIP = Positive()


def clip_grad_norm(grads: Any, max_norm: float, norm_type: float = 2.0, *, error_if_nonfinite: bool = False) -> float:
    r"""Scale gradients, in place, so that the norm of all of them together is at most `max_norm`.

    .. math:: g \leftarrow g \cdot \min\left(1, \frac{c}{\|g\|_p}\right)

    The norm is computed in double; one that is beyond double is given as infinity, and clipped all the same. PyTorch adds 1e-6 to
    it before it divides.

    Parameters
    ----------
    grads : numpy.ndarray, list, dict, or list of these for groups
        The gradients, of any floating dtypes and layouts.
    max_norm : float
        The largest norm. > 0.
    norm_type : float, default 2.0
        The order p of the norm; infinity for the largest element. > 0.
    error_if_nonfinite : bool, default False
        Whether a norm that is not finite is an error. Otherwise NaN makes all gradients NaN, and infinity all others 0.

    Returns
    -------
    float
        The norm before.

    Raises
    ------
    ValueError, TypeError
        For what is no gradient, an argument outside its domain, or a norm that is not finite; before anything is written.

    Examples
    --------
    >>> import numpy as np, fastloss as fl
    >>> grads = [np.array([3.0]), np.array([0.0, 4.0])]
    >>> fl.clip_grad_norm(grads, 1.0)
    5.0
    >>> grads
    [array([0.6]), array([0. , 0.8])]

    References
    ----------
    .. [1] Pascanu, Mikolov & Bengio (2013), On the difficulty of training recurrent neural networks, ICML
    """
    who = "clip_grad_norm"
    max_norm = _CLIP.check(who, "max_norm", max_norm)
    norm_type = _ORDER.check(who, "norm_type", norm_type)
    error_if_nonfinite = Flag(False).check(who, "error_if_nonfinite", error_if_nonfinite)
    scaler = over(Multiply, who, "grads", grads)
    own = scaler._tree.arrays
    significand, exponent = norms.scaled_norm(own, norm_type)
    norm = norms.as_float(significand, exponent)
    if error_if_nonfinite and not math.isfinite(significand):
        raise ValueError(f"{who}: the norm of grads must be finite, got {norm}")
    factor = max_norm / norm if norm != 0 else 1.0
    if norm > max_norm and math.isfinite(significand) and (exponent or not norms.is_normal(factor, own)):
        _rewrite(who, grads, [norms.scaled(grad, max_norm / significand, -exponent) for grad in own])
    elif not norm <= max_norm:
        scaler.step(scaler._tree.unflatten([norms.everywhere(factor, grad.shape) for grad in own]))
    return norm


def clip_grad_value(grads: Any, clip_value: float) -> None:
    r"""Bring every element of gradients, in place, to between `-clip_value` and `clip_value`; NaN stays.

    .. math:: g \leftarrow \max(-c, \min(c, g))

    Parameters
    ----------
    grads : numpy.ndarray, list, dict, or list of these for groups
        The gradients, of any floating dtypes and layouts.
    clip_value : float
        The largest element. > 0.

    Raises
    ------
    ValueError, TypeError
        For what is no gradient, or a `clip_value` outside its domain; before anything is written.

    Examples
    --------
    >>> import numpy as np, fastloss as fl
    >>> grad = np.array([3.0, -0.5, -4.0])
    >>> fl.clip_grad_value(grad, 1.0)
    >>> grad
    array([ 1. , -0.5, -1. ])
    """
    clip_value = _CLIP.check("clip_grad_value", "clip_value", clip_value)
    clamp = over(Clamp, "clip_grad_value", "grads", grads)
    clamp.step(clamp._tree.unflatten([norms.everywhere(clip_value, grad.shape) for grad in clamp._tree.arrays]))


def clip_grad_adaptive(params: Any, grads: Any, clipping: float = 0.01, eps: float = 1e-3) -> None:
    r"""Scale each unit's gradient, in place, so that its norm is at most a part of that of the unit's weights.

    .. math:: g_i \leftarrow g_i \cdot \min\left(1, \lambda \frac{\max(\|w_i\|, \epsilon)}{\|g_i\|}\right)

    A unit is a row (all that lies at one place of the first axis) of an array of two or more dimensions, and any other array whole.
    NaN stays in its unit.

    Parameters
    ----------
    params : numpy.ndarray, list, dict, or list of groups
        The parameters, as an optimizer takes them.
    grads : numpy.ndarray, list or dict
        Their gradients, in the same structure.
    clipping : float, default 0.01
        The part λ. > 0.
    eps : float, default 0.001
        Weights of a smaller norm count as if theirs were this, so that they leave 0. > 0.

    Raises
    ------
    ValueError, TypeError
        For gradients that do not go with the parameters, or an argument outside its domain; before anything is written.

    Examples
    --------
    >>> import numpy as np, fastloss as fl
    >>> weights = np.array([[3.0, 4.0], [0.0, 10.0]])
    >>> grad = np.array([[0.0, 1.0], [0.0, 1.0]])
    >>> fl.clip_grad_adaptive(weights, grad, clipping=0.1)
    >>> grad
    array([[0. , 0.5],
           [0. , 1. ]])

    References
    ----------
    .. [1] Brock, De, Smith & Simonyan (2021), High-Performance Large-Scale Image Recognition Without Normalization, ICML
    """
    who = "clip_grad_adaptive"
    clipping, eps = _CLIP.check(who, "clipping", clipping), _CLIP.check(who, "eps", eps)
    params = [group["params"] for group in params] if holds_groups(params) else params
    scaler = over(Multiply, who, "grads", grads)
    own, factors = scaler._tree.arrays, []
    for name, grad, param in zip(scaler._tree.names, own, scaler._tree.flatten(params, "params"), strict=True):
        weights = arrays.as_array(who, f"the parameter of {name}", param)
        if weights.shape != grad.shape:
            raise ValueError(f"{who}: the parameter of {name} must have its shape {grad.shape}, got {weights.shape}")
        factors.append(norms.unit_factors(grad, weights, clipping, eps))
    if any(exponents.any() or not norms.is_normal(by, [grad]) for (by, exponents), grad in zip(factors, own, strict=True)):
        _rewrite(who, grads, [norms.scaled(grad, *by) for grad, by in zip(own, factors, strict=True)])
    else:
        scaler.step(
            scaler._tree.unflatten([norms.everywhere(by, grad.shape) for (by, _), grad in zip(factors, own, strict=True)])
        )


def _rewrite(who, grads, values):
    """Let the gradients be these values, as one act."""
    writer = over(Assign, who, "grads", grads)
    writer.step(writer._tree.unflatten(values))
