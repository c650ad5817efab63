"""What `check_loss` asks of a loss, and the table of what it found."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..api import BlockLoss, Loss, RowLoss
from ..formula import RowFormula, oracle
from ..threads import get_num_threads, threadpool_limits
from .draws import drawn, extremes, settings

_KINDS = {"value": "value", "grad": "gradient", "hess": "Hessian"}
# Of losses of rows: what the error may be in units of rounding, of the row's largest number or of 1, which their terms are made of.
_ROW_SLACK = 1024
_MOST_DERIVED = 1e-12


@dataclass
class LossCheck:
    """What was found: true if the loss passed everything. `rows` holds (what, found, whether it passed)."""

    name: str
    rows: list[tuple[str, str, bool]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return all(passed for _, _, passed in self.rows)

    def __str__(self) -> str:
        width = max(len(what) for what, _, _ in self.rows)
        lines = [f"{what:{width}}  {found:34} {'pass' if passed else 'FAIL'}" for what, found, passed in self.rows]
        return "\n".join([f"{self.name}: {'passed' if self else 'FAILED'}", *lines])


def check_loss(loss: Loss, *, raises: bool = False, seed: int = 0, quiet: bool = False, **parameters: Any) -> LossCheck:
    """Test a loss as the built-in ones are tested, and print a table of what was found.

    Values and derivatives are compared with the formula at 50 digits, in float64 and float32, and the derivatives with numerical
    ones; then what a call promises: half precision, NaN, extremes, layouts, threads, reductions and weights. The bound on an error of
    a loss of single elements is what correct rounding of each of the formula's operations may leave; near-equal terms that it
    subtracts make it large. mpmath is needed (``pip install mpmath``).

    Parameters
    ----------
    loss : Loss or RowLoss
        A loss of one's own, or a built-in one.
    raises : bool
        Whether to raise AssertionError, with the table, if the loss fails.
    seed : int
        Of the numbers that are drawn from the domains.
    quiet : bool
        Print nothing.
    **parameters
        Hyperparameters. Those that are not given take each of their special values, and numbers away from their defaults.

    Returns
    -------
    LossCheck
        True or False as a condition.

    Examples
    --------
    >>> import fastloss as fl
    >>> @fl.loss
    ... def half_squares(pred, target):
    ...     return 0.5 * (pred - target) ** 2
    >>> bool(fl.check_loss(half_squares, quiet=True))
    True
    """
    if not isinstance(loss, Loss) or isinstance(loss, BlockLoss):
        raise TypeError(f"check_loss: loss must be a loss of elements or of rows, got {loss!r}")
    unknown = [name for name in parameters if name not in loss.formula.parameters]
    if unknown:
        raise TypeError(f"check_loss: hyperparameters must be among {', '.join(loss.formula.parameters)}, got {unknown[0]!r}")
    try:
        import mpmath  # noqa: F401
    except ImportError as missing:
        raise ImportError(f"check_loss: mpmath must be installed (pip install mpmath), got: {missing}") from missing
    worst: dict[str, tuple[float, str, bool]] = {}
    for values in settings(loss.formula, parameters):
        for question in (_exactness, _derivatives, _halves, _nans, _extremes, _layouts_and_threads, _sums_and_weights):
            for what, size, found, passed in question(loss, values, np.random.default_rng(seed)):
                if what not in worst or (passed, -size) < (worst[what][2], -worst[what][0]):
                    worst[what] = size, found, passed
    result = LossCheck(loss.__name__, [(what, found, passed) for what, (_, found, passed) in worst.items()])
    if not quiet:
        print(result)
    if raises and not result:
        raise AssertionError(str(result))
    return result


# --- questions: each yields (what, how bad, what was found, whether that is right) --------------------------------------------


def _results(loss, given, values, **options):
    """{role: array} of value, gradients and Hessians."""
    results = loss.value_grad_hess(*given.values(), check=False, **{"reduction": "none", **values, **options})
    flat = [array for result in results for array in (result if isinstance(result, tuple) else (result,))]
    names = loss.formula.differentiable
    roles = ["value", *(f"{kind}_{name}" for kind in ("grad", "hess") for name in names)]
    return dict(zip(roles, map(np.asarray, flat), strict=True))


def _exactness(loss, values, rng):
    if getattr(loss.formula, "has_lists", False):
        return
    given = drawn(loss.formula, rng)
    for dtype in (np.float64, np.float32):
        results = _results(loss, _cast(given, dtype), values)
        for kind, title in _KINDS.items():
            roles = [role for role in results if role.startswith(kind)]
            size = 0.0
            for i, exact in enumerate(_exact(loss, given, values, dtype)):
                size = max([size, *(_excess(results[role][i], *exact[role], dtype) for role in roles)])
            yield f"{title}, {np.dtype(dtype)}, at 50 digits", size, f"{size:.2f} of the bound", size <= 1


def _exact(loss, given, values, dtype):
    """For each element or row {role: (exact result, bound on the error)}."""
    from .rounding import bounded

    formula = loss.formula
    traced, vector = _traced(formula, given, values), formula.vector(values)
    for point in _points(given):
        if not isinstance(loss, RowLoss):
            yield bounded(traced, point, vector, dtype)
            continue
        exact = oracle.evaluate(traced, point, vector)
        found = {}
        for role in exact:
            if role.partition("_")[0] not in _KINDS:
                continue
            whole = _with_label(formula, point, exact, role)
            found[role] = whole, _ROW_SLACK * float(np.finfo(dtype).eps) * max(1, *map(abs, whole.ravel()))
        yield found


def _excess(result, exact, bound, dtype):
    """The error in parts of the bound, the largest of a row; infinite where one is finite and the other not."""
    if isinstance(exact, np.ndarray) and exact.ndim:
        return max(_excess(r, e, bound, dtype) for r, e in zip(result, exact, strict=True))
    exact = exact.item() if isinstance(exact, np.ndarray) else exact
    if math.isnan(exact):
        return 0.0 if np.isnan(result) else math.inf
    if abs(exact) > float(np.finfo(dtype).max) or not math.isfinite(bound):
        return 0.0
    return float(abs(float(result) - exact) / bound) if np.isfinite(result) else math.inf


def _derivatives(loss, values, rng):
    formula = loss.formula
    if getattr(formula, "has_lists", False):
        return
    given = drawn(formula, rng, count=3)
    traced, vector = _traced(formula, given, values), formula.vector(values)
    sizes = dict.fromkeys(("gradient", "Hessian"), 0.0)
    for point in _points(given):
        exact, numerical = oracle.evaluate(traced, point, vector), oracle.differentiate(traced, point, vector)
        for role, differences in numerical.items():
            found, wanted = _with_label(formula, point, exact, role), np.array(differences, object)
            error = max(map(abs, np.ravel(found - wanted))) / (1 + max(map(abs, wanted.ravel())))
            kind = _KINDS[role.partition("_")[0]]
            sizes[kind] = max(sizes[kind], float(error))
    for kind, size in sizes.items():
        yield f"{kind}, derived and numerical", size, f"{size:.0e} apart", size <= _MOST_DERIVED


def _halves(loss, values, rng):
    given = _cast(drawn(loss.formula, rng), np.float16)
    with np.errstate(all="ignore"):
        wide = _results(loss, _cast(given, np.float32), values)
        narrow = _results(loss, given, values)
        apart = sum(_differ(narrow[role], wide[role].astype(np.float16)) for role in wide)
    yield "float16: float32 rounded once", apart, f"{apart} numbers differ", apart == 0


def _nans(loss, values, rng):
    given = _cast(drawn(loss.formula, rng), np.float64)
    plain = _results(loss, given, values)
    name = loss.formula.inputs[0]
    given[name] = given[name].copy()
    given[name][1] = math.nan  # of rows the whole one: a formula need not look at every element
    results = _results(loss, given, values)
    others = np.arange(len(plain["value"])) != 1
    wrong = sum(_differ(results[role][others], plain[role][others]) for role in plain)
    wrong += not np.isnan(results["value"][1])
    yield "NaN stays where it is", wrong, f"{wrong} numbers wrong", wrong == 0


def _extremes(loss, values, rng):
    if isinstance(loss, RowLoss):
        return
    for dtype in (np.float64, np.float32):
        given = extremes(loss.formula, rng, dtype)
        with np.errstate(all="ignore"):
            results = _results(loss, given, values)
        most, lost = float(np.finfo(dtype).max), 0
        for i, exact in enumerate(_exact(loss, given, values, dtype)):
            for role, (wanted, _) in exact.items():
                lost += bool(abs(wanted) < most / 4 and not np.isfinite(results[role][i]))
        yield (
            f"large and small numbers, {np.dtype(dtype)}",
            lost,
            f"{lost} results lost" if lost else "finite",
            lost == 0,
        )


def _layouts_and_threads(loss, values, rng):
    given = _cast(drawn(loss.formula, rng, count=40_000), np.float32)
    with threadpool_limits(1):
        plain = _results(loss, given, values)
    spread = {name: np.repeat(array, 2, axis=0)[::2] for name, array in given.items()}
    threaded, strided = _results(loss, given, values), _results(loss, spread, values)
    for what, results in ((f"{get_num_threads()} threads as one", threaded), ("strided as contiguous", strided)):
        apart = sum(_differ(results[role], plain[role]) for role in plain)
        yield what, apart, f"{apart} numbers differ", apart == 0


def _sums_and_weights(loss, values, rng):
    given = _cast(drawn(loss.formula, rng, count=300), np.float64)
    with np.errstate(all="ignore"):
        plain = _results(loss, given, values)
        weight = rng.integers(0, 5, len(plain["value"])) / 4
        weighted = _results(loss, given, values, sample_weight=weight, reduction="mean")
        terms = plain["value"][weight > 0] * weight[weight > 0]
    if not np.isfinite(terms).all():  # a formula may have no value everywhere
        return
    expected, size = math.fsum(terms) / weight.sum(), math.fsum(abs(terms)) / weight.sum()
    error = abs(float(weighted["value"]) - expected) / (size or 1)
    factor = (weight / weight.sum()).reshape((-1,) + (1,) * (plain[f"grad_{loss.formula.differentiable[0]}"].ndim - 1))
    for role in list(plain)[1:]:
        wanted = np.where(factor > 0, plain[role] * factor, 0)
        error = max(error, float(np.max(abs(weighted[role] - wanted) / (abs(wanted) + np.finfo(float).tiny))))
    yield "weights and the mean", error, f"{error:.0e} off", error <= 1e-14


# --- helpers ------------------------------------------------------------------------------------------------------------------


def _traced(formula, given, values):
    return formula.trace(formula.choice(values, given) if isinstance(formula, RowFormula) else formula.choice(values))


def _with_label(formula, point, exact, role):
    """An exact result as an array of its row, with what the label's element has besides."""
    whole = np.array(exact[role], object)
    if role != "value":
        whole = np.array(np.broadcast_to(whole, np.shape(point[role.partition("_")[2]])))
    if f"label_{role}" in exact and formula.label:
        whole[point[formula.label]] += exact[f"label_{role}"]
    return whole


def _cast(given, dtype):
    return {name: array.astype(dtype) if array.dtype.kind == "f" else array for name, array in given.items()}


def _points(given):
    """Elements or rows by input: numbers, lists, labels."""
    for i in range(len(next(iter(given.values())))):
        yield {name: array[i].tolist() for name, array in given.items()}


def _differ(results, expected):
    """How many elements differ, NaN taken for equal."""
    same = (results == expected) | (np.isnan(results) & np.isnan(expected))
    return int(np.sum(~same))
