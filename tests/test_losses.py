"""The compiled losses: accuracy, agreement of the five methods, reductions, dtypes, outputs, extremes, threads, ISA levels."""

import copy
import functools
import itertools
import math
import os
import pickle
import re
import subprocess
import sys
import sysconfig
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest

import fastloss as fl
from fastloss._kernels.cpu import engine, levels
from fastloss.formula import Flag, Label, Optional, oracle

from . import inputs, twin

mpmath = pytest.importorskip("mpmath")
BY_CASE = pytest.mark.parametrize("case", inputs.CASES, ids=str)
BY_LOSS = pytest.mark.parametrize("case", inputs.ONE_EACH, ids=str)
BOTH = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f32", "f64"])
METHODS = {"v": "__call__", "g": "grad", "vg": "value_and_grad", "gh": "grad_and_hess", "vgh": "value_grad_hess"}
POINTS = 24


def call(case, arrays, method="value_grad_hess", **options):
    return getattr(case.loss, method)(*arrays.values(), **{**case.parameters, **options})


def elements(case, arrays, want="vgh", **options):
    """{role: per-element array} of one pass for v(alue), g(radients) and H(essians)."""
    results = inputs.flatten(call(case, arrays, METHODS[want], reduction="none", **options))
    return dict(zip(case.formula.roles(want), results, strict=True))


# --- 1: accuracy ---------------------------------------------------------------------------------------------------------


@functools.cache
def exact_and_bound(case, dtype, count=POINTS, seed=0):
    """The inputs, and for each of them {role: (value, bound)}; computed once for all ISA levels."""
    arrays = inputs.columns(case, count, dtype, seed)
    traced, vector = case.traced, case.vector
    points = [{name: array[i] for name, array in arrays.items()} for i in range(count)]
    return arrays, [twin.bounded(traced, point, vector, dtype) for point in points]


def assert_within_bound(case, dtype, results):
    """Every element within the bound: the sum of the errors that correct rounding of each operation, and the vector math's
    promised 1 or 2 ulp, may leave, carried to the output. Typical results use a third of it, 2 to 5 ulp; near-equal terms that
    the formula subtracts make it large against the result, and it is relative to the terms then."""
    arrays, exact = exact_and_bound(case, dtype)
    for i, outputs in enumerate(exact):
        for role, (value, bound) in outputs.items():
            if role not in results:
                continue
            found = float(results[role][i])
            where = (str(case), role, {name: array[i] for name, array in arrays.items()})
            if mpmath.isnan(value):
                assert math.isnan(found), where
            elif math.isinf(twin.rounded(value, dtype)) or not math.isfinite(found):
                assert found == twin.rounded(value, dtype), where
            else:
                with mpmath.workdps(twin.DIGITS):
                    error = abs(mpmath.mpf(found) - value)
                    assert error <= bound, (*where, found, float(value), f"{float(error / bound):.2f} of the bound")


@pytest.mark.parametrize("want", ["v", "g", "vg", "gh", "vgh"])
@BOTH
@BY_CASE
def test_every_kernel_is_as_exact_as_the_formula_allows(case, dtype, want):
    arrays, _ = exact_and_bound(case, dtype)
    assert_within_bound(case, dtype, elements(case, arrays, want))


@BY_CASE
def test_the_bound_itself_is_a_few_ulp_where_nothing_cancels(case):
    """A bound that forgives everything would test nothing: half of the points are held to 64 ulp or less, of the result or,
    where that is smaller (tails of bells, differences), of a typical result."""
    _, exact = exact_and_bound(case, np.float64)
    for role in case.formula.roles("vgh"):
        pairs = [outputs[role] for outputs in exact if outputs[role][0] and mpmath.isfinite(outputs[role][0])]
        typical = sorted(abs(value) for value, _ in pairs)[len(pairs) // 2] if pairs else 0
        ulps = sorted(float(bound / twin.ulp(max(abs(value), typical), np.float64)) for value, bound in pairs)
        assert not ulps or ulps[len(ulps) // 2] <= 64, (role, ulps)


def neighbours(case, count, around, rng):
    """float32 inputs in clusters: `around` neighbours a few ulp about each of `count` points, inside the domains."""
    found = {}
    for name, array in inputs.columns(case, count, np.float32, seed=2).items():
        steps = rng.integers(-8, 9, (count, around)) * np.spacing(array)[:, None]
        domain = case.domains()[name]
        moved = (array[:, None] + steps).astype(np.float32)
        if isinstance(domain, Label):
            moved[:] = array[:, None]
        inside = np.vectorize(domain.contains)(moved.astype(float)) if domain.is_checked else True
        found[name] = np.where(inside, moved, array[:, None])
    return found


@BY_CASE
def test_float32_is_no_worse_than_plain_numpy(case):
    """Against the float64 kernel (itself tested against 50 digits): the largest error in a cluster of neighbours is at most
    NumPy's largest for the same formula, plus one ulp, plus what the vector math's ulp per function becomes in this formula
    (NumPy's own exp and log are correctly rounded on some machines), plus a quarter: fused multiply-adds
    round differently, in either direction, and the largest of 256 is a sample."""
    clusters = neighbours(case, 12, 256, np.random.default_rng(3))
    exact = elements(case, {name: array.astype(np.float64) for name, array in clusters.items()})
    kernel = elements(case, clusters)
    plain = twin.evaluate(case.traced, clusters, case.vector, np.float32)
    traced, vector = case.traced, case.vector
    for i in range(12):
        point = {name: array[i, 0] for name, array in clusters.items()}
        functions = twin.bounded(traced, point, vector, np.float32, arithmetic=False)
        for role, wanted in exact.items():
            if not np.isfinite(plain[role][i]).all():
                continue  # NumPy overflowed on the way: worse than that is impossible
            ulp = twin.ulp(np.abs(wanted[i]).max(), np.float32)
            allowed = np.abs(plain[role][i] - wanted[i]).max() + ulp + float(functions[role][1])
            assert np.abs(kernel[role][i] - wanted[i]).max() <= 1.25 * allowed, (role, point)


# --- 2: the five methods -------------------------------------------------------------------------------------------------


def test_the_five_methods_agree_bitwise():
    """That they agree to the rounding of the formula is test_every_kernel_is_as_exact_as_the_formula_allows."""
    for case, dtype in itertools.product(inputs.CASES, (np.float32, np.float64)):
        arrays = inputs.columns(case, 1500, dtype, seed=4)
        together = elements(case, arrays)
        for want in METHODS:
            for role, result in elements(case, arrays, want).items():
                inputs.assert_same(result, together[role])


@BY_LOSS
def test_what_the_methods_return(case):
    arrays = inputs.blocks(case, (3, 4), np.float32)
    value, grad, hess = call(case, arrays)
    assert type(value) is float
    several = len(case.formula.differentiable) > 1
    assert isinstance(grad, tuple) == several
    assert isinstance(hess, tuple) == several
    for array in inputs.flatten((grad, hess)):
        assert type(array) is np.ndarray
        assert (array.dtype, array.shape) == (np.float32, (3, 4))
        assert array.flags.c_contiguous
        assert array.flags.owndata
    assert call(case, arrays, "__call__", reduction="none").shape == (3, 4)


# --- 3: reductions, weights, normalizers ---------------------------------------------------------------------------------


def relative(dtype):
    """Sums in 64 lanes of the dtype per tile of 1024, then in double: 16 additions and a tree of 6 in the dtype at most."""
    return 24 * float(np.finfo(dtype).eps)


def assert_sum(value, terms, dtype):
    terms = terms.ravel().astype(float)
    assert abs(value - math.fsum(terms)) <= relative(dtype) * math.fsum(np.abs(terms))


def assert_scaled(results, terms, factor, dtype):
    """Each element the unscaled one times a factor, to the rounding of two products (weight and factor)."""
    for result, term in zip(inputs.flatten(results), inputs.flatten(terms), strict=True):
        wanted = term.astype(np.float64) * factor
        slack = 2 * np.finfo(dtype).eps * np.abs(wanted) + np.finfo(dtype).smallest_subnormal
        assert result.dtype == dtype
        assert (np.abs(result - wanted) <= slack).all()


@BOTH
@BY_LOSS
def test_sum_and_mean_are_those_of_the_elements(case, dtype):
    arrays = inputs.blocks(case, (37, 61), dtype, seed=5)
    value, grad, hess = call(case, arrays, reduction="none")
    total, total_grad, total_hess = call(case, arrays, reduction="sum")
    mean, mean_grad, mean_hess = call(case, arrays)
    assert_sum(total, value, dtype)
    inputs.assert_same((total_grad, total_hess), (grad, hess))
    assert mean == total / value.size
    assert_scaled((mean_grad, mean_hess), (grad, hess), 1 / value.size, dtype)


@pytest.mark.parametrize("shape", [(37, 61), (61,), (37, 1), (1, 1), ()], ids=str)
@BOTH
@BY_LOSS
def test_weights_multiply_elements_and_divide_the_mean(case, dtype, shape):
    arrays = inputs.blocks(case, (37, 61), dtype, seed=5)
    w = inputs.weights(shape, dtype) if shape not in ((), (1, 1)) else np.full(shape, 2.125, dtype)
    full = np.broadcast_to(w, (37, 61))
    value, grad, hess = call(case, arrays, reduction="none")
    weighted = call(case, arrays, reduction="none", sample_weight=w)
    assert_scaled(weighted, (value, grad, hess), full, dtype)
    assert any((array[full == 0] == 0).all() for array in inputs.flatten(weighted))
    total, *rest = call(case, arrays, reduction="sum", sample_weight=w)
    assert_sum(total, weighted[0], dtype)
    inputs.assert_same(tuple(rest), weighted[1:])
    mean, *rest = call(case, arrays, sample_weight=w)
    divisor = full.astype(float).sum()  # exact: the weights are multiples of 1/8
    assert mean == pytest.approx(total / divisor, rel=4e-16)
    assert_scaled(tuple(rest), (grad, hess), full / divisor, dtype)


@pytest.mark.parametrize("power", [-7, 20])
@BOTH
@BY_LOSS
def test_the_scale_of_the_weights_does_not_matter(case, dtype, power):
    """Bitwise, for powers of two: nothing rounds."""
    arrays = inputs.columns(case, 1100, dtype, seed=6)
    w = inputs.weights(1100, dtype)
    inputs.assert_same(call(case, arrays, sample_weight=w * dtype(2.0**power)), call(case, arrays, sample_weight=w))


@pytest.mark.parametrize("size", [1e-41, 1e38])
def test_weights_at_the_ends_of_float32(size):
    grad = np.full(4, 7, np.float32)
    with pytest.raises(
        ValueError, match="squared_error: the sum of sample_weight must be within float32's range, and its inverse"
    ):
        fl.squared_error.grad(np.ones(4, np.float32), 0.0, sample_weight=np.full(4, size, np.float32), grad_out=grad)
    assert (grad == 7).all()
    wide = fl.squared_error.grad(np.ones(4), 0.0, sample_weight=np.full(4, size, np.float32))
    np.testing.assert_allclose(wide, 0.5, rtol=1e-6)


@pytest.mark.parametrize(("normalizer", "dtype"), [(1e-42, "float32"), (1e40, "float32"), (1e-310, "float64")])
def test_normalizers_at_the_ends_of_the_range(normalizer, dtype):
    with pytest.raises(ValueError, match=f"squared_error: normalizer must be within {dtype}'s range, and its inverse"):
        fl.squared_error.grad(np.ones(2, dtype), 0.0, normalizer=normalizer)


@pytest.mark.parametrize("normalizer", [7.5, np.float32(0.125), 3, np.int64(1000), "samples"], ids=str)
@pytest.mark.parametrize("weighted", [False, True])
@BOTH
@BY_LOSS
def test_a_normalizer_is_what_the_mean_divides_by(case, dtype, weighted, normalizer):
    arrays = inputs.columns(case, 1100, dtype, seed=6)
    w = inputs.weights(1100, dtype) if weighted else None
    total, grad, hess = call(case, arrays, reduction="sum", sample_weight=w)
    value, *rest = call(case, arrays, sample_weight=w, normalizer=normalizer)
    divisor = 1100 if normalizer == "samples" else float(normalizer)
    assert value == total / divisor
    assert_scaled(tuple(rest), (grad, hess), 1 / divisor, dtype)


@BOTH
@BY_LOSS
def test_gradients_accumulate_over_parts_of_a_batch(case, dtype):
    arrays = inputs.columns(case, 1536, dtype, seed=7)
    w = inputs.weights(1536, dtype)
    divisor = float(w.sum(dtype=float))
    value, *rest = call(case, arrays, sample_weight=w)
    parts = [slice(0, 512), slice(512, 1536)]
    results = [call(case, {n: a[p] for n, a in arrays.items()}, sample_weight=w[p], normalizer=divisor) for p in parts]
    joined = [np.concatenate(pair) for pair in zip(*(inputs.flatten(tuple(r[1:])) for r in results), strict=True)]
    inputs.assert_same(tuple(joined), tuple(inputs.flatten(tuple(rest))))
    assert value == pytest.approx(sum(r[0] for r in results), rel=relative(dtype), abs=relative(dtype))


@BY_LOSS
def test_a_weight_of_zero_takes_out_even_nan(case):
    arrays = inputs.columns(case, 200, np.float64, seed=8)
    broken = {name: array.copy() for name, array in arrays.items()}
    broken[case.formula.inputs[0]][17] = math.nan
    w = np.full(200, 1.5)
    w[17] = 0
    results = call(case, broken, sample_weight=w)
    inputs.assert_same(results, call(case, arrays, sample_weight=w))
    assert math.isfinite(results[0])


# --- 4: dtypes -----------------------------------------------------------------------------------------------------------


def halves():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    return {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


@pytest.mark.fault(11)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("half", ["float16", "bfloat16"])
@BY_LOSS
def test_halves_are_computed_in_float32_and_rounded_once(case, half, reduction, weighted):
    dtype = halves()[half]
    arrays = inputs.columns(case, 1300, dtype, seed=9)
    w = inputs.weights(1300, np.float32) if weighted else None
    wide = {name: array.astype(np.float32) for name, array in arrays.items()}
    results = inputs.flatten(call(case, arrays, reduction=reduction, sample_weight=w))
    expected = inputs.flatten(call(case, wide, reduction=reduction, sample_weight=w))
    with np.errstate(over="ignore"):
        rounded = [e.astype(dtype) if isinstance(e, np.ndarray) else e for e in expected]
    inputs.assert_same(tuple(results), tuple(rounded))


TARGETS = [f"{sign}int{width}" for sign in ("", "u") for width in (8, 16, 32, 64)]
TARGETS += ["bool", "float16", "bfloat16", "float32", "float64"]


@pytest.mark.parametrize("pred", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("target", TARGETS)
@BY_LOSS
def test_targets_and_weights_of_any_dtype(case, pred, target):
    arrays = inputs.columns(case, 300, halves().get(pred, pred), seed=10)
    kernel = np.float64 if pred == "float64" else np.float32
    last = case.formula.inputs[-1] if len(case.formula.differentiable) > 1 else case.formula.inputs[1]
    last = "target" if "target" in arrays else last
    dtype = np.dtype(halves().get(target, target))
    with np.errstate(invalid="ignore"):
        values = np.abs(arrays[last].astype(kernel)) if dtype.kind in "ub" else arrays[last].astype(kernel)
    domain = case.domains()[last]
    typed = values.astype(dtype)
    if domain.is_checked:
        typed = np.where([domain.contains(float(v)) for v in typed], typed, dtype.type(1)).astype(dtype)
    w = inputs.weights(300).astype(dtype)
    results = call(case, arrays | {last: typed}, sample_weight=w)
    inputs.assert_same(results, call(case, arrays | {last: typed.astype(kernel)}, sample_weight=w.astype(kernel)))
    assert inputs.flatten(results)[1].dtype == arrays[case.formula.inputs[0]].dtype


def test_large_integers_are_rounded_once():
    big = np.array([2**63 + 2**40 + 1, 2**64 - 1, 2**24 + 1, 2**53 + 1], np.uint64)
    for dtype in (np.float32, np.float64):
        value = fl.absolute_error(np.zeros(4, dtype), big, reduction="none")
        np.testing.assert_array_equal(value, big.astype(dtype))
    least = np.array([-(2**63), -(2**24) - 1], np.int64)
    np.testing.assert_array_equal(fl.absolute_error(np.zeros(2), least, reduction="none"), -least.astype(float))


# --- 5: outputs ----------------------------------------------------------------------------------------------------------


def empties(case, shape, dtype, fill=np.nan):
    """An output array, or a tuple of them, as the loss returns gradients."""
    arrays = tuple(np.full(shape, fill, dtype) for _ in case.formula.differentiable)
    return arrays if len(arrays) > 1 else arrays[0]


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@BY_LOSS
def test_outputs_are_written_and_returned(case, dtype, reduction):
    dtype = np.dtype(halves().get(dtype, dtype))
    arrays = inputs.blocks(case, (3, 401), dtype, seed=11)
    expected = call(case, arrays, reduction=reduction)
    value_out = np.full((3, 401) if reduction == "none" else (), np.nan, dtype)
    grad_out, hess_out = empties(case, (3, 401), dtype), empties(case, (3, 401), dtype)
    value, grad, hess = call(case, arrays, reduction=reduction, value_out=value_out, grad_out=grad_out, hess_out=hess_out)
    assert value is value_out
    for result, given in zip(inputs.flatten((grad, hess)), inputs.flatten((grad_out, hess_out)), strict=True):
        assert result is given
    inputs.assert_same((grad, hess), expected[1:])
    with np.errstate(over="ignore"):
        inputs.assert_same(value, np.asarray(expected[0]).astype(dtype))
    for method in ("value_and_grad", "grad_and_hess", "grad"):
        out = empties(case, (3, 401), dtype)
        found = call(case, arrays, method, reduction=reduction, grad_out=out)
        inputs.assert_same(found, call(case, arrays, method, reduction=reduction))
        found = found[1] if method == "value_and_grad" else found[0] if method == "grad_and_hess" else found
        assert all(a is b for a, b in zip(inputs.flatten(found), inputs.flatten(out), strict=True))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("which", [0, 1])
@BOTH
@BY_LOSS
def test_gradients_may_replace_an_input(case, dtype, which, weighted):
    arrays = inputs.columns(case, 20000, dtype, seed=12)
    w = inputs.weights(20000, dtype) if weighted else None
    expected = call(case, arrays, "value_and_grad", sample_weight=w)
    own = {name: array.copy() for name, array in arrays.items()}
    inside = own[case.formula.inputs[which]]
    several = len(case.formula.differentiable) > 1
    out = (np.empty_like(inside), inside) if several else inside
    value, grad = call(case, own, "value_and_grad", sample_weight=w, grad_out=out)
    inputs.assert_same((value, grad), expected)
    assert inputs.flatten(grad)[-1] is inside


@BY_LOSS
def test_outputs_may_replace_several_inputs_at_once(case):
    arrays = inputs.columns(case, 5000, np.float32, seed=13)
    first, second = case.formula.inputs[:2]
    value, grad, hess = call(case, arrays, reduction="none")
    own = {name: array.copy() for name, array in arrays.items()}
    outs = {"value_out": own[second], "grad_out": own[first]}
    if len(case.formula.differentiable) > 1:
        outs["grad_out"] = (own[first], np.empty(5000, np.float32))
    results = call(case, own, reduction="none", **outs)
    inputs.assert_same(results, (value, grad, hess))


def test_weights_may_be_replaced_by_the_gradient():
    pred, target, w = (np.random.default_rng(k).random(3000) for k in range(3))
    expected = fl.huber.grad(pred, target, sample_weight=w)
    inputs.assert_same(fl.huber.grad(pred, target, sample_weight=w, grad_out=w), expected)


@pytest.mark.parametrize("shift", [-1025, -1024, -3, -1, 1, 2, 1023, 1024, 16385])
@BOTH
@BY_LOSS
def test_outputs_that_partly_overlap_an_input_are_right(case, dtype, shift):
    count = 18000
    arrays = inputs.columns(case, count, dtype, seed=14)
    expected = call(case, arrays, "grad", reduction="sum")
    memory = np.empty(count + abs(shift), dtype)
    first = case.formula.inputs[0]
    start = max(0, -shift)
    pred, out = memory[start : start + count], memory[start + shift : start + shift + count]
    pred[:] = arrays[first]
    several = len(case.formula.differentiable) > 1
    found = call(case, arrays | {first: pred}, "grad", reduction="sum", grad_out=(out, np.empty_like(pred)) if several else out)
    inputs.assert_same(found, expected)


@BOTH
def test_an_output_over_the_reversed_input_is_right(dtype):
    pred, target = np.random.default_rng(1).random((2, 5000)).astype(dtype)
    expected = fl.huber.grad(pred, target)
    inputs.assert_same(fl.huber.grad(pred, target, grad_out=pred[::-1]), expected)


def test_an_output_over_a_broadcast_input_is_right():
    memory = np.random.default_rng(1).random((40, 50))
    pred = np.random.default_rng(2).random((40, 50))
    expected = fl.huber.grad(pred, memory[3].copy())
    inputs.assert_same(fl.huber.grad(pred, memory[3], grad_out=memory), expected)


# --- 6: NaN --------------------------------------------------------------------------------------------------------------


@BOTH
@BY_CASE
def test_a_nan_stays_in_its_element(case, dtype):
    arrays = inputs.columns(case, 70, dtype, seed=15)
    clean = elements(case, arrays)
    for name, index in itertools.product(arrays, (0, 37, 69)):
        broken = arrays | {name: arrays[name].copy()}
        broken[name][index] = np.nan
        others = np.arange(70) != index
        for role, result in elements(case, broken).items():
            assert np.isnan(result[index]), (role, name)
            np.testing.assert_array_equal(inputs.bits(result[others]), inputs.bits(clean[role][others]), err_msg=role)
        assert math.isnan(call(case, broken, "__call__"))


# --- 7: extremes ---------------------------------------------------------------------------------------------------------

LOGITS = [c for c in inputs.CASES if c.name in ("binary_cross_entropy_with_logits", "focal", "asymmetric", "soft_margin")]


def extremes(dtype, strict):
    """Numbers from the ends of a dtype. Only losses of logits are asked for the last factor of 100 before overflow."""
    huge = 1e38 if dtype == np.float32 else 1e308
    last = [huge] if strict else []
    sizes = [math.inf, *last, huge / 100, 4 * math.sqrt(huge), 1e18, 1e4, 90.0, float(np.finfo(dtype).smallest_subnormal), 0.0]
    return [sign * size for size in sizes for sign in (1, -1)]


def limits(traced, point, vector):
    """The exact outputs; at infinity their limits, told by how they grow from 1e400 to 1e800 to 1e1600."""
    if all(math.isfinite(x) for x in point.values()):
        return oracle.evaluate(traced, point, vector)
    mp = mpmath
    found = {}
    with mp.workdps(twin.DIGITS):
        far = [{n: mp.sign(x) * mp.mpf(10) ** k if math.isinf(x) else x for n, x in point.items()} for k in (400, 800, 1600)]
        a, b, c = (oracle.evaluate(traced, there, vector) for there in far)
        for role in c:
            grows = abs(c[role]) > 1.5 * abs(b[role]) > 2.25 * abs(a[role])
            shrinks = 1.5 * abs(c[role]) < abs(b[role])
            found[role] = mp.inf * mp.sign(c[role]) if grows else mp.mpf(0) if shrinks else c[role]
    return found


def extreme_points(case, dtype):
    domains = case.domains()
    first, second, *others = domains
    far = {math.inf: 1e300, -math.inf: -1e300}
    preds = [x for x in extremes(dtype, case in LOGITS) if domains[first].contains(far.get(x, x))]
    targets = (-1.0, 1.0) if isinstance(domains[second], Label) else (0.0, 1.0, 0.25, -2.5, 3.0)
    if domains[second].is_checked:
        targets = [t for t in targets if domains[second].contains(t)]
    pairs = list(itertools.product(preds, targets))
    columns = {first: [p for p, _ in pairs], second: [t for _, t in pairs]} | {name: [1.0] * len(pairs) for name in others}
    return {name: np.array(column, dtype) for name, column in columns.items()}


@BOTH
@BY_CASE
def test_extremes_give_the_limit_and_never_nan(case, dtype):
    """Infinity where the exact result overflows, the limit at infinity, and something finite and right in between; a margin of
    1000 before overflow is the formula's, for a factor that it applies last."""
    arrays = extreme_points(case, dtype)
    results = elements(case, arrays)
    traced, vector = case.traced, case.vector
    most = float(np.finfo(dtype).max)
    for i in range(len(arrays[case.formula.inputs[0]])):
        point = {name: float(array[i]) for name, array in arrays.items()}
        for role, exact in limits(traced, point, vector).items():
            found, where = float(results[role][i]), (role, point)
            if mpmath.isnan(exact):
                continue
            assert not math.isnan(found), where
            if abs(exact) > most:
                assert found == math.copysign(math.inf, exact), where
            elif abs(exact) < most / 1000 or (case in LOGITS and role == "value"):
                assert math.isfinite(found), where
                # Below 1e-6 of the terms a result is their rounding; between, it has at least half the digits.
                assert found == pytest.approx(float(exact), rel=3e-4 if dtype == np.float32 else 1e-8, abs=1e-6), where


@BOTH
@pytest.mark.parametrize("case", LOGITS, ids=str)
def test_logits_of_any_size(case, dtype):
    hit, miss = [], []
    for size in (1e4, 1e38, np.inf):
        pred = np.array([size, -size, size, -size], dtype)
        value, grad, hess = call(case, {"pred": pred, "target": np.array([1, 0, 0, 1], dtype)}, reduction="none")
        hit.append(value[:2])
        miss.append(value[2:])
        assert np.isfinite(grad).all()
        assert np.isfinite(hess).all()
        assert (grad[:2] == 0).all() or case.parameters.get("label_smoothing")
        assert (hess[:2] == 0).all()
    if not case.parameters.get("label_smoothing"):
        assert all((v == 0).all() for v in hit)
    finite_miss = np.isfinite(miss[0]) & np.isfinite(miss[1])
    assert finite_miss.all()


@pytest.mark.fault(23)
@BOTH
def test_denormals_and_the_callers_floating_point_mode_are_kept(dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    pred = np.arange(1, 5001).astype(dtype) * tiny
    zeros = np.zeros(5000, dtype)
    np.testing.assert_array_equal(fl.absolute_error(pred, zeros, reduction="none"), pred)
    np.testing.assert_array_equal(fl.quantile(pred * 2, zeros, q=0.5, reduction="none"), pred)
    assert fl.absolute_error(pred, zeros, reduction="sum") == float(pred.astype(np.float64).sum()) > 0
    w = np.full(5000, tiny, dtype)
    np.testing.assert_array_equal(fl.absolute_error.grad(pred, zeros, sample_weight=w, reduction="sum"), w)
    assert (pred[:3] * dtype(1) != 0).all()
    assert 5e-324 * 1.0 > 0


def test_minus_zero_is_zero():
    for case in inputs.ONE_EACH:
        first = case.formula.inputs[0]
        if not case.domains()[first].contains(0):
            continue
        arrays = inputs.columns(case, 8, np.float64)
        results = [elements(case, arrays | {first: np.full(8, zero)}) for zero in (0.0, -0.0)]
        for role in results[0]:
            np.testing.assert_array_equal(results[0][role], results[1][role], err_msg=f"{case} {role}")


def test_a_mean_of_losses_near_overflow_is_finite():
    pred = np.full(100_000, 1e38, np.float32)
    assert fl.absolute_error(pred, np.zeros(1, np.float32)) == pytest.approx(1e38, rel=1e-6)
    value = fl.absolute_error(pred, np.zeros(1, np.float32), reduction="sum")
    assert value == pytest.approx(1e43, rel=1e-6)


# --- 8: threads ----------------------------------------------------------------------------------------------------------

THREAD_COUNTS = sorted({1, 2, 3, engine.available_cores()})


@pytest.fixture
def threads():
    before = fl.get_num_threads()
    yield fl.set_num_threads
    fl.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 1023, 1024, 1025, 16384, 16385, 49153, 300001])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_results_do_not_depend_on_the_number_of_threads(threads, dtype, count):
    """The costly losses, which are worth a second thread first."""
    w = inputs.weights(count, np.float32)
    for name in ("barron", "asymmetric", "gaussian_nll", "squared_error"):
        case = next(c for c in inputs.ONE_EACH if c.name == name)
        arrays = inputs.columns(case, count, dtype, seed=16)
        threads(1)
        alone = call(case, arrays, sample_weight=w)
        for number in THREAD_COUNTS:
            threads(number)
            for _ in range(3):
                inputs.assert_same(call(case, arrays, sample_weight=w), alone)


# --- 9: ISA levels -------------------------------------------------------------------------------------------------------

PACKAGE, SUFFIX = Path(levels.__file__).parent, sysconfig.get_config_var("EXT_SUFFIX")
LEVELS = ["x86-64-v2", "x86-64-v3", "x86-64-v4", "plain"]

EVALUATE = """
    import sys, numpy as np, fastloss as fl
    from fastloss._kernels.cpu import engine
    given = np.load(sys.argv[1], allow_pickle=True)
    found = {"isa": engine.ISA}
    for key in given["keys"]:
        name, parameters = given[key + "/case"].tolist()
        loss = getattr(fl, name)
        arrays = [given[f"{key}/{n}"] for n in loss.formula.inputs]
        value, grad, hess = loss.value_grad_hess(*arrays, reduction="none", **parameters)
        several = len(loss.formula.differentiable) > 1
        results = [value, *grad, *hess] if several else [value, grad, hess]
        for role, result in zip(loss.formula.roles("vgh"), results):
            found[f"{key}/{role}"] = result
    np.savez(sys.argv[2], **found)
"""


def python(code, *arguments, **environment):
    """Run a program in an interpreter of its own; an environment variable of None is taken out."""
    settings = {k: v for k, v in (os.environ | environment).items() if v is not None}
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, env=settings, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """All cases' inputs in both precisions, in one file."""
    path = tmp_path_factory.mktemp("isa") / "inputs.npz"
    held = {"keys": []}
    for (i, case), dtype in itertools.product(enumerate(inputs.CASES), (np.float32, np.float64)):
        key = f"{i}_{np.dtype(dtype).name}"
        held["keys"].append(key)
        held[key + "/case"] = np.array([case.name, case.parameters], dtype=object)
        arrays, _ = exact_and_bound(case, dtype)
        held |= {f"{key}/{name}": array for name, array in arrays.items()}
    np.savez(path, **held)
    return path


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_is_as_exact(level, questions, tmp_path):
    run = python(EVALUATE, questions, tmp_path / "results.npz", FASTLOSS_ISA=level)
    if run.returncode and "this processor runs" in run.stderr:
        assert level not in run.stderr.rsplit("(", 1)[1].split(")")[0], run.stderr
        pytest.skip(f"this build has no kernels for {level}, or this processor does not run it")
    assert run.returncode == 0, run.stderr
    results = np.load(tmp_path / "results.npz")
    assert results["isa"] == level
    for (i, case), dtype in itertools.product(enumerate(inputs.CASES), (np.float32, np.float64)):
        key = f"{i}_{np.dtype(dtype).name}"
        assert_within_bound(case, dtype, {role: results[f"{key}/{role}"] for role in case.formula.roles("vgh")})


@pytest.mark.parametrize("level", ["x86-64-v5", "avx2", "v", "0"])
def test_an_unknown_level_says_which_there_are(level):
    run = python("import fastloss", FASTLOSS_ISA=level)
    assert run.returncode == 1
    message = run.stderr.strip().splitlines()[-1]
    assert message.startswith(
        "ImportError: fastloss: FASTLOSS_ISA must be a level that this build has and this processor runs ("
    )
    assert engine.ISA in message
    assert message.endswith(f"got {level!r}")


def test_a_level_that_is_not_built_is_not_offered():
    missing = [name for name in levels.NAMES.values() if not (PACKAGE / f"tiles_{name.rsplit('-', 1)[-1]}{SUFFIX}").exists()]
    assert "plain" in missing or not engine.ISA.startswith("x86")
    for name in missing:
        run = python("import fastloss", FASTLOSS_ISA=name)
        assert run.returncode == 1
        offered = re.search(
            r"FASTLOSS_ISA must be a level that this build has and this processor runs \((.*)\), got", run.stderr
        )
        assert offered, run.stderr
        assert name not in offered[1].split(", ")


def test_the_short_names_of_levels():
    run = python("import fastloss._kernels.cpu.engine as e; print(e.ISA)", FASTLOSS_ISA=engine.ISA.rsplit("-", 1)[-1])
    assert run.stdout.strip() == engine.ISA, run.stderr


@pytest.mark.parametrize("count", ["0", "-1", "two", "1.5"])
def test_a_wrong_thread_count_in_the_environment(count):
    run = python("import fastloss", FASTLOSS_NUM_THREADS=count)
    assert run.returncode == 1
    assert f"FASTLOSS_NUM_THREADS must be a whole number >= 1, got {count!r}" in run.stderr


def test_thread_counts_of_the_environment():
    program = "import fastloss as fl; print(fl.get_num_threads())"
    assert python(program, FASTLOSS_NUM_THREADS="1").stdout.strip() == "1"
    cores = engine.available_cores()
    assert python(program, FASTLOSS_NUM_THREADS="4000").stdout.strip() == str(cores)
    assert python(program, FASTLOSS_NUM_THREADS="").stdout.strip() == str(cores)


# --- 10: arguments -------------------------------------------------------------------------------------------------------


@BY_LOSS
def test_inputs_by_name_equal_those_by_position(case):
    arrays = inputs.columns(case, 40)
    expected = call(case, arrays)
    inputs.assert_same(case.loss.value_grad_hess(**arrays, **case.parameters), expected)
    backwards = dict(reversed(arrays.items()))
    inputs.assert_same(case.loss.value_grad_hess(**case.parameters, **backwards), expected)
    first, *others = arrays
    mixed = {name: arrays[name] for name in reversed(others)}
    inputs.assert_same(case.loss.value_grad_hess(arrays[first], **mixed, **case.parameters), expected)


@BY_LOSS
def test_defaults_are_the_formulas(case):
    arrays = inputs.columns(case, 40)
    defaults = {name: domain.default for name, domain in case.formula.parameters.items()}
    inputs.assert_same(case.loss.value_grad_hess(*arrays.values(), check=False), call(case, arrays, check=False, **defaults))


@BY_CASE
def test_numbers_of_numpy_are_numbers(case):
    arrays = inputs.columns(case, 40)
    expected = call(case, arrays)
    for wrap in (np.float64, np.float32, np.asarray):
        wrapped = {n: wrap(v) if isinstance(v, float) else np.bool_(v) if isinstance(v, bool) else v for n, v in case.settings}
        inputs.assert_same(case.loss.value_grad_hess(*arrays.values(), **wrapped), expected)


@pytest.mark.parametrize("method", METHODS.values())
@BY_LOSS
def test_wrong_arguments_are_named(case, method):
    arrays = inputs.columns(case, 4)
    function, who = getattr(case.loss, method), case.name
    number = len(case.formula.inputs)
    takes = rf"{who}: takes {number} arrays \({', '.join(case.formula.inputs)}\), got"
    with pytest.raises(TypeError, match=f"{takes} {number + 1}; hyperparameters go by name"):
        function(*arrays.values(), 1.0)
    with pytest.raises(TypeError, match=f"{takes} 1"):
        function(next(iter(arrays.values())))
    with pytest.raises(TypeError, match=f"{takes} 0"):
        function()
    known = ", ".join([*case.formula.inputs, *case.formula.parameters])
    with pytest.raises(TypeError, match=rf"{who}: arguments must be among {known}, got 'temperature'"):
        function(*arrays.values(), temperature=2.0)
    first = case.formula.inputs[0]
    with pytest.raises(TypeError, match=rf"{who}.*'{first}'"):
        function(*arrays.values(), **{first: arrays[first]})


PARAMETERS = [(name, parameter) for name in inputs.LOSSES for parameter in inputs.LOSSES[name].formula.parameters]


@pytest.mark.parametrize(("name", "parameter"), PARAMETERS)
def test_hyperparameters_outside_their_domain(name, parameter):
    case = inputs.variants(name)[0]
    domain = case.formula.parameters[parameter]
    arrays = inputs.columns(case, 4)
    for wrong in ("1", "none", [1.0], np.ones(3), 1j, {}, b"1"):
        with pytest.raises(TypeError, match=f"{name}: {parameter} must be .*got "):
            call(case, arrays, **{parameter: wrong})
    if isinstance(domain, Flag):
        for wrong in (None, 2, math.nan):
            with pytest.raises(TypeError, match=f"{name}: {parameter} must be True or False, got {wrong}"):
                call(case, arrays, **{parameter: wrong})
        return
    with pytest.raises(TypeError, match=f"{name}: {parameter} must be a number.*, got True"):
        call(case, arrays, **{parameter: True})
    if not isinstance(domain, Optional):
        with pytest.raises(TypeError, match=f"{name}: {parameter} must be a number.*, got None"):
            call(case, arrays, **{parameter: None})
    interval = domain.domain if isinstance(domain, Optional) else domain
    tried = (interval.low - 1, interval.high + 1, interval.low, interval.high, -math.inf, math.inf)
    outside = [x for x in tried if not interval.contains(x)]
    assert outside
    for wrong in (math.nan, np.float32("nan"), *outside):
        with pytest.raises(ValueError) as caught:
            call(case, arrays, **{parameter: wrong})
        assert str(caught.value) == f"{name}: {parameter} must be {interval}, got {float(wrong):g}"


def test_hyperparameters_that_change_are_not_confused():
    """Many values in turn: the bound kernels are kept by value, and there is room for a limited number of them."""
    pred, target = np.linspace(-9, 9, 50), np.zeros(50)
    for _ in range(2):
        for delta in np.arange(1, 200) / 16:
            expected = twin.evaluate(fl.huber.formula.trace((None,)), {"pred": pred, "target": target}, [delta], np.float64)
            np.testing.assert_allclose(fl.huber(pred, target, delta=delta, reduction="none"), expected["value"], rtol=1e-15)


def test_equal_keys_of_different_variants_are_not_confused():
    """True == 1 == 1.0 in Python: a number must not find the kernel of a flag, nor a flag that of a number."""
    pred, target = np.full(3, 0.5), np.full(3, 2.0)
    assert fl.poisson_nll(pred, target, full=True) == fl.poisson_nll(pred, target, full=np.True_)
    fl.focal(pred, pred, gamma=1.0)
    with pytest.raises(TypeError, match="focal: gamma must be a number"):
        fl.focal(pred, pred, gamma=True)


@BY_LOSS
def test_losses_survive_pickle_and_copy(case):
    assert pickle.loads(pickle.dumps(case.loss)) is case.loss
    assert copy.deepcopy(case.loss) is case.loss
    assert case.name in repr(case.loss)


def test_the_registry_is_complete():
    assert len(set(fl.losses.POINTWISE)) == len(fl.losses.POINTWISE) > 30
    assert all(isinstance(getattr(fl, name), fl.Loss) for name in fl.losses.POINTWISE)
    assert {case.name for case in inputs.CASES} == set(fl.losses.POINTWISE)
    for case in inputs.CASES:
        for name, value in case.settings:
            domain = case.formula.parameters[name]
            special = getattr(getattr(domain, "domain", domain), "special", ())
            assert value is None or isinstance(domain, Flag) or value in special or value not in (0, domain.default)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in fl.losses.POINTWISE:
            assert getattr(fl, name).__doc__
