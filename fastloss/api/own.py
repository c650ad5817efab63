"""Losses and optimizers of users' own: the decorators that compile a formula for the engine at run time."""

import inspect
from collections.abc import Callable
from typing import Any, overload

from .._kernels.jit.kernels import Kernels, check_room
from ..formula import Class, ClassWeight, Flag, Formula, FormulaError, PerRow, Real, RowFormula, Symbol, UpdateRule
from ..formula.graph import ROW
from .loss import Loss
from .optimizer import Optimizer, optimizer_class
from .row_loss import RowLoss

# What a call takes besides: no argument of a formula may be called so.
_OF_LOSSES = {"sample_weight", "reduction", "normalizer", "value_out", "grad_out", "hess_out", "check"}
_OF_ROW_LOSSES = {*_OF_LOSSES, "axis", "ignore_index", "outputs", "vector", "out"}
_OF_OPTIMIZERS = {"params", "state_dtype", "rounding", "seed", "ema_decay", "copy_dtype", "decay_mask", "maximize"}
# What an optimizer keeps for a parameter besides the rule's states.
_KEPT = {"param", "ema", "remainder"}
# What a decorator takes beside domains.
_OPTIONS = {"reference", "peers", "differentiable", "curvature", "requires", "carried", "weight_decay"}


@overload
def loss(function: Callable[..., Any], /) -> Any: ...
@overload
def loss(**options: Any) -> Callable[[Callable[..., Any]], Any]: ...
def loss(function=None, /, **options):
    """Make a loss of a formula: the same face as the built-in ones, and the same engine.

    The function is called with symbols (see `fastloss.math` for what it may do with them) and returns the loss of one element, or of
    one row: where it is made of folds (`total`, `mean`, `logsumexp`, `pick`, ...) the loss is a `RowLoss`. Gradient and Hessian
    are derived. What a call uses is compiled at the first use, by llvmlite (``pip install 'fastloss[jit]'``), and kept in a folder
    of the user's own for other processes: `FASTLOSS_CACHE_DIR` names another folder, or, set to nothing, none.

    Parameters
    ----------
    **domains
        What the arguments may be. One with a default, such as ``Positive(1.0)``, makes its argument a hyperparameter; so does a
        default in the function's own signature, a number or a bool. All other arguments are arrays, by default of real numbers.
    differentiable : tuple of str
        The inputs to differentiate with respect to, by default the first one.
    curvature : bool
        Of a loss of rows: whether there is `hvp`.
    reference : str
        Where it comes from, for the documentation.

    Returns
    -------
    Loss or RowLoss

    Raises
    ------
    TypeError
        `FormulaError`, where the function does what a formula cannot do, with the line and the way to say it.

    Examples
    --------
    >>> import fastloss as fl
    >>> @fl.loss(c=fl.Positive(1.0))
    ... def my_cauchy(pred, target, c):
    ...     z = (pred - target) / c
    ...     return 0.5 * c * c * fl.math.log1p(z * z)
    >>> my_cauchy([0.5, 2.0], [1.0, -1.0], c=2.0)
    1.2394...
    >>> my_cauchy.grad([0.5, 2.0], [1.0, -1.0])
    array([-0.2 ,  0.15])
    """
    if function is None:
        return lambda function: _loss(function, options)
    return _loss(function, options)


@overload
def update_rule(function: Callable[..., Any], /) -> type[Optimizer]: ...
@overload
def update_rule(**options: Any) -> Callable[[Callable[..., Any]], type[Optimizer]]: ...
def update_rule(function=None, /, **options):
    """Make an optimizer class of an update rule: the same face as the built-in ones, and the same engine.

    The function is called with symbols, as that of `loss`: ``rule(param, grad, *states, step, *hyperparameters)`` returns a tuple of the
    new parameter and the new states. `step` counts from 1 and may be left out; states begin at 0.

    Parameters
    ----------
    **domains
        What the hyperparameters may be, with their defaults, such as ``Positive(1e-3)``.
    weight_decay : Decay, optional
        Weight decay, seen to before the rule: the function does not take it.
    carried : dict, optional
        Numbers from one step to the next: ``{name: (first, function of step, carried numbers and hyperparameters)}``.
    requires : list of (predicate on all hyperparameters, message), optional
        What must hold between hyperparameters.
    reference : str
        Where it comes from, for the documentation.

    Returns
    -------
    type
        A subclass of `Optimizer`.

    Examples
    --------
    >>> import numpy as np, fastloss as fl
    >>> @fl.update_rule(lr=fl.Positive(0.1), momentum=fl.Fraction(0.9))
    ... def HeavyBall(param, grad, velocity, lr, momentum):
    ...     velocity = momentum * velocity + grad
    ...     return param - lr * velocity, velocity
    >>> weights = np.zeros(2)
    >>> HeavyBall(weights, lr=0.5).step(np.array([1.0, -2.0]))
    StepResult(norm=None, skipped=False)
    >>> weights
    array([-0.5,  1. ])
    """
    if function is None:
        return lambda function: _update_rule(function, options)
    return _update_rule(function, options)


def _loss(function, options):
    options = _with_defaults(function, options)
    per_row = (Class, ClassWeight, PerRow)
    is_row = "curvature" in options or any(isinstance(domain, per_row) for domain in options.values())
    formula = (RowFormula if is_row else Formula).define(function, **options)
    if not formula.inputs:
        raise FormulaError(f"{formula.name}: the formula must have an argument that is an array, got {_arguments(formula)}")
    returned = [formula.call_with_symbols(choice)[-1] for choice in Formula.choices(formula)]
    if not is_row and any(isinstance(value, tuple) or _is_of_row(value) for value in returned):
        is_row, formula = True, RowFormula.define(function, **options)
    for value in returned:
        _check_returned(formula, value, is_row)
    _check_names(formula, _OF_ROW_LOSSES if is_row else _OF_LOSSES)
    unknown = [name for name in formula.differentiable if name not in formula.inputs]
    if unknown:
        raise FormulaError(f"{formula.name}: differentiable must name inputs ({', '.join(formula.inputs)}), got {unknown[0]!r}")
    check_room(formula)
    return (RowLoss if is_row else Loss)(formula, Kernels(formula))


def _update_rule(function, options):
    rule = UpdateRule.define(function, **_with_defaults(function, options))
    if tuple(rule.arguments[:2]) != ("param", "grad"):
        raise FormulaError(f"{rule.name}: the rule must begin with the arguments param and grad, got {_arguments(rule)}")
    _check_names(rule, _OF_OPTIMIZERS)
    for name in rule.states:
        if name in _KEPT:
            raise FormulaError(f"{rule.name}: states must have names that the optimizer does not use itself, got {name!r}")
    for choice in rule.choices():
        new = rule.call_with_symbols(choice)[-1]
        if not isinstance(new, tuple) or len(new) != 1 + len(rule.states):
            names = ", ".join(["param", *rule.states])
            raise FormulaError(f"{rule.name}: the rule must return a tuple of the new {names}, got {_shown(new)}")
    check_room(rule)
    return optimizer_class(rule, Kernels(rule))


def _with_defaults(function, options):
    """The decorator's options, and domains for what has a default in the function's own signature."""
    if not inspect.isfunction(function):
        raise TypeError(f"fastloss: a formula must be a plain function, got {function!r}")
    who = function.__name__
    found = dict(options)
    for name, argument in inspect.signature(function).parameters.items():
        if argument.kind is not argument.POSITIONAL_OR_KEYWORD:
            raise FormulaError(f"{who}: the arguments of a formula must be plain names, got {argument}")
        if argument.default is argument.empty:
            continue
        if name in options:
            raise FormulaError(f"{who}: the default of {name} must stand in its domain alone, got {argument} besides")
        if not isinstance(argument.default, int | float):
            raise FormulaError(f"{who}: {name} must have a domain, such as fastloss.Positive(1.0), got {argument}")
        is_flag = isinstance(argument.default, bool)
        found[name] = Flag(argument.default) if is_flag else Real(Real().check(who, name, argument.default))
    for name, domain in found.items():
        if name not in _OPTIONS and not hasattr(domain, "is_parameter"):
            raise TypeError(f"{who}: {name} must have a domain, such as fastloss.Positive(1.0), got {domain!r}")
    return found


def _is_of_row(value):
    """Whether what a formula returned is made of folds."""
    return isinstance(value, Symbol) and value.level == ROW


def _check_returned(formula, value, is_row):
    number = value[0] if is_row and isinstance(value, tuple) and len(value) == 2 else value
    if not isinstance(number, Symbol | int | float) or getattr(number, "kind", "real") != "real":
        raise FormulaError(f"{formula.name}: the formula must return the loss, a number, got {_shown(value)}")


def _check_names(formula, taken):
    for name in (*formula.inputs, *formula.parameters):
        if name in taken:
            raise FormulaError(f"{formula.name}: arguments must have names that its calls do not use otherwise, got {name!r}")


def _shown(value):
    return "a symbol" if isinstance(value, Symbol) else repr(value)


def _arguments(formula):
    return f"({', '.join(formula.arguments)})"
