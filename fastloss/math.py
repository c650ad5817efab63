"""What a formula may call: functions of numbers, and of whole rows.

A formula (`fastloss.loss`, `fastloss.update_rule`) is a plain Python function. It is called once, with symbols in the place of arrays,
and knows the operators ``+ - * / **``, ``abs``, comparisons with ``&`` and ``|`` between them, and these:

=================================================  ================================================================================
``where(condition, a, b)``                         `a` where the condition holds, `b` elsewhere: what is an ``if`` elsewhere
``absolute sign maximum minimum``                  choices
``sqrt power exp expm1 log log1p``                 as in NumPy
``tanh sin cos atan``                              as in NumPy, `atan` its `arctan`
``lgamma digamma trigamma``                        the logarithm of the gamma function, and its derivatives
``sigmoid softplus log_sigmoid``                   the logistic function 1 / (1 + exp(-x)), log(1 + exp(x)), log(sigmoid(x))
``logaddexp log_cosh xlogy``                       log(exp(a) + exp(b)), log(cosh(x)), x log(y) that is 0 where x is 0
``sqrt1pm1 log1pmx exp_nonpositive``               sqrt(1 + x) - 1, log(1 + x) - x, exp(x) for x <= 0, each without cancellation
``scaled_exp(scale, x)``                           `scale` times exp(x), which only the product need be in range for; 0 where the scale is
``weighted(weight, x)``                            `weight` times `x`, where a weight of 0 takes out even an infinite `x`
``with_derivative(value, x, slope)``               `value`, whose derivative with respect to `x` is `slope` and not what the rules give
``total mean largest logsumexp dot norm norm2``    numbers made of a whole row: a formula that returns one is a loss of rows
``pick(x, label)``                                 the element of the row that a label names
``length(x) below_peak(x) is_among(labels)``       elements in the row; `x` less its largest, and that; whether a label's list names it
``preceding following running``                    for each element the sum of those before it, after it, up to it
``iterate(x, start, step)``                        the number that ``t = step(x, t)`` comes to for as long as it rises
=================================================  ================================================================================
"""

from .formula.primitives import *
from .formula.primitives import __all__ as _functions
from .formula.rows import (
    below_peak,
    dot,
    following,
    is_among,
    iterate,
    largest,
    length,
    logsumexp,
    mean,
    norm,
    norm2,
    pick,
    preceding,
    running,
    total,
)

__all__ = [
    *_functions,
    "below_peak",
    "dot",
    "following",
    "is_among",
    "iterate",
    "largest",
    "length",
    "logsumexp",
    "mean",
    "norm",
    "norm2",
    "pick",
    "preceding",
    "running",
    "total",
]
