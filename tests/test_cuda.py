"""The CUDA engine against the CPU's: every loss in every variant, every dtype, and lengths about the limits of its kernels."""

import numpy as np
import pytest
from test_row_registry import draw, settings

import fastloss as fl
from fastloss.formula import PROBABILITIES, ClassWeight, graph

from . import cuda_simulator, inputs, row_sums
from .cuda_simulator import Lent, host, lent, thinned

pytestmark = cuda_simulator.needed
BOTH = pytest.mark.parametrize("dtype", thinned([np.float32, np.float64], 2), ids=["f32", "f64"])
# Of 16 threads in a block and 4 in a warp under the simulator: a thread, a warp, a block for each row, and vectors with a tail.
LENGTHS = (3, 5, 16, 19)
# Of sums, relative to the sum of what is added up: those of the CPU engine are in lanes of the dtype first.
SUM = 1e-6


# --- pointwise ----------------------------------------------------------------------------------------------------------------


def assert_equal(found, expected):
    """The same numbers, every NaN alike; the sign of a zero is the compiler's choice, here and there."""
    for one, wanted in zip(inputs.flatten(found), inputs.flatten(expected), strict=True):
        assert (one.dtype, one.shape) == (wanted.dtype, wanted.shape)
        np.testing.assert_array_equal(one, wanted)


@BOTH
@pytest.mark.parametrize("case", inputs.CASES, ids=str)
def test_pointwise_losses_have_the_cpu_engines_bits(case, dtype):
    """45 elements: vectors and a tail, whatever the dtype."""
    arrays = list(inputs.columns(case, 45, dtype).values())
    for method in ("value_grad_hess", "value_and_grad", "grad"):
        call = getattr(case.loss, method)
        expected = call(*arrays, **case.parameters, reduction="none")
        assert_equal(host(call(*lent(*arrays), **case.parameters, reduction="none")), expected)


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
@pytest.mark.parametrize("case", inputs.ONE_EACH, ids=str)
def test_pointwise_losses_of_halves_are_rounded_once(case, half):
    dtype = dtype_of(half)
    arrays = list(inputs.columns(case, 45, dtype, seed=1).values())
    expected = case.loss.value_grad_hess(*arrays, **case.parameters, reduction="none")
    assert_equal(of_half(case.loss.value_grad_hess(*halves(arrays), **case.parameters, reduction="none"), dtype), expected)


def dtype_of(half):
    return np.dtype(getattr(pytest.importorskip("ml_dtypes"), half) if half == "bfloat16" else half)


def halves(arrays):
    """Numba's arrays, which hold bfloat16 under the simulator alone; on a GPU such arrays are PyTorch's or CuPy's."""
    from numba import cuda

    if any(array.dtype.name == "bfloat16" for array in arrays) and not cuda_simulator.SIMULATED:
        pytest.skip("Numba's arrays hold no bfloat16")
    return [cuda.to_device(np.ascontiguousarray(array)) for array in arrays]


def of_half(results, dtype):
    """Numba makes arrays of unsigned integers for bfloat16."""
    return tuple(one.view(dtype) if one.ndim else one.reshape(1).view(dtype)[0] for one in inputs.flatten(host(results)))


# The sum of plain elements in one precision, the mean of weighted ones in the other.
SUMS = pytest.mark.parametrize(("reduction", "dtype"), [("sum", np.float32), ("mean", np.float64)], ids=["sum", "mean"])


@SUMS
@pytest.mark.parametrize("case", thinned(inputs.ONE_EACH, 4), ids=str)
def test_pointwise_sums_and_means(case, dtype, reduction):
    arrays = inputs.blocks(case, (7, 6), dtype, seed=2)
    weight = inputs.weights((7, 1), dtype) if reduction == "mean" else None
    given = {"sample_weight": Lent(weight)} if reduction == "mean" else {}
    terms = case.loss(*arrays.values(), **case.parameters, reduction="none", sample_weight=weight)
    options = {"reduction": reduction}
    value, *rest = case.loss.value_grad_hess(*arrays.values(), **case.parameters, **options, sample_weight=weight)
    found, *found_rest = host(case.loss.value_grad_hess(*lent(*arrays.values()), **case.parameters, **options, **given))
    assert_sum(found, value, terms)
    for one, wanted in zip(inputs.flatten(tuple(found_rest)), inputs.flatten(tuple(rest)), strict=True):
        # The scale is the inverse of a sum that may round differently.
        assert (np.abs(one - wanted) <= 2 * np.spacing(np.abs(wanted))).all()


def assert_sum(found, value, terms):
    """A sum or mean of these terms, relative to that of their magnitudes."""
    assert (found.dtype, found.shape) == (terms.dtype, ())
    terms = terms.astype(float)
    assert abs(found - value) <= SUM * abs(value) * max(1, np.abs(terms).sum() / abs(terms.sum()))


# --- rows ---------------------------------------------------------------------------------------------------------------------


ROW_CASES = [
    pytest.param(name, values, there, k, id=f"{name}-{k}")
    for name in fl.losses.ROWS
    for k, (values, there) in enumerate(settings(getattr(fl, name).formula))
]


def of_dtype(arrays, dtype):
    return {name: array.astype(dtype) if array.dtype.kind == "f" else array for name, array in arrays.items()}


def plain_roles(formula, want="vgh"):
    return [role for role in formula.roles(want) if role.startswith(("value", "grad_", "hess_"))]


def allowed(formula, traced, arrays, vector, expected, wide):
    """How far each of the results may lie from the CPU engine's: nothing where no fold enters, else an ulp beside the folds' slack.

    Where a repeated pass makes the sums, whose order then differs, it is a few times as far as the CPU engine's results lie from
    `wide`, in float64.
    """
    ops = {node.op for node in graph.walk(list(traced.outputs.values()))}
    if formula.has_lists or ("iterate" in ops and "range_scale" not in ops):
        return [2 * np.spacing(np.abs(wanted)) for wanted in expected]
    if "range_scale" in ops:
        errors = [np.abs(wanted - exact).max() for wanted, exact in zip(expected, wide, strict=True)]
        return [2 * np.spacing(np.abs(wanted)) + 4 * error for wanted, error in zip(expected, errors, strict=True)]
    rows = {}
    for name, array in arrays.items():
        wide = array.astype(float)
        is_shared = isinstance(formula.input_domains[name], ClassWeight)
        rows[name] = wide if array.ndim == 2 else wide[None] if is_shared else wide[:, None]
    slack = row_sums.slack(traced, rows, vector, expected[0].dtype)
    found = []
    for role, wanted in zip(plain_roles(formula), expected, strict=True):
        moved = np.broadcast_to(slack[role][1], (*wanted.shape, 1) if wanted.ndim == 1 else wanted.shape).reshape(wanted.shape)
        if formula.label and arrays[formula.label].ndim == 1 and f"label_{role}" in slack:
            hit = np.arange(wanted.shape[-1]) == arrays[formula.label][:, None]
            moved = moved + np.where(hit, slack[f"label_{role}"][1], 0)
        found.append(moved + np.where(moved > 0, np.spacing(np.abs(wanted)), 0))
    return found


@BOTH
@pytest.mark.parametrize(("name", "values", "there", "k"), ROW_CASES)
def test_row_losses_are_the_cpu_engines_but_for_the_order_of_their_sums(name, values, there, k, dtype):
    loss = getattr(fl, name)
    formula, length = loss.formula, LENGTHS[k % 4]
    arrays = of_dtype(draw(formula, (5, length), there, seed=k), dtype)
    traced, vector = formula.trace(formula.choice(values, there)), formula.vector(values)
    given = dict(zip(arrays, lent(*arrays.values()), strict=True))
    expected = inputs.flatten(loss.value_grad_hess(**arrays, **values, reduction="none"))
    found = inputs.flatten(host(loss.value_grad_hess(**given, **values, reduction="none")))
    doubles = {name: array.astype(float) if array.dtype.kind == "f" else array for name, array in arrays.items()}
    wide = inputs.flatten(loss.value_grad_hess(**doubles, **values, reduction="none"))
    bounds = allowed(formula, traced, arrays, vector, expected, wide)
    for role, one, wanted, bound in zip(plain_roles(formula), found, expected, bounds, strict=True):
        assert (one.dtype, one.shape) == (wanted.dtype, wanted.shape)
        error = np.abs(one.astype(float) - wanted)
        assert (error <= bound).all(), (role, (error / np.spacing(np.abs(wanted))).max())


@pytest.mark.parametrize("length", [1, 4, 5, 17, 67])
@pytest.mark.parametrize("name", thinned(fl.losses.ROWS, 3))
def test_lengths_about_the_limits_of_groups_and_vectors(name, length):
    """Values alone, against float64: the slack of every loss in every variant is looked at above."""
    loss = getattr(fl, name)
    arrays = draw(loss.formula, (5, length), loss.formula.optional, seed=length)
    single = of_dtype(arrays, np.float32)
    value, grad = host(loss.value_and_grad(**dict(zip(single, lent(*single.values()), strict=True)), reduction="none"))
    wide, wide_grad = loss.value_and_grad(**single, reduction="none")
    np.testing.assert_allclose(value, wide, rtol=2e-5, atol=2e-5)
    for one, wanted in zip(inputs.flatten(grad), inputs.flatten(wide_grad), strict=True):
        np.testing.assert_allclose(one, wanted, rtol=0, atol=1e-5 * max(1e-30, np.abs(wanted).max()))


@pytest.mark.parametrize("half", thinned(["float16", "bfloat16"], 2))
@pytest.mark.parametrize("name", fl.losses.ROWS)
def test_row_losses_of_halves_are_computed_in_float32(name, half):
    loss, dtype = getattr(fl, name), dtype_of(half)
    arrays = draw(loss.formula, (5, 19), loss.formula.optional, seed=3)
    rows = {n: a.astype(dtype) if a.ndim == 2 and a.dtype.kind == "f" else a for n, a in arrays.items()}
    given = dict(zip(rows, halves(list(rows.values())), strict=True))
    value, grad = loss.value_and_grad(**rows, reduction="none")
    found = of_half(loss.value_and_grad(**given, reduction="none"), dtype)
    for one, wanted in zip(found, inputs.flatten((value, grad)), strict=True):
        # What float32 leaves open may fall to either side of a middle: the next number, then.
        near = np.spacing(np.abs(wanted).astype(np.float32)) if half == "bfloat16" else np.spacing(np.abs(wanted))
        step = near.astype(float) * (2**16 if half == "bfloat16" else 1)
        assert (np.abs(one.astype(float) - wanted.astype(float)) <= step + 1e-7).all()


@SUMS
@pytest.mark.parametrize("name", thinned(fl.losses.ROWS, 3))
def test_row_sums_and_means(name, dtype, reduction):
    loss = getattr(fl, name)
    arrays = of_dtype(draw(loss.formula, (18, 4), loss.formula.optional, seed=4), dtype)
    weight = inputs.weights(18, dtype) if reduction == "mean" else None
    given = dict(zip(arrays, lent(*arrays.values()), strict=True)) | (
        {"sample_weight": Lent(weight)} if reduction == "mean" else {}
    )
    terms = loss(**arrays, reduction="none", sample_weight=weight)
    options = {"reduction": reduction}
    value, grad = loss.value_and_grad(**arrays, **options, sample_weight=weight)
    found, found_grad = host(loss.value_and_grad(**given, **options))
    assert_sum(found, value, terms)
    for one, wanted in zip(inputs.flatten(found_grad), inputs.flatten(grad), strict=True):
        np.testing.assert_allclose(one, wanted, rtol=0, atol=64 * np.finfo(dtype).eps * np.abs(wanted).max())


@pytest.mark.parametrize("name", [name for name in fl.losses.ROWS if getattr(fl, name).formula.curvature])
@pytest.mark.parametrize("length", [3, 19])
def test_products_with_the_hessian(name, length):
    loss = getattr(fl, name)
    for k, (values, there) in enumerate(settings(loss.formula)):
        if PROBABILITIES in there and k % 4:
            continue
        arrays = draw(loss.formula, (5, length), there, seed=k)
        vector = np.random.default_rng(k).normal(size=(5, length))
        given = dict(zip(arrays, lent(*arrays.values()), strict=True))
        expected = loss.hvp(**arrays, **values, vector=vector, reduction="sum")
        found = host(loss.hvp(**given, **values, vector=Lent(vector), reduction="sum"))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13 * max(1, np.abs(expected).max()))
