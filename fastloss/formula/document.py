"""What is said about a formula: its docstring, its type stub, its row in the docs' table."""

import inspect
import math

from .domains import Class, Classes, ClassWeight, Each, Flag, Label, Optional, PerRow, Shaped
from .pairs import PairFormula

_COMMON = "sample_weight, reduction, normalizer, value_out, check"
_KEYWORDS = "sample_weight=None, reduction='mean', normalizer=None, value_out=None, check=True"


def docstring(formula, loss):
    """The numpydoc text of a loss; `loss` is called for the example's output, without it there is none."""
    inputs, parameters = formula.inputs, formula.parameters
    options = list(formula.options.items())
    signature = ", ".join(
        [
            *(f"{name}=None" if name in formula.optional else name for name in inputs),
            *(f"{name}={domain.default!r}" for name, domain in parameters.items()),
            "*",
            *(f"{name}={default!r}" for name, default in options),
            _KEYWORDS,
        ]
    )
    who = loss_class(formula)
    lines = [
        f"{formula.name}({signature})",
        "",
        inspect.cleandoc(formula.doc),
        "",
        *_section("Parameters"),
        *(line for name in inputs for line in _input(formula, name)),
        *(line for name, domain in parameters.items() for line in _parameter(name, domain)),
        ", ".join([*(name for name, _ in options), _COMMON]),
        f"    As for every loss: see `fastloss.{who}`.",
        "",
        *_section("Returns"),
        "float",
        f"    The reduced loss; under ``reduction='none'`` an array of the {'elements' if who == 'Loss' else 'rows'}' losses.",
        *_derivatives(formula),
        "",
        *_section("Raises"),
        "ValueError",
        "    For shapes that do not broadcast, data or hyperparameters outside their domains, unusable outputs.",
        "TypeError",
        f"    For {inputs[0]} that is not floating, arrays that are not real, unknown arguments.",
    ]
    if loss is not None:
        values = [example(formula, name) for name in inputs if name not in formula.optional]
        call, arguments = f"fl.{formula.name}", ", ".join(map(str, values))
        lines += [
            "",
            *_section("Examples"),
            ">>> import fastloss as fl",
            f">>> {call}({arguments})",
            repr(loss(*values)),
            f">>> {call}.grad({arguments})",
            repr(loss.grad(*values)),
        ]
    if formula.reference:
        lines += ["", *_section("References"), f".. [1] {formula.reference}"]
    return "\n".join(lines) + "\n"


def _derivatives(formula):
    by = " and ".join(formula.differentiable)
    if isinstance(formula, PairFormula):
        yield f"    `value_and_grad` and `grad` of this object also give the gradients with respect to {by}, as a tuple of those"
        yield "    that are there; there is no Hessian."
        return
    yield "    `value_and_grad`, `value_grad_hess`, `grad_and_hess` and `grad` of this object also give the derivatives with respect"
    yield f"    to {by}."
    if formula.options:
        yield "    `evaluate` gives any of them in one pass, and each row's prediction besides."
    if getattr(formula, "curvature", False):
        yield f"    `hvp` gives the Hessian by {formula.differentiable[0]} times a vector."


def loss_class(formula):
    """The class of the formula's loss, by name."""
    if isinstance(formula, PairFormula):
        return formula.loss_class
    return "RowLoss" if formula.options else "Loss"


def optimizer_docstring(rule):
    """The numpydoc text of an optimizer."""
    lines = [
        inspect.cleandoc(rule.doc),
        "",
        *_section("Parameters"),
        "params : numpy.ndarray, list, dict, or list of groups",
        "    The arrays to train, rewritten in place: one, several, several by name, or dictionaries with ``'params'`` and",
        "    hyperparameters of their own.",
        *(line for name, domain in rule.hyperparameters.items() for line in _parameter(name, domain)),
        "",
        *_section("Examples"),
        ">>> import numpy as np, fastloss as fl",
        ">>> weights = np.ones(3)",
        f">>> optimizer = {'fl.' * rule.is_built_in}{rule.name}(weights, {next(iter(rule.hyperparameters))}=0.5)",
        ">>> optimizer.step(np.array([1.0, 0.0, -1.0]))",
        "StepResult(norm=None, skipped=False)",
    ]
    if rule.reference:
        lines += ["", *_section("References"), f".. [1] {rule.reference}"]
    return "\n".join(lines) + "\n"


def row(formula):
    """The loss's row in the docs' table: name with hyperparameters, what it is, whom it agrees with, where it comes from."""
    parameters = ", ".join(f"{name}={domain.default}" for name, domain in formula.parameters.items())
    summary = inspect.cleandoc(formula.doc).split("\n\n")[0].replace("\n", " ")
    peers = ", ".join(sorted(peer for peer in formula.peers if peer != "closed_form")) or "–"
    return f"| `{formula.name}({parameters})` | {summary} | {peers} |"


def example(formula, name):
    """Two values that an input may hold."""
    domain = formula.input_domains[name]
    if loss_class(formula) != "Loss":
        return _example_of_rows(formula, name, domain)
    if isinstance(domain, Label):
        return [1, 0]
    if math.isfinite(domain.low) and math.isfinite(domain.high):
        return [0.25, 1.0] if name == formula.inputs[0] else [0.0, 1.0]
    if math.isfinite(domain.low):
        return [0.5, 2.0] if name == formula.inputs[0] else [1.0, 3.0]
    return [0.5, 2.0] if name == formula.inputs[0] else [1.0, -1.0]


def _example_of_rows(formula, name, domain):
    """Two rows of three, or what goes with them."""
    if isinstance(domain, Classes):
        return [[2, -1, 0], [0, 2, -1]]
    if isinstance(domain, Class):
        return [2, 0]
    if isinstance(domain, ClassWeight):
        return [1.0, 2.0, 0.5]
    if isinstance(domain, PerRow):
        return [1, 0]
    k = formula.inputs.index(name)
    if isinstance(domain, Shaped) and k:
        return [[1.0, -1.0, 0.5], [0.0, 2.0, 1.0], [0.0, 1.0, 2.0]]
    if isinstance(domain, Shaped):
        return [[0.5, 2.0, -1.0], [1.0, 0.0, 3.0]]
    if math.isfinite(domain.low) and math.isfinite(domain.high):
        return [[[0.5, 0.25, 0.25], [0.125, 0.75, 0.125]], [[0.25, 0.25, 0.5], [0.5, 0.25, 0.25]]][k % 2]
    return [[[0.5, 2.0, -1.0], [1.0, 0.0, 3.0]], [[1.0, -1.0, 0.5], [0.0, 2.0, 1.0]], [[0.0, 1.0, 1.0], [2.0, 0.5, -1.0]]][
        k % 3
    ]


def stub(formulas):
    """The type stub of fastloss.losses."""
    classes = [_stub_class(formula) for formula in formulas]
    names = ", ".join(repr(formula.name) for formula in formulas)
    return _STUB_HEAD + "\n".join(classes) + f"\n__all__ = [{names}]\n"


_STUB_HEAD = """# Written from the formulas by the build.
from typing import Any, Literal, NoReturn, overload

from numpy.typing import ArrayLike, NDArray

from ..api import BlockLoss, Loss, NearestCenterLoss, RowLoss

ROWS: list[str]
BLOCKS: list[str]
POINTWISE: list[str]
FAMILIES: dict[str, dict[str, Loss]]

"""


def _stub_class(formula):
    several = len(formula.differentiable) > 1
    array = "NDArray[Any]"
    each = f"tuple[{', '.join([array] * len(formula.differentiable))}]" if several else array
    if set(formula.differentiable) & set(formula.optional):
        each = f"tuple[{array}, ...]"
    inputs = ", ".join(
        f"{name}: ArrayLike | None = ..." if name in formula.optional else f"{name}: ArrayLike" for name in formula.inputs
    )
    own = "".join(f", {name}: {_stub_type(domain)} = ..." for name, domain in formula.parameters.items())
    head = f"self, {inputs}, *, sample_weight: ArrayLike | None = ..."
    tail = "normalizer: float | Literal['samples'] | None = ..."
    outs = {"value": f"value_out: {array} | None = ...", "grad": f"grad_out: {each} | None = ..."}
    outs["hess"] = f"hess_out: {each} | None = ..."
    own += "".join(f", {name}: int = ..." for name in formula.options)
    lines = [f"class _{formula.name}({loss_class(formula)}):"]
    for method, results in {
        "__call__": ("value",),
        "value_and_grad": ("value", "grad"),
        "value_grad_hess": ("value", "grad", "hess"),
        "grad_and_hess": ("grad", "hess"),
        "grad": ("grad",),
    }.items():
        parts = ", ".join(outs[result] for result in results)
        reductions = {"Literal['mean', 'sum'] = ...": "float", "Literal['none']": array}
        impossible = "hess" in results and isinstance(formula, PairFormula)
        if "value" not in results or impossible:
            reductions = {"Literal['mean', 'sum', 'none'] = ...": ""}
        for reduction, value in reductions.items():
            types = [value if result == "value" else each for result in results]
            returned = types[0] if len(types) == 1 else f"tuple[{', '.join(types)}]"
            if impossible:
                returned = "NoReturn"
            if len(reductions) > 1:
                lines.append("    @overload  # type: ignore[override]")
            lines.append(
                f"    def {method}({head}, reduction: {reduction}, {tail}, {parts}, check: bool = ...{own}) -> {returned}: ..."
                + ("" if len(reductions) > 1 else "  # type: ignore[override]")
            )
    return "\n".join(lines) + f"\n\n{formula.name}: _{formula.name}\n"


def optimizer_stub(rules):
    """The type stub of the optimizers."""
    abilities = sorted({ability for rule in rules for ability in rule.abilities})
    classes = [_optimizer_class(rule) for rule in rules]
    names = ", ".join(repr(rule.name) for rule in rules)
    head = _OPTIMIZERS_HEAD.format(f"from ..api.methods import {', '.join(abilities)}\n" if abilities else "")
    return head + "\n".join(classes) + f"\n__all__ = [{names}]\n"


_OPTIMIZERS_HEAD = """# Written from the update rules by the build.
from collections.abc import Callable
from typing import Any, Literal

from ..api import Optimizer
{}
OPTIMIZERS: dict[str, type[Optimizer]]

"""


def _optimizer_class(rule):
    own = "".join(
        f"        {name}: {_stub_type(domain, scheduled=True)} = ...,\n" for name, domain in rule.hyperparameters.items()
    )
    return f"""class {rule.name}({", ".join([*rule.abilities, "Optimizer"])}):
    def __init__(
        self,
        params: Any,
        *,
{own}        state_dtype: Any = ...,
        rounding: Literal["nearest", "stochastic", "compensated"] = ...,
        seed: int = ...,
        ema_decay: float | None = ...,
        copy_dtype: Any = ...,
        decay_mask: Any = ...,
    ) -> None: ...
"""


def _stub_type(domain, scheduled=False):
    """What a hyperparameter may be; an optimizer's numbers may be functions of the steps taken."""
    if isinstance(domain, Flag):
        return "bool"
    if isinstance(domain, Each):
        return f"tuple[{', '.join(['float'] * len(domain.default))}]"
    number = "float | None" if isinstance(domain, Optional) else "float"
    return f"{number} | Callable[[int], float]" if scheduled else number


def _section(title):
    return [title, "-" * len(title)]


def _input(formula, name):
    domain = formula.input_domains[name]
    if isinstance(domain, Classes):
        yield f"{name} : array_like of integers"
        yield f"    Of `{formula.inputs[0]}`'s shape. {str(domain)[0].upper()}{str(domain)[1:]}."
        return
    if isinstance(domain, Class):
        yield f"{name} : array_like of integers" + (", or of probabilities" if domain.or_probabilities else "")
        yield f"    Of each row, from 0 to the number of {domain.of} less one; rows of `ignore_index` are left out."
        return
    if isinstance(domain, ClassWeight):
        yield f"{name} : array_like, optional"
        yield "    A weight for each class, finite and not negative. A mean divides by the weights of the rows' classes; rows of a class"
        yield "    of weight 0 are left out."
        return
    if isinstance(domain, Shaped):
        yield f"{name} : array_like of float16, bfloat16, float32 or float64{', optional' * domain.is_optional}"
        first = formula.inputs[0]
        place = "its dtype is that of the results" if name == first else f"of `{first}`'s dtype"
        yield f"    {str(domain)[0].upper()}{str(domain)[1:]}; {place}."
        return
    what = "" if str(domain) == "a real number" else f" {str(domain)[0].upper()}{str(domain)[1:]}."
    for parameter, values, case in getattr(domain, "cases", ()):
        what += f" With `{parameter}` {values}: {case}."
    if name in formula.differentiable:
        yield f"{name} : array_like of float16, bfloat16, float32 or float64"
    else:
        yield f"{name} : array_like of real numbers"
    if isinstance(domain, PerRow):
        yield f"    One for each row.{what}"
        return
    place = (
        "Any shape; its dtype is that of the results." if name == formula.inputs[0] else f"Broadcast to `{formula.inputs[0]}`."
    )
    yield f"    {place}{what}"


def _parameter(name, domain):
    kind = {Flag: "bool", Each: "tuple of float", Optional: "float, optional"}.get(type(domain), "float")
    yield f"{name} : {kind}, default {domain.default}"
    text = str(domain)
    yield f"    {text[0].upper()}{text[1:]}."
