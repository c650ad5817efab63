"""Rules that are no optimizers: the training utilities are made of them. They rewrite arrays, element by element, given others.

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
def Assign(param, grad, step):
    """The other array itself, rounded."""
    return (grad,)


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
