"""What a row loss gives besides its value and gradient: predictions, logsumexp, products with the Hessian, soft targets."""

import numpy as np
import pytest

import fastloss as fl

SHAPES = [(9, 5), (40, 2), (6, 64), (5, 1000), (300, 33), (2, 70_000)]
OPTIONS = {"label_smoothing": 0.2, "z_loss": 0.03, "softcap": 5.0, "temperature": 1.6}
each_shape = pytest.mark.parametrize("shape", SHAPES)
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def draw(shape, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    logits = (3 * rng.normal(size=shape)).astype(dtype)
    return rng, logits, rng.integers(0, shape[-1], shape[:-1])


def seen(logits):
    """The logits as the loss with `OPTIONS` sees them, in float64."""
    capped = OPTIONS["softcap"] * np.tanh(logits.astype(np.float64) / OPTIONS["softcap"])
    return capped / OPTIONS["temperature"]


def logsumexp(x):
    peak = x.max(-1, keepdims=True)
    return (peak + np.log(np.exp(x - peak).sum(-1, keepdims=True)))[..., 0]


# --- outputs on request -----------------------------------------------------------------------------------------------------


@each_dtype
@each_shape
@pytest.mark.parametrize("order", "CF")
def test_side_outputs(shape, dtype, order):
    rng, logits, labels = draw(shape, dtype)
    labels[::3] = logits.argmax(-1)[::3]
    weights = rng.uniform(0.5, 2, shape[:-1])
    weights[0] = 0
    labels[1] = -100
    logits = np.asarray(logits, order=order)
    results = fl.cross_entropy.evaluate(
        logits,
        labels,
        outputs=("correct", "logsumexp", "grad", "predicted", "value"),
        sample_weight=weights,
        reduction="none",
        **OPTIONS,
    )
    assert list(results) == ["correct", "logsumexp", "grad", "predicted", "value"]
    counts = (weights > 0) & (labels != -100)
    np.testing.assert_array_equal(results["predicted"], logits.argmax(-1))
    assert results["predicted"].dtype == np.int64
    assert results["correct"] == ((logits.argmax(-1) == labels) & counts).sum()
    assert type(results["correct"]) is int
    assert results["logsumexp"].dtype == dtype
    expected = np.where(counts, logsumexp(seen(logits)), 0)
    np.testing.assert_allclose(results["logsumexp"], expected, rtol=1e-12 if dtype == np.float64 else 2e-6)
    value, grad = fl.cross_entropy.value_and_grad(logits, labels, sample_weight=weights, reduction="none", **OPTIONS)
    np.testing.assert_array_equal(results["value"], value)
    np.testing.assert_array_equal(results["grad"], grad)


@pytest.mark.parametrize("length", [2, 5, 63, 64, 100, 4097])
def test_predictions_are_those_of_argmax(length):
    """Ties go to the first, and so does NaN, which counts as the largest."""
    rng = np.random.default_rng(length)
    logits = rng.integers(0, 3, (50, length)).astype(np.float32)
    logits[3, length - 1] = logits[4, length // 2] = np.nan
    logits[5] = -np.inf
    logits[6, -1] = np.inf
    for order in "CF":
        found = fl.cross_entropy.evaluate(np.asarray(logits, order=order), np.zeros(50, int), outputs=("predicted",))
        np.testing.assert_array_equal(found["predicted"], logits.argmax(1))


def test_predictions_of_other_losses_and_axes():
    rng, logits, labels = draw((4, 6, 3))
    turned = np.moveaxis(logits, 2, 1)
    results = fl.multi_margin.evaluate(turned, labels, axis=1, outputs=("predicted", "correct", "hess"))
    np.testing.assert_array_equal(results["predicted"], logits.argmax(-1))
    assert results["correct"] == (logits.argmax(-1) == labels).sum()
    np.testing.assert_array_equal(results["hess"], fl.multi_margin.grad_and_hess(turned, labels, axis=1)[1])
    other = rng.normal(size=logits.shape)
    found = fl.kl_divergence.evaluate(logits, other, outputs=("value", "predicted"))
    np.testing.assert_array_equal(found["predicted"], logits.argmax(-1))


def test_side_outputs_go_through_threads():
    _, logits, labels = draw((20_000, 40), np.float32)
    results = []
    for threads in (1, 2, 3):
        with fl.threadpool_limits(threads):
            results.append(fl.cross_entropy.evaluate(logits, labels, outputs=("correct", "predicted", "logsumexp")))
    assert results[0]["correct"] == results[1]["correct"] == results[2]["correct"]
    np.testing.assert_array_equal(results[0]["logsumexp"], results[1]["logsumexp"])


def test_outputs_that_there_are_not():
    _, logits, labels = draw((4, 3))
    with pytest.raises(ValueError, match="must be among logsumexp, predicted, correct, got 'accuracy'"):
        fl.cross_entropy.evaluate(logits, labels, outputs=("value", "accuracy"))
    with pytest.raises(ValueError, match="must be among predicted, correct, got 'logsumexp'"):
        fl.multi_margin.evaluate(logits, labels, outputs=("logsumexp",))
    with pytest.raises(ValueError, match="must be among predicted, got 'correct'"):
        fl.total_variation.evaluate(np.full((2, 2), 0.5), np.full((2, 2), 0.5), outputs=("correct",))


# --- targets that are probabilities -----------------------------------------------------------------------------------------


def soft_entropy(logits, target, class_weight):
    """The rows' losses with `OPTIONS`, in float64, and their gradients by the chain rule."""
    epsilon, length = OPTIONS["label_smoothing"], logits.shape[-1]
    x = seen(logits)
    lse = logsumexp(x)
    logs = x - lse[..., None]
    q = class_weight * ((1 - epsilon) * target + epsilon / length)
    value = -(q * logs).sum(-1) + OPTIONS["z_loss"] * lse**2
    p = np.exp(logs)
    slope = p * q.sum(-1, keepdims=True) - q + 2 * OPTIONS["z_loss"] * lse[..., None] * p
    return value, slope * (1 - np.tanh(logits / OPTIONS["softcap"]) ** 2) / OPTIONS["temperature"]


@each_dtype
@each_shape
@pytest.mark.parametrize("order", "CF")
def test_soft_targets(shape, dtype, order):
    rng, logits, _ = draw(shape, dtype)
    target = rng.dirichlet(np.ones(shape[-1]), shape[:-1]).astype(dtype)
    target[0, 0] = 0
    weights, class_weight = rng.uniform(0.5, 2, shape[:-1]), rng.uniform(0.5, 2, shape[-1])
    expected, gradient = soft_entropy(logits.astype(float), target.astype(float), class_weight)
    value, grad = fl.cross_entropy.value_and_grad(
        np.asarray(logits, order=order), target, class_weight, sample_weight=weights, **OPTIONS
    )
    tolerance = 1e-11 if dtype == np.float64 else 1e-5
    assert value == pytest.approx(np.average(expected, weights=weights), rel=tolerance)
    gradient = gradient * (weights / weights.sum())[..., None]
    np.testing.assert_allclose(grad, gradient, rtol=10 * tolerance, atol=tolerance * np.abs(gradient).max())


def test_a_one_hot_target_is_a_label():
    _, logits, labels = draw((30, 7))
    target = np.eye(7)[labels]
    for options in ({}, OPTIONS):
        hard, soft = (fl.cross_entropy.value_and_grad(logits, t, reduction="none", **options) for t in (labels, target))
        for one, other in zip(hard, soft, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-13, atol=1e-15)


def test_a_probability_of_zero_takes_out_an_infinite_logit():
    logits = np.array([[0.5, -np.inf, 1.0], [0.0, 0.0, -np.inf]])
    target = np.array([[0.5, 0.0, 0.5], [0.25, 0.25, 0.5]])
    value, grad = fl.cross_entropy.value_and_grad(logits, target, reduction="none")
    assert np.isfinite(value[0])
    assert np.isposinf(value[1])
    assert grad[0, 1] == 0


def test_which_targets_are_probabilities():
    _, logits, labels = draw((4, 3))
    target = np.full((4, 3), 1 / 3)
    assert fl.cross_entropy(logits, target.tolist()) == fl.cross_entropy(logits, target)
    assert fl.cross_entropy(logits[0], target[0]) == fl.cross_entropy(logits[:1], target[:1])
    assert fl.cross_entropy(logits.T, target.T, axis=0) == pytest.approx(fl.cross_entropy(logits, target), rel=1e-14)
    for wrong in (labels.astype(float), np.float64(1.0)):
        with pytest.raises(TypeError, match="cross_entropy: target must hold whole numbers, got dtype float64"):
            fl.cross_entropy(logits, wrong)
    with pytest.raises(ValueError, match="cross_entropy: target must broadcast to logits's shape"):
        fl.cross_entropy(logits, np.ones((4, 4)))
    with pytest.raises(ValueError, match=r"cross_entropy: target must be in \[0, 1\], got 1.5 at index \(2, 1\)"):
        wrong = target.copy()
        wrong[2, 1] = 1.5
        fl.cross_entropy(logits, wrong)
    assert np.isfinite(fl.cross_entropy(logits, wrong, check=False))
    with pytest.raises(ValueError, match="multi_margin: target must broadcast to the rows' shape"):  # has no such targets
        fl.multi_margin(logits, target)
    with pytest.raises(TypeError, match="masked"):
        fl.cross_entropy(logits, np.ma.masked_array(target, target > 1))


# --- the Hessian times a vector ---------------------------------------------------------------------------------------------


@each_dtype
@each_shape
@pytest.mark.parametrize("soft", [False, True])
def test_hessian_vector_products_are_how_the_gradient_moves(shape, dtype, soft):
    rng, logits, labels = draw(shape, dtype)
    vector = rng.normal(size=shape).astype(dtype)
    target = rng.dirichlet(np.ones(shape[-1]), shape[:-1]) if soft else labels
    class_weight, weights = rng.uniform(0.5, 2, shape[-1]), rng.uniform(0.5, 2, shape[:-1])
    options = OPTIONS | {"sample_weight": weights, "class_weight": class_weight}
    found = fl.cross_entropy.hvp(logits, target, vector=vector, **options)
    step = 1e-5
    wide, along = logits.astype(float), vector.astype(float)
    ahead, behind = (fl.cross_entropy.grad(wide + s * along, target, **options) for s in (step, -step))
    expected = (ahead - behind) / (2 * step)
    assert found.dtype == dtype
    tolerance = 1e-8 if dtype == np.float64 else 1e-5
    np.testing.assert_allclose(found, expected, rtol=1e3 * tolerance, atol=tolerance * np.abs(expected).max())


def test_hessian_vector_products_take_their_place():
    _, logits, labels = draw((6, 4))
    labels[2] = -100
    vector = np.random.default_rng(1).normal(size=(6, 4))
    expected = fl.cross_entropy.hvp(logits, labels, vector=vector)
    assert not expected[2].any()
    out = np.empty_like(vector)
    assert fl.cross_entropy.hvp(logits, labels, vector=vector, out=out) is out
    np.testing.assert_array_equal(out, expected)
    turned = fl.cross_entropy.hvp(logits.T, labels, vector=vector.T, axis=0)
    np.testing.assert_allclose(turned.T, expected, rtol=1e-12, atol=1e-15)
    assert fl.cross_entropy.hvp(logits, labels, vector=vector, out=vector) is vector
    np.testing.assert_array_equal(vector, expected)
    with pytest.raises(TypeError, match="multi_margin: has no Hessian-vector product"):
        fl.multi_margin.hvp(logits, labels, vector=vector)
    with pytest.raises(ValueError, match="vector must broadcast"):
        fl.cross_entropy.hvp(logits, labels, vector=vector[:, :3])


def test_the_diagonal_is_that_of_the_products():
    _, logits, labels = draw((3, 5))
    _, diagonal = fl.cross_entropy.grad_and_hess(logits, labels, **OPTIONS)
    for j in range(5):
        unit = np.zeros((3, 5))
        unit[:, j] = 1
        products = fl.cross_entropy.hvp(logits, labels, vector=unit, **OPTIONS)
        np.testing.assert_allclose(products[:, j], diagonal[:, j], rtol=1e-11, atol=1e-15)


# --- norms ------------------------------------------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0, 20.0])
def test_distances_of_any_power_neither_overflow_nor_divide_by_zero(p, dtype):
    largest = float(np.finfo(dtype).max) if p != 2 else float(np.finfo(dtype).max) ** 0.5
    far = np.full((3, 4), largest / 64, dtype)
    near = np.zeros((3, 4), dtype)
    value, grads = fl.triplet_margin.value_and_grad(far, near, near + far / 2, p=p, eps=0.0, reduction="sum")
    expected = 3 * (largest / 128) * 4 ** (1 / p) + 3
    assert value == pytest.approx(expected, rel=1e-5)
    for grad in grads:
        assert np.isfinite(grad).all()
    value, grads = fl.triplet_margin.value_and_grad(near, near, near, p=p, eps=0.0)
    assert value == 1
    assert not any(grad.any() for grad in grads)
