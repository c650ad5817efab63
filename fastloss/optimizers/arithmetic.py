"""Rules that are no optimizers but what stands around them is made of: they write arrays, element by element, given others.

The engine sees to dtypes, layouts, threads, and memory that overlaps, as it does in a step.
"""

from ..formula import Flag, Fraction, Real, where
from ..formula.registry import update_rule
from ._parts import average


@update_rule(scale=Real(1.0), relative=Flag(False))
def Add(param, grad, step, scale, relative):
    """A multiple of another array is added; if `relative`, in units of the own square."""
    return (param + scale * (param * (param * grad) if relative else grad),)


@update_rule(weight=Fraction(1.0))
def Blend(param, grad, step, weight):
    """A part of the way towards another array."""
    return (param + weight * (grad - param),)


@update_rule()
def Multiply(param, grad, step):
    """Times another array."""
    return (param * grad,)


@update_rule()
def Clamp(param, grad, step):
    """No further from 0 than another array; NaN stays."""
    return (where(param > grad, grad, where(param < -grad, -grad, param)),)


@update_rule(
    beta=Fraction(0.99),
    reference="Liu, Li, Hall, Liang & Ma (2024), Sophia: A Scalable Stochastic Second-order Optimizer, ICLR",
)
def RunningMean(param, grad, step, beta):
    """The fading mean of what it is given: Sophia's of the Hessian's diagonal."""
    return (average(param, grad, beta),)


_NAMED: dict = {}


def named(rule, who, what):
    """The rule's class for NumPy arrays, under the names that errors give: whose arrays are written, and what these are called."""
    key = rule, who, what
    if key not in _NAMED:
        _NAMED[key] = type(who, (rule,), {"_what": what, "_on_gpu": False, "__doc__": rule.__doc__})
    return _NAMED[key]


def over(rule, who, what, written, **hyperparameters):
    """The rule over an array, a list, a dictionary, or a list of these, one for each group."""
    if isinstance(written, list | tuple) and any(isinstance(each, list | tuple | dict) for each in written):
        written = [{"params": each} for each in written]
    return named(rule, who, what)(written, **hyperparameters)
