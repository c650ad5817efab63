"""The roads into SciPy: linear models, robust losses of least squares, low-level callables, and line searches."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastloss as fl

from . import inputs

optimize = pytest.importorskip("scipy.optimize")
sparse = pytest.importorskip("scipy.sparse")
integrate = pytest.importorskip("scipy.integrate")

ROWS, FEATURES = 3000, 4
LOGISTIC = fl.binary_cross_entropy_with_logits
# A loss, its hyperparameters away from their defaults, and what makes targets for it of numbers around 0.
MODELS = {
    "logistic": (LOGISTIC, {"pos_weight": 1.5, "label_smoothing": 0.1}, lambda eta: (eta > 0).astype(float)),
    "huber": (fl.huber, {"delta": 0.7}, lambda eta: eta),
    "poisson": (fl.poisson_nll, {}, lambda eta: np.floor(np.exp(eta))),
    "cross_entropy": (fl.cross_entropy, {"label_smoothing": 0.1}, lambda eta: np.digitize(eta, [-0.5, 0.5])),
}


def problem(name, seed=0, dtype=np.float64):
    loss, parameters, targets = MODELS[name]
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(ROWS, FEATURES))
    y = targets(X @ [0.5, -0.3, 0.2, 0.1] + 0.3 * rng.normal(size=ROWS))
    return loss, parameters, X.astype(dtype), y, rng.integers(0, 5, ROWS).astype(float)


def plain(loss, parameters, X, y, weights, vector, l2=0.0, l1=0.0, smoothing=1e-3, reduction="mean", intercept=True):
    """The same value by whole arrays, and a penalty as its formula is written."""
    outputs = int(y.max()) + 1 if loss is fl.cross_entropy else 0
    count = max(outputs, 1) * X.shape[1]
    coefficients = vector[:count].reshape((outputs, X.shape[1]) if outputs else X.shape[1])
    eta = X @ coefficients.T + (vector[count:] if intercept else 0)
    value = loss(eta, y, sample_weight=weights, reduction=reduction, **parameters)
    penalty = l2 / 2 * (vector[:count] ** 2).sum() + l1 * (np.sqrt(vector[:count] ** 2 + smoothing**2) - smoothing).sum()
    return value + penalty


OPTIONS = {
    "bare": {},
    "penalties": {"l2": 0.3, "l1": 0.2, "l1_smoothing": 0.05, "fit_intercept": True},
    "sum": {"reduction": "sum", "l2": 0.3},
}


@pytest.mark.parametrize("form", ["dense", "fortran", "sparse", "float32"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_objective_is_what_it_says(name, weighted, options, form, monkeypatch):
    monkeypatch.setattr("fastloss.adapters.scipy._BLOCK", 1 << 14)  # several blocks
    loss, parameters, X, y, weights = problem(name)
    options, weights = OPTIONS[options], weights if weighted else None
    given = {"dense": X, "fortran": np.asfortranarray(X), "sparse": sparse.csc_array(X), "float32": X.astype(np.float32)}[form]
    model = fl.as_scipy(loss, given, y, sample_weight=weights, **options, **parameters)
    intercept, settings = options.get("fit_intercept", False), {n: v for n, v in options.items() if n != "fit_intercept"}
    settings["smoothing"] = settings.pop("l1_smoothing", 1e-3)
    rng = np.random.default_rng(1)
    at, along = rng.normal(size=model.size) / 3, rng.normal(size=model.size)

    def value(vector):
        return plain(loss, parameters, X, y, weights, vector, intercept=intercept, **settings)

    close = {"rtol": 1e-4, "atol": 1e-4} if form == "float32" else {"rtol": 1e-9, "atol": 1e-9}
    assert model.start.shape == (model.size,)
    np.testing.assert_allclose(model.fun(at), value(at), **close)
    step = 1e-5
    slopes = [(value(at + step * unit) - value(at - step * unit)) / (2 * step) for unit in np.eye(model.size)]
    scale = abs(np.array(slopes)).max()
    np.testing.assert_allclose(model.grad(at) / scale, np.array(slopes) / scale, rtol=1e-4, atol=1e-4)
    turned = (model.grad(at + step * along) - model.grad(at - step * along)) / (2 * step)
    scale = abs(turned).max()
    np.testing.assert_allclose(
        model.hessp(at, along) / scale, turned / scale, rtol=1e-2, atol=0.1 if form == "float32" else 1e-2
    )
    found, slope = model.fun_and_grad(at)
    assert isinstance(found, float)
    assert slope.dtype == np.float64
    slope[:] = 0  # the caller's own
    assert model.grad(at).any()


@pytest.mark.parametrize("name", MODELS)
def test_minimize_by_two_roads(name):
    loss, parameters, X, y, weights = problem(name)
    model = fl.as_scipy(loss, X, y, sample_weight=weights, fit_intercept=True, l2=1e-2, **parameters)
    first = optimize.minimize(
        model.fun_and_grad, model.start, jac=True, method="L-BFGS-B", options={"gtol": 1e-9, "ftol": 1e-15}
    )
    newton = optimize.minimize(model.fun, model.start, jac=model.grad, hessp=model.hessp, method="trust-krylov")
    assert first.success
    assert np.abs(first.jac).max() < 1e-5
    np.testing.assert_allclose(first.x, newton.x, atol=1e-3)
    coefficients, intercept = model.unpack(first.x)
    several = name == "cross_entropy"
    assert coefficients.shape == ((3, FEATURES) if several else (FEATURES,))
    assert np.shape(intercept) == ((3,) if several else ())


def test_agrees_with_sklearn():
    linear = pytest.importorskip("sklearn.linear_model")
    _, _, X, y, weights = problem("logistic")
    theirs = linear.LogisticRegression(C=1.0, tol=1e-10, max_iter=1000).fit(X, y, sample_weight=weights)
    model = fl.as_scipy(LOGISTIC, X, y, sample_weight=weights, fit_intercept=True, l2=1.0, reduction="sum")
    found = optimize.minimize(
        model.fun_and_grad, model.start, jac=True, method="L-BFGS-B", options={"gtol": 1e-8, "ftol": 1e-16}
    )
    coefficients, intercept = model.unpack(found.x)
    np.testing.assert_allclose(coefficients, theirs.coef_[0], rtol=1e-5)
    np.testing.assert_allclose(intercept, theirs.intercept_[0], rtol=1e-5)


def test_one_pass_serves_value_and_gradient(monkeypatch):
    loss, parameters, X, y, _ = problem("huber")
    model, passes = fl.as_scipy(loss, X, y, **parameters), []
    whole = type(model)._pass
    monkeypatch.setattr(type(model), "_pass", lambda self, weights: passes.append(1) or whole(self, weights))
    at = np.ones(model.size)
    model.fun(at), model.grad(at), model.hessp(at, at)
    assert len(passes) == 1
    at += 1  # in place, as optimizers do
    assert model.fun(at) == plain(loss, parameters, X, y, None, at, intercept=False) or len(passes) == 2


REFUSED = {
    "X must have shape (samples, features), at least one of each, got (3000,)": lambda p: p | {"X": p["y"]},
    "X must be of dtype float32 or float64, got int64": lambda p: p | {"X": p["X"].astype(int)},
    "y must have shape (3000,), one number for each row of X, got (2999,)": lambda p: p | {"y": p["y"][:-1]},
    "sample_weight must have y's shape (3000,), got (3,)": lambda p: p | {"sample_weight": np.ones(3)},
    "reduction must be 'mean' or 'sum', got 'none'": lambda p: p | {"reduction": "none"},
    "l2 must be >= 0, got -1": lambda p: p | {"l2": -1},
    "l1_smoothing must be > 0, got 0": lambda p: p | {"l1": 1.0, "l1_smoothing": 0.0},
    "hyperparameters must be among delta, got 'detla'": lambda p: p | {"detla": 1.0},
    "loss must be a loss with one gradient": lambda p: p | {"loss": fl.gaussian_nll},
    "loss must be of single elements, or of rows and a label each": lambda p: p | {"loss": fl.multilabel_margin},
    "the sum of sample_weight must be above 0, got 0": lambda p: p | {"sample_weight": np.zeros(ROWS)},
}


@pytest.mark.parametrize("said", REFUSED)
def test_bad_use_of_as_scipy(said):
    _, _, X, y, _ = problem("huber")
    with pytest.raises((TypeError, ValueError)) as caught:
        fl.as_scipy(**REFUSED[said]({"loss": fl.huber, "X": X, "y": y}))
    assert str(caught.value).startswith(f"as_scipy: {said}")


def test_the_loss_speaks_for_its_own_inputs():
    _, _, X, y, weights = problem("huber")
    with pytest.raises(ValueError, match=r"huber: sample_weight must be finite and not negative, got -1 at index 0"):
        fl.as_scipy(fl.huber, X, y, sample_weight=np.where(np.arange(ROWS) == 0, -1, weights))
    with pytest.raises(ValueError, match=r"gamma_nll: target must be > 0, got"):
        fl.as_scipy(fl.gamma_nll, X, y)
    with pytest.raises(TypeError, match=r"as_scipy: y must hold whole numbers, the rows' labels, got dtype float64"):
        fl.as_scipy(fl.cross_entropy, X, y)
    model = fl.as_scipy(fl.huber, X, y)
    with pytest.raises(ValueError, match=r"as_scipy: weights must have shape \(4,\), got \(5,\)"):
        model.fun(np.zeros(5))


# --- least squares ------------------------------------------------------------------------------------------------------------

SCIPY_OWN = {
    "huber": (fl.huber, "delta"),
    "soft_l1": (fl.pseudo_huber, "delta"),
    "cauchy": (fl.cauchy, "c"),
    "arctan": (fl.arctan, "c"),
}


def curve(p):
    t = np.linspace(0, 10, 60)
    data = 3 * np.exp(-0.5 * t) + 0.1 * np.sin(37 * t)
    data[::7] += 2
    return p[0] * np.exp(-p[1] * t) + p[2] - data


@pytest.mark.parametrize("scale", [1.0, 0.1])
@pytest.mark.parametrize("name", SCIPY_OWN)
def test_least_squares_finds_what_scipy_finds(name, scale):
    loss, parameter = SCIPY_OWN[name]
    start = [1.0, 1.0, 0.0]
    theirs = optimize.least_squares(curve, start, loss=name, f_scale=scale, xtol=1e-12, ftol=1e-12, gtol=1e-12)
    rho = fl.as_least_squares_loss(loss, **{parameter: scale})
    ours = optimize.least_squares(curve, start, loss=rho, xtol=1e-12, ftol=1e-12, gtol=1e-12)
    by_f_scale = optimize.least_squares(
        curve, start, loss=fl.as_least_squares_loss(loss), f_scale=scale, xtol=1e-12, ftol=1e-12, gtol=1e-12
    )
    for found in (ours, by_f_scale):
        np.testing.assert_allclose(found.x, theirs.x, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(found.cost, theirs.cost, rtol=1e-9)


@pytest.mark.parametrize("name", SCIPY_OWN)
def test_rho_is_scipys(name):
    from scipy.optimize._lsq.least_squares import IMPLEMENTED_LOSSES

    z = np.concatenate([[0.0, 1e-300, 1e-12, 1.0], np.geomspace(1e-6, 1e6, 50)])
    theirs = np.empty((3, len(z)))
    IMPLEMENTED_LOSSES[name](z, theirs, cost_only=False)
    ours = fl.as_least_squares_loss(SCIPY_OWN[name][0])(z)
    np.testing.assert_allclose(ours[:2], theirs[:2], rtol=1e-10, atol=1e-15)
    # What least_squares makes of the second derivative.
    np.testing.assert_allclose(ours[2] * z, theirs[2] * z, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("loss", [fl.absolute_error, fl.quantile, fl.exponential, fl.cross_entropy, fl.gaussian_nll], ids=repr)
def test_losses_that_are_no_rho(loss):
    with pytest.raises((TypeError, ValueError), match="as_least_squares_loss: loss must "):
        fl.as_least_squares_loss(loss)


# --- callables without Python -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", inputs.ONE_EACH, ids=str)
def test_quad_integrates_every_loss_without_python(case):
    columns = inputs.columns(case, 2)
    first, *others = (float(x[0]) for x in columns.values())
    # Where the formula has a domain, inside it.
    low, high = (0.4, 0.6) if next(iter(case.domains().values())).is_checked else (first - 0.1, first + 0.1)
    loss = fl.as_low_level_callable(case.loss, **case.parameters)
    found, _ = integrate.quad(loss, low, high, args=tuple(others))
    expected, _ = integrate.quad(lambda x: case.loss(x, *others, **case.parameters), low, high)
    assert found == expected


def test_low_level_callable_outlives_its_maker():
    loss = fl.as_low_level_callable(fl.huber, delta=0.5)
    again = fl.as_low_level_callable(fl.huber, delta=50.0)
    del again
    assert integrate.quad(loss, -3, 3, args=(0.0,))[0] == pytest.approx(
        2 * (0.5**3 / 6 + 0.5 * (4.5 - 0.125) - 0.5 * 0.25 * 2.5)
    )
    with pytest.raises(TypeError, match="as_low_level_callable: loss must be a loss of single elements"):
        fl.as_low_level_callable(fl.cross_entropy)


# --- line search --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", inputs.ONE_EACH, ids=str)
def test_line_is_the_loss_along_it(case, dtype):
    columns = list(inputs.columns(case, 40_000, dtype).values())
    direction = np.random.default_rng(3).uniform(0, 1 / 64, 40_000).astype(dtype)
    weights, step = inputs.weights(direction.shape, dtype), 0.25
    if case.domains()[case.formula.inputs[0]].is_checked:
        columns[0], step = np.clip(columns[0], 0.01, 0.9).astype(dtype), 0.25
    moved = columns[0] + dtype(step) * direction
    for options in ({}, {"sample_weight": weights}, {"sample_weight": weights, "reduction": "sum"}, {"normalizer": 7.0}):
        found = fl.line_search(case.loss, *columns, direction=direction, step=step, **options, **case.parameters)
        _, grad, hess = case.loss.value_grad_hess(moved, *columns[1:], **options, **case.parameters)
        if len(case.formula.differentiable) > 1:
            grad, hess = grad[0], hess[0]
        value = case.loss(moved, *columns[1:], **options, **case.parameters)
        wide = direction.astype(np.float64)
        expected = value, (grad * wide).sum(), (hess * wide * wide).sum()
        scale = [abs(value), (abs(grad) * wide).sum(), (abs(hess) * wide * wide).sum()]
        for number, wanted, size in zip(found, expected, scale, strict=True):
            assert isinstance(number, float)
            assert abs(number - wanted) <= (1e-4 if dtype == np.float32 else 1e-10) * size + 1e-30


def test_line_takes_any_layout_and_writes_nothing():
    pred, target, direction = (np.random.default_rng(k).normal(size=(30, 40)) for k in range(3))
    expected = fl.line_search(fl.huber, pred, target, direction=direction, step=0.5, delta=0.3)
    for name, awkward in inputs.AWKWARD.items():
        given = [awkward(a) for a in (pred, target, direction)]
        assert fl.line_search(fl.huber, *given[:2], direction=given[2], step=0.5, delta=0.3) == expected, name
        for a, b in zip(given, (pred, target, direction), strict=True):
            np.testing.assert_array_equal(a, b)
    assert fl.line_search(fl.huber, pred, 0.0, direction=1.0, step=0.0).value == fl.huber(pred, 0.0)


def test_line_does_not_depend_on_threads():
    pred, direction = np.linspace(-3, 3, 10**6), np.ones(10**6)
    found = []
    for threads in (1, 2):
        with fl.threadpool_limits(threads):
            found.append(fl.line_search(fl.log_cosh, pred, 0.0, direction=direction, step=0.1))
    assert found[0] == found[1]


def test_bad_lines():
    ones = np.ones(3)

    def refused(error, said, *arguments, **options):
        with pytest.raises(error) as caught:
            fl.line_search(*arguments, **{"direction": ones} | options)
        assert str(caught.value).startswith(said)

    refused(TypeError, "line_search: loss must be a loss of single elements", fl.cross_entropy, ones, ones)
    refused(TypeError, "line_search: loss must be a loss of single elements", np.sum, ones, ones)
    refused(
        ValueError, "huber: direction must broadcast to pred's shape (3,), got (4,)", fl.huber, ones, ones, direction=np.ones(4)
    )
    refused(
        TypeError,
        "huber: direction must be a floating-point array, got dtype int64",
        fl.huber,
        ones,
        ones,
        direction=np.ones(3, int),
    )
    refused(ValueError, "huber: reduction must be 'mean' or 'sum' along a line", fl.huber, ones, ones, reduction="none")
    refused(ValueError, "huber: step must be a real number, got nan", fl.huber, ones, ones, step=np.nan)
    refused(ValueError, "huber: delta must be > 0", fl.huber, ones, ones, delta=-1)
    refused(TypeError, "huber: takes 2 arrays (pred, target), got 1", fl.huber, ones)
    refused(ValueError, "huber: sample_weight must be finite", fl.huber, ones, ones, sample_weight=-ones)
    refused(ValueError, "huber: normalizer goes with reduction='mean'", fl.huber, ones, ones, reduction="sum", normalizer=2)
    inside = np.array([0.5, 0.9, 0.5])
    said = "binary_cross_entropy: pred must be in [0, 1], got 1.4 at index 1"
    refused(ValueError, said, fl.binary_cross_entropy, inside, ones, direction=ones, step=0.5)


def test_the_example_runs():
    example = Path(__file__).parents[1] / "examples" / "scipy_models.py"
    done = subprocess.run([sys.executable, str(example)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "robust fit: 3.0 exp(-0.5 t)" in done.stdout
    assert "best step: 1.0" in done.stdout


def test_scipy_is_imported_for_nobody_else():
    program = "import sys, fastloss as fl; fl.as_scipy; print('scipy' in sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
