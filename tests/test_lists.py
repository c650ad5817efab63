"""Rows with lists of labels: what a formula of one label gives, summed over each row's list."""

import numpy as np
import pytest
from test_row_registry import lists

import fastloss as fl

SHAPES = [(9, 5), (40, 2), (7, 64), (5, 1030), (2, 70_000), (3, 1)]
each_shape = pytest.mark.parametrize("shape", SHAPES)


def by_hand(logits, target, margin):
    """Value and gradient of each row in float64, pair by pair."""
    values, gradients = np.zeros(len(logits)), np.zeros(logits.shape)
    for row, (x, listed) in enumerate(zip(logits.astype(float), target, strict=True)):
        ends = np.flatnonzero(listed == -1)
        own = listed[: ends[0] if len(ends) else None]
        others = np.setdiff1d(np.arange(len(x)), own)
        for label in own:
            short = margin - x[label] + x[others]
            values[row] += np.maximum(short, 0).sum() / len(x)
            gradients[row, others] += (short > 0) / len(x)
            gradients[row, label] -= (short > 0).sum() / len(x)
    return values, gradients


def draw(shape, dtype="float64", seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape).astype(dtype), lists(rng, shape)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@each_shape
def test_values_and_gradients(shape, dtype):
    logits, target = draw(shape, dtype)
    weights = np.random.default_rng(1).uniform(0.5, 2, shape[:-1])
    weights[-1] = 0
    expected, gradient = by_hand(logits, target, 0.7)
    tolerance = {"float16": 2e-3, "float32": 1e-5, "float64": 1e-12}[dtype]
    value, grad = fl.multilabel_margin.value_and_grad(logits, target, margin=0.7, reduction="none", sample_weight=weights)
    np.testing.assert_allclose(value, expected * weights, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(grad, gradient * weights[:, None], rtol=tolerance, atol=tolerance)
    mean, grad = fl.multilabel_margin.value_and_grad(logits, target, margin=0.7, sample_weight=weights)
    assert mean == pytest.approx(np.average(expected, weights=weights), rel=tolerance)
    np.testing.assert_allclose(grad, gradient * (weights / weights.sum())[:, None], rtol=10 * tolerance, atol=tolerance)
    assert not fl.multilabel_margin.grad_and_hess(logits, target)[1].any()


@pytest.mark.parametrize("kind", ["int8", "int16", "int32", "int64"])
def test_lists_of_every_width_and_layout(kind):
    logits, target = draw((6, 9), "float32")
    expected = fl.multilabel_margin.value_and_grad(logits, target, reduction="none")
    strided = np.repeat(target.astype(kind), 3, axis=1)[:, ::3]
    for found in (
        fl.multilabel_margin.value_and_grad(np.asfortranarray(logits), strided, reduction="none"),
        fl.multilabel_margin.value_and_grad(logits.tolist(), strided.tolist(), reduction="none"),
        fl.multilabel_margin.value_and_grad(logits[::-1][::-1], strided[:, ::-1][:, ::-1], reduction="none"),
    ):
        for mine, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-5)
    value, grad = fl.multilabel_margin.value_and_grad(logits.T.copy(), strided.T, reduction="none", axis=0)
    np.testing.assert_array_equal(value, expected[0])
    np.testing.assert_array_equal(grad.T, expected[1])
    shared = fl.multilabel_margin(logits, target[0], reduction="none")  # one list for all rows
    np.testing.assert_array_equal(shared, fl.multilabel_margin(logits, np.tile(target[0], (6, 1)), reduction="none"))
    deep = fl.multilabel_margin(logits.reshape(2, 3, 9), target.reshape(2, 3, 9), reduction="none")
    np.testing.assert_array_equal(deep.ravel(), expected[0])


def test_places_and_threads():
    logits, target = draw((3000, 70), "float32")
    results = []
    for threads in (1, 2, 3):
        with fl.threadpool_limits(threads):
            results.append(fl.multilabel_margin.value_and_grad(logits, target))
    for value, grad in results[1:]:
        assert value == results[0][0]
        np.testing.assert_array_equal(grad, results[0][1])
    own = logits.copy()
    assert fl.multilabel_margin.grad(own, target, grad_out=own) is own
    np.testing.assert_array_equal(own, results[0][1])
    found = fl.multilabel_margin.evaluate(logits, target, outputs=("predicted",))
    np.testing.assert_array_equal(found["predicted"], logits.argmax(1))


def test_a_row_without_labels_costs_nothing_and_nan_stays_in_its_row():
    logits, target = draw((4, 6))
    target[0, 0] = -1
    logits[1, 2] = np.nan
    target[1, :3] = 0, 1, -1
    value, grad = fl.multilabel_margin.value_and_grad(logits, target, reduction="none")
    assert value[0] == 0
    assert not grad[0].any()
    assert np.isnan(value[1])
    assert np.isnan(grad[1]).all()
    assert np.isfinite(value[2:]).all()
    assert np.isfinite(grad[2:]).all()


def test_what_is_no_list():
    logits = np.zeros((2, 3))
    grad = np.full((2, 3), 7.0)
    for bad, where in ((3, 1), (-2, 0), (2**40, 2)):
        target = np.full((2, 3), 0)
        target[1, where] = bad
        said = rf"multilabel_margin: target must be classes from 0 to 2, ended by -1, got {bad} at index \(1, {where}\)"
        with pytest.raises(ValueError, match=said):
            fl.multilabel_margin.value_and_grad(logits, target, grad_out=grad)
        with pytest.raises(ValueError, match=rf"got {bad} at index \({where}, 1\)"):
            fl.multilabel_margin(logits.T, target.T, axis=0)
    target[1] = 0, -1, 99  # behind the end nothing is looked at
    assert np.isfinite(fl.multilabel_margin(logits, target))
    with pytest.raises(TypeError, match="multilabel_margin: target must hold whole numbers, got dtype float64"):
        fl.multilabel_margin.value_and_grad(logits, np.zeros((2, 3)), grad_out=grad)
    with pytest.raises(ValueError, match="multilabel_margin: target must broadcast to logits's shape"):
        fl.multilabel_margin.value_and_grad(logits, np.zeros((2, 4), int), grad_out=grad)
    assert (grad == 7).all()


def test_it_is_pytorchs():
    torch = pytest.importorskip("torch")
    logits, target = draw((50, 12))
    leaf = torch.tensor(logits, requires_grad=True)
    expected = torch.nn.functional.multilabel_margin_loss(leaf, torch.tensor(target), reduction="none")
    expected.sum().backward()
    value, grad = fl.multilabel_margin.value_and_grad(logits, target, reduction="none")
    np.testing.assert_allclose(value, expected.detach().numpy(), rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(grad, leaf.grad.numpy(), rtol=1e-13, atol=1e-15)
