"""Losses where numbers leave the range and results do not, where limits do not exist, and where flags decide what data may be."""

import math

import numpy as np
import pytest

import fastloss as fl

INF, NAN = math.inf, math.nan
BOTH = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f32", "f64"])
ENTROPIES = ("cross_entropy", "focal_cross_entropy", "poly_cross_entropy", "generalized_cross_entropy")
LABELLED = (*ENTROPIES, "multi_margin", "sparsemax")
WEIGHTED = ("cross_entropy", "focal_cross_entropy", "multi_margin", "nll", "sparsemax")


def results(name, *inputs, dtype=np.float64, **options):
    """Every row's, or element's, value, gradients and Hessians, one after the other."""
    inputs = [np.array(x) if np.array(x).dtype.kind in "iu" else np.array(x, dtype) for x in inputs]
    value, grad, hess = getattr(fl, name).value_grad_hess(*inputs, reduction="none", **options)
    flat = [value]
    for each in (grad, hess):
        flat += each if isinstance(each, tuple) else [each]
    return flat


# --- limits -----------------------------------------------------------------------------------------------------------------


@pytest.mark.fault(21)
@BOTH
@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize("wide", [False, True])
def test_several_infinite_logits_have_no_limit_and_one_has(name, dtype, wide):
    rest = [0.0] * 70 if wide else [0.0]
    value, grad, hess = results(name, [[INF, INF, *rest], [-INF, -INF, *(-INF for _ in rest)]], [0, 1], dtype=dtype)
    assert np.isnan(value).all()
    assert np.isnan(grad).all()
    assert np.isnan(hess).all()
    value, grad, _ = results(name, [[INF, 1.0, *rest], [3.0, 1.0, *rest]], [0, 1], dtype=dtype)
    assert value[0] == 0
    assert not grad[0].any()
    assert value[1] > 0
    value, grad, _ = results(name, [[INF, 1.0, *rest], [1.0, -INF, *rest]], [1, 1], dtype=dtype)
    assert (value == (INF if name != "generalized_cross_entropy" else value)).all()
    assert (value > 1).all()


@pytest.mark.fault(21)
@pytest.mark.parametrize("options", [{"p": 2.0}, {"p": 1.5}, {"margin": 0.0}, {"p": 2.0, "margin": 0.0}], ids=str)
def test_margins_of_infinite_logits(options):
    value, _, _ = results("multi_margin", [[INF, 1, 0], [INF, INF, 0], [-INF, 1, 0], [-INF] * 3], [0, 0, 0, 0], **options)
    np.testing.assert_array_equal(value, [0, NAN, INF, NAN])


@pytest.mark.fault(21)
@pytest.mark.parametrize("name", ["kl_divergence", "js_divergence"])
def test_divergences_of_infinite_logits(name):
    one, two = [[INF, 1.0, 0.0]], [[INF, INF, 0.0]]
    value, *rest = results(name, one, one)
    assert value == 0
    assert not np.concatenate(rest).any()
    for pair in ((two, [[1.0, 2.0, 3.0]]), ([[1.0, 2.0, 3.0]], two), (two, two)):
        assert np.isnan(np.concatenate([np.ravel(r) for r in results(name, *pair)])).all()


def test_products_of_a_linear_layer_that_overflow():
    x, weight = np.full((1, 2), 1e30, np.float32), np.array([[1e30, 1e30], [1e30, 1e30], [0, 0]], np.float32)
    value, (grad, _) = fl.linear_cross_entropy.value_and_grad(x, weight, np.array([0]))
    assert math.isnan(value)
    assert np.isnan(grad).all()


def test_the_users_own_formulas_of_infinite_elements():
    pytest.importorskip("llvmlite")
    lse = fl.loss(fl.math.logsumexp)
    shifted = fl.loss(lambda x: fl.math.total(fl.math.exp(fl.math.below_peak(x)[0])))
    x = np.array([[INF, INF, 0.0], [INF, 1.0, 0.0], [-INF, -INF, -INF], [1.0, 1.0, 1.0]])
    value, grad = lse.value_and_grad(x, reduction="none")
    np.testing.assert_allclose(value, [INF, INF, -INF, 1 + math.log(3)])
    np.testing.assert_allclose(grad, [[NAN] * 3, [1, 0, 0], [0, 0, 0], [1 / 3] * 3])
    np.testing.assert_allclose(shifted(x, reduction="none"), [NAN, 1, NAN, 3])


@BOTH
@pytest.mark.parametrize("row", [[-INF, 1, 0], [INF, INF, 0], [-INF] * 3, [NAN, 1, 2]], ids=str)
@pytest.mark.parametrize("name", WEIGHTED)
def test_a_class_of_weight_0_leaves_its_rows_out(name, row, dtype):
    logits, labels, weight = [row, [1.0, 2.0, 3.0]], [0, 1], [0.0, 1.0, 2.0]
    found = results(name, logits, labels, class_weight=weight, dtype=dtype)
    alone = results(name, logits[1:], labels[1:], class_weight=weight, dtype=dtype)
    for result, expected in zip(found, alone, strict=True):
        assert not result[0].any()
        np.testing.assert_array_equal(result[1:], expected)
    mean = getattr(fl, name)(np.array(logits, dtype), labels, class_weight=weight)
    assert mean == pytest.approx(alone[0][0], rel=1e-6)


def test_weights_of_0_in_smoothed_and_soft_targets():
    logits, weight = [[-INF, 1.0, 0.0]], [0.0, 1.0, 2.0]
    value, grad, _ = results("cross_entropy", logits, [1], class_weight=weight, label_smoothing=0.25)
    rest = np.log(np.exp(1.0) + 1)
    expected = 0.75 * (rest - 1) + 0.25 / 3 * ((rest - 1) + 2 * rest)
    np.testing.assert_allclose(value, expected, rtol=1e-13)
    assert np.isfinite(grad).all()
    value, grad, _ = results("cross_entropy", logits, [[0.5, 0.25, 0.25]], class_weight=weight)
    np.testing.assert_allclose(value, 0.25 * (rest - 1) + 0.5 * rest, rtol=1e-13)
    value, _, _ = results("multilabel_soft_margin", logits, [[1.0, 0.0, 1.0]], class_weight=weight)
    assert np.isfinite(value).all()


# --- ranges -----------------------------------------------------------------------------------------------------------------

SIZES = {np.float32: (1e30, 1e20, 1e-20, 1e-25, 1e-30, 1e-37), np.float64: (1e200, 1e160, 1e-160, 1e-200, 1e-300)}


def close(found, expected, dtype, factor=64):
    np.testing.assert_allclose(found, expected, rtol=factor * float(np.finfo(dtype).eps), atol=0)


@pytest.mark.fault(57)
@BOTH
@pytest.mark.parametrize("length", [3, 70])
def test_cosines_of_rows_of_any_size(dtype, length):
    rng = np.random.default_rng(length)
    x1, x2 = rng.normal(size=(2, 1, length)).astype(dtype)
    value, first, second, *_ = results("cosine_distance", x1, x2, dtype=dtype)
    # Of smaller rows the gradient nears the largest number.
    for size in SIZES[dtype][:-1]:
        size = 2.0 ** round(math.log2(size))  # noqa: PLW2901
        for a, b in ((size, size), (size, 1.0), (1.0, size)):
            found = results("cosine_distance", x1 * dtype(a), x2 * dtype(b), dtype=dtype)
            close(found[0], value, dtype)
            close(found[1] * dtype(a), first, dtype, 4096)
            close(found[2] * dtype(b), second, dtype, 4096)
    for size in SIZES[dtype]:
        value, *_ = results("cosine_distance", [[size, 0]], [[size, 0]], dtype=dtype)
        assert value == 0
        value, *_ = results("cosine_distance", [[size, 0]], [[-size, 0]], dtype=dtype)
        assert value == 2
        value, *_ = results("cosine_embedding", [[max(size, 1.0), 0]], [[max(size, 1.0), 0]], [1], dtype=dtype)
        assert abs(value) <= 2e-6
    value, first, second, *hess = results("cosine_distance", [[0.0, 0.0]], [[1.0, 2.0]], dtype=dtype)
    assert value == 1
    close(first, [[-1e8 / math.sqrt(5), -2e8 / math.sqrt(5)]], dtype)
    assert not np.concatenate([second, *hess]).any()


@pytest.mark.fault(57)
@BOTH
@pytest.mark.parametrize("length", [3, 70])
def test_distances_of_any_size(dtype, length):
    rng = np.random.default_rng(length)
    anchor, positive, negative = rng.normal(size=(3, 1, length)).astype(dtype)
    far, near = np.linalg.norm(anchor - negative), np.linalg.norm(anchor - positive)
    for swap in (False, True):
        for size in SIZES[dtype]:
            scale = dtype(2.0 ** round(math.log2(size)))
            margin = float(10 * (far + near) * scale)
            x = [anchor * scale, positive * scale, negative * scale]
            options = {"margin": 10.0 * float(far + near), "eps": 0.0, "swap": swap, "dtype": dtype}
            if not np.isfinite(dtype(margin)) or margin < np.finfo(dtype).tiny:
                continue
            expected = results("triplet_margin", anchor, positive, negative, **options)
            found = results("triplet_margin", *x, **options | {"margin": margin})
            close(found[0] / scale, expected[0], dtype)
            for gradient, wanted in zip(found[1:4], expected[1:4], strict=True):
                close(gradient, wanted, dtype)
            if np.finfo(dtype).tiny * 1e4 < scale < 1:  # else it nears the ends of the range itself
                for hess, wanted in zip(found[4:], expected[4:], strict=True):
                    close(hess * scale, wanted, dtype, 4096)


@BOTH
def test_pairs_of_any_distance(dtype):
    for size in SIZES[dtype]:
        value, first, second, *_ = results("contrastive", [[size, 0]], [[-size, 0]], [0.0], dtype=dtype)
        close(value, [0.5 * max(1 - 2 * size, 0) ** 2], dtype)
        if size < 1:
            close(first, [[-1 + 2 * size, 0]], dtype)
        else:
            assert not np.concatenate([first, second]).any()
        _, first, second, hess, _ = results("contrastive", [[size, 0]], [[-size, 0]], [1.0], dtype=dtype)
        close(first, [[2 * size, 0]], dtype)
        close(second, [[-2 * size, 0]], dtype)
        close(hess, [[1, 1]], dtype)


def test_norms_in_users_own_formulas():
    pytest.importorskip("llvmlite")
    length = fl.loss(fl.math.norm2)
    value, grad = length.value_and_grad(np.array([[3e25, 4e25], [3e-25, 4e-25], [3, 4]], np.float32), reduction="none")
    np.testing.assert_allclose(value, [5e25, 5e-25, 5], rtol=1e-6)
    np.testing.assert_allclose(grad, [[0.6, 0.8]] * 3, rtol=1e-6)


EXTREMES = [
    ("gamma_nll", (-89.9, 0.0011), {}),
    ("gamma_nll", (-137.0, 4e-30), {}),
    ("gamma_nll", (103.0, 1e8), {}),
    ("tweedie", (-89.9, 0.0011), {"power": 2.0}),
    ("tweedie", (-66.0, 3.5e-27), {"power": 2.75}),
    ("tweedie", (-157.0, 2.5e21), {"power": 0.375}),
    ("tweedie", (-105.0, 1.5e22), {"power": 0.0}),
    ("negative_binomial", (121.0, 2e24), {"dispersion": 0.375}),
    ("negative_binomial", (-111.0, 4e31), {"dispersion": 0.375}),
    ("gaussian_nll", (-0.5, -4.8e34, 5.5e34), {}),
    ("gaussian_nll", (1.0, -3e19, 4.75), {}),
    ("kl_div", (-1e10, -100.0), {"log_target": True}),
    ("barron", (-1.65e29, 3.5e18), {"alpha": 0.375, "c": 2.75}),
]


@pytest.mark.fault(57)
@pytest.mark.parametrize(("name", "point", "options"), EXTREMES, ids=str)
def test_float32_where_only_what_is_on_the_way_leaves_its_range(name, point, options):
    point = [[x] for x in np.array(point, np.float32).tolist()]
    exact = results(name, *point, **options)
    found = results(name, *point, dtype=np.float32, **options)
    compared = 0
    for single, double in zip(found, exact, strict=True):
        if 1e-37 < abs(double[0]) < 3e38:
            compared += 1
            np.testing.assert_allclose(single, double, rtol=2e-4)
    assert compared


# --- half deviances ---------------------------------------------------------------------------------------------------------


def half_deviance(mp, x, target, power):
    x, t, k = mp.mpf(x), mp.mpf(target), mp.mpf(power)
    mean = mp.e**x
    if k == 1:
        return (t * mp.log(t / mean) if t else 0) - t + mean
    if k == 2:
        return t / mean - 1 - mp.log(t / mean)
    return (t ** (2 - k) if t else 0) / ((1 - k) * (2 - k)) - t * mean ** (1 - k) / (1 - k) + mean ** (2 - k) / (2 - k)


POWERS = [0, 1, 2, 1 + 1e-9, 1 - 1e-9, 2 - 1e-9, 2 + 1e-9, 1 + 1e-4, 1.25, 1.5, 1.9, 2.25, 3, 5, -1, -3, 0.5]


@pytest.mark.parametrize("power", POWERS)
def test_tweedie_in_full_is_half_the_deviance(power):
    mp = pytest.importorskip("mpmath").mp
    with mp.workdps(50):
        for x, target in ((0.5, 2.0), (0.5, 1.6), (-3.0, 4.0), (4.0, 0.125), (1.0, 2.75), (5.0, 300.0), (0.25, 0.0)):
            if target == 0 and power >= 2:
                continue
            found = fl.tweedie([x], [target], power=float(power), full=True)
            assert found == pytest.approx(float(half_deviance(mp, x, target, power)), rel=1e-12)
            short = fl.tweedie.value_grad_hess([x], [target], power=float(power))
            assert fl.tweedie.value_grad_hess([x], [target], power=float(power), full=True)[1:] == short[1:]


def test_half_deviances_of_the_issue_and_of_the_other_families():
    mp = pytest.importorskip("mpmath").mp
    assert fl.tweedie([0.5], [2.0], power=1.0, full=True) == pytest.approx(0.035015631820, rel=1e-10)
    assert fl.tweedie([0.5], [2.0], power=1 + 1e-9, full=True) == pytest.approx(0.035015631820, rel=1e-8)
    assert fl.tweedie([0.5], [2.0], power=2.0, full=True) == pytest.approx(0.019914138865, rel=1e-10)
    with mp.workdps(50):
        for x, t in ((0.5, 2.0), (0.5, 1.65), (-3.0, 4.0), (4.0, 0.125), (30.0, 1.0), (-30.0, 1.0)):
            assert fl.gamma_nll([x], [t], full=True) == pytest.approx(float(half_deviance(mp, x, t, 2)), rel=1e-12)
            assert fl.inverse_gaussian([x], [t], full=True) == pytest.approx(float(half_deviance(mp, x, t, 3)), rel=1e-12)
            for a in (1e-3, 0.375, 2.75, 1e4):
                mean, target = mp.e ** mp.mpf(x), mp.mpf(t)
                wanted = target * mp.log(target / mean) - (target + 1 / mp.mpf(a)) * mp.log((1 + a * target) / (1 + a * mean))
                found = fl.negative_binomial([x], [t], dispersion=a, full=True)
                assert found == pytest.approx(float(wanted), rel=1e-11), (x, t, a)
    assert fl.negative_binomial([0.5], [0.0], dispersion=2.0, full=True) == pytest.approx(math.log1p(2 * math.exp(0.5)) / 2)


# --- domains that depend on a hyperparameter --------------------------------------------------------------------------------


@pytest.mark.fault(28)
@pytest.mark.parametrize(
    ("name", "point", "wrong", "right", "message"),
    [
        ("poisson_nll", (-0.5, 0.0), {"log_input": False}, {"log_input": True}, "pred must be >= 0"),
        ("kl_div", (-0.5, -0.25), {"log_target": False}, {"log_target": True}, "target must be >= 0"),
        ("tweedie", (0.5, 0.0), {"power": 2.0}, {"power": 1.5}, "target must be > 0"),
        ("tweedie", (0.5, 0.0), {"power": 2.75, "full": True}, {"power": 1.0}, "target must be > 0"),
    ],
)
def test_what_data_may_be_depends_on_a_hyperparameter(name, point, wrong, right, message):
    loss, arrays = getattr(fl, name), [np.array([1.0, x, 1.0]) for x in point]
    out = np.full(3, 7.0)
    with pytest.raises(ValueError, match=f"{name}: {message}, got"):
        loss.value_and_grad(*arrays, grad_out=out, **wrong)
    assert (out == 7).all()
    loss.value_and_grad(*arrays, **wrong, check=False)
    assert math.isfinite(loss(*arrays, **right))


# --- users' own formulas ----------------------------------------------------------------------------------------------------


@pytest.mark.fault(59)
def test_long_and_deep_formulas():
    pytest.importorskip("llvmlite")
    factors = np.random.default_rng(0).normal(size=1001) / np.arange(1, 1002)
    x = np.linspace(-1, 1, 7)

    @fl.loss
    def horner(pred, target):
        found = 0.0 * pred
        for factor in factors:
            found = found * pred + factor
        return found - target

    value, grad, hess = horner.value_grad_hess(x, x, reduction="none")
    np.testing.assert_allclose(value, np.polyval(factors, x) - x, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(grad, np.polyval(np.polyder(factors), x), rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(hess, np.polyval(np.polyder(factors, 2), x), rtol=1e-8, atol=1e-8)

    @fl.loss
    def terms(pred, target):
        return sum(fl.math.exp(pred * (k / 1000)) for k in range(1000)) * target

    np.testing.assert_allclose(
        terms(x, x, reduction="none"), np.exp(np.outer(x, np.arange(1000) / 1000)).sum(1) * x, rtol=1e-12
    )

    @fl.loss
    def row(pred, target):
        found = 0.0 * pred
        for factor in factors:
            found = found * pred + factor
        return fl.math.total(found - target)

    np.testing.assert_allclose(row.grad(x[None], x[None]), [np.polyval(np.polyder(factors), x)], rtol=1e-9, atol=1e-10)
    assert len(repr(horner.formula.trace(()).outputs["value"])) < 1000


def test_deep_formulas_at_50_digits():
    pytest.importorskip("mpmath")
    from fastloss.checking.rounding import bounded
    from fastloss.formula import Formula, oracle

    def horner(pred, target):
        found = 0.0 * pred
        for k in range(1, 2000):
            found = found * pred + 1 / k
        return found - target

    traced = Formula.define(horner).trace(())
    exact = oracle.evaluate(traced, {"pred": 0.5, "target": 1.0}, [])
    assert float(exact["value"]) == pytest.approx(np.polyval(1 / np.arange(1.0, 2000), 0.5) - 1)
    value, bound = bounded(traced, {"pred": 0.5, "target": 1.0}, [], np.float64)["grad_pred"]
    assert abs(value - exact["grad_pred"]) <= bound


@pytest.mark.fault(59)
def test_names_and_numbers_of_formulas():
    pytest.importorskip("llvmlite")

    @fl.loss
    def fehlermaß(größe, target, δ=1.5):  # noqa: PLC2401
        return (größe - target) ** 2 * δ

    assert fehlermaß([2.0], [1.0]) == 1.5
    assert fehlermaß([2.0], [1.0], δ=2.0) == 2.0
    assert fehlermaß.__name__ == "fehlermaß"

    @fl.loss
    def zeilenmaß(größe, target):  # noqa: PLC2401
        return fl.math.total(größe * target)

    assert zeilenmaß([[2.0, 3.0]], [[1.0, 1.0]]) == 5.0

    @fl.update_rule(schrittweite=fl.Positive(0.5))
    def Abstieg(param, grad, schrittweite):
        return (param - schrittweite * grad,)

    weights = np.ones(2)
    Abstieg(weights).step(np.ones(2))
    assert weights.tolist() == [0.5, 0.5]
    for huge in (lambda x, y: (x - y) * 10**400, lambda x, y: x + 10.0**400 - y, lambda x, y: fl.math.where(x > 10**400, x, y)):
        with pytest.raises(fl.FormulaError, match=r"within the range of float64.*\(line \d+ of test_ranges.py: .*400"):
            fl.loss(huge)
    with pytest.raises(fl.FormulaError, match="E: states must have names that the optimizer does not use itself, got 'ema'"):

        @fl.update_rule(lr=fl.Positive(0.5))
        def E(param, grad, ema, lr):
            return param - lr * grad, ema


@pytest.mark.parametrize("names", [("t0", "u0"), ("t1", "t2")])
def test_hyperparameters_called_as_the_emitted_text_calls_its_own(names):
    from fastloss._kernels.jit import interpreted
    from fastloss.formula import Formula, Positive, python

    first, second = names
    scope = {"fl": fl}
    exec(
        f"def f(pred, target, {first}, {second}):\n    e = fl.math.exp({first})\n    return e * pred + e * {second} * target",
        scope,
    )
    formula = Formula.define(scope["f"], **dict.fromkeys(names, Positive(2.0)))
    traced = formula.trace(next(iter(formula.choices())))
    found = interpreted.uniforms(python.uniforms_text(traced, "uniforms"), "uniforms", [2.0, 3.0, 1.0])
    assert sorted(found)[-1] == pytest.approx(3 * math.exp(2.0))
