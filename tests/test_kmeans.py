"""k-means: the center that a row is assigned to, and Lloyd's step."""

import numpy as np
import pytest
from test_blocks import FEATURES, draw, refuses

import fastloss as fl
from fastloss._kernels.cpu import blocks, picked


@pytest.fixture
def few_rows_at_once(monkeypatch):
    monkeypatch.setattr(blocks, "SCRATCH", 1 << 11)
    monkeypatch.setattr(picked, "BLOCK", 1 << 10)


def nearest(x, centers):
    """By distances in double, all of them."""
    gaps = x.astype(np.float64)[..., None, :] - centers.astype(np.float64)
    return (gaps**2).sum(-1).argmin(-1)


@pytest.mark.parametrize("shape", [(1, 1, 1), (500, 2, 3), (300, 7, 40), (100, 64, 9), (50, 300, 200)], ids=str)
@pytest.mark.parametrize("place", [0, 1e3, -1e6])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_assignments_are_those_of_distances_in_double(dtype, place, shape, few_rows_at_once):
    rows, features, shared = shape
    rng = np.random.default_rng(rows)
    place = 0 if dtype == "float16" else place
    x, c = ((rng.normal(size=(n, features)) + place).astype(dtype) for n in (rows, shared))
    found = fl.kmeans.assign(x, c)
    assert found.dtype == np.intp
    np.testing.assert_array_equal(found, nearest(x, c))


@pytest.mark.parametrize("place", [0, 4096])
def test_the_first_of_equally_near_centers(place, few_rows_at_once):
    """On a grid every difference is exact, and most rows have several nearest centers; some centers are there twice."""
    rng = np.random.default_rng(0)
    x = rng.integers(-3, 4, (400, 3)).astype(np.float32) + place
    c = rng.integers(-3, 4, (60, 3)).astype(np.float32) + place
    c[30:40] = c[:10]
    np.testing.assert_array_equal(fl.kmeans.assign(x, c), nearest(x, c))
    value, (_, grad) = fl.kmeans.value_and_grad(x, c, reduction="none")
    np.testing.assert_array_equal(value, ((x - c[nearest(x, c)]) ** 2).sum(1))
    assert not grad[30:40].any()


def test_a_center_far_away_does_not_blur_the_others():
    rng = np.random.default_rng(0)
    x, c = rng.normal(size=(200, 4)), rng.normal(size=(20, 4))
    c[7] = 1e12
    np.testing.assert_array_equal(fl.kmeans.assign(x, c), nearest(x, c))


@pytest.mark.fault(57)
@pytest.mark.parametrize("size", [1e200, 1e160, 1e-170, 1e-300, 1e-315])
def test_squares_that_leave_doubles_range(size, few_rows_at_once):
    """The nearest center is the same in any unit, and so is the gradient."""
    rng = np.random.default_rng(0)
    x, c = (rng.integers(-9, 10, (n, 3)) / 8 for n in (300, 40))
    unit = np.ldexp(1.0, int(np.frexp(size)[1]))
    np.testing.assert_array_equal(fl.kmeans.assign(x * unit, c * unit), nearest(x, c))
    grads, expected = (fl.kmeans.grad(x * u, c * u, reduction="sum") for u in (unit, 1.0))
    for grad, its in zip(grads, expected, strict=True):
        np.testing.assert_allclose(grad / unit, its, rtol=1e-14)
    # A center far away from rows whose own squares vanish.
    far = np.full((1, 3), 1e100 * max(unit, 1.0))
    own = np.vstack([c[:7] * unit, far, c[8:] * unit])
    np.testing.assert_array_equal(fl.kmeans.assign(x * unit, own), nearest(x, np.vstack([c[:7], [[1e9] * 3], c[8:]])))


def test_assignments_of_rows_of_any_shape():
    x, c = draw(fl.kmeans.formula, (3, 4, 5)).values()
    np.testing.assert_array_equal(fl.kmeans.assign(x, c), nearest(x, c))
    np.testing.assert_array_equal(fl.kmeans.assign(x.T.copy().T, c), nearest(x, c))
    assert fl.kmeans.assign(x[0, 0, 0], c) == nearest(x, c)[0, 0, 0]
    assert fl.kmeans.assign(np.ones((0, FEATURES)), c).shape == (0,)
    assert fl.kmeans.assign(np.full((2, FEATURES), np.nan), c).tolist() == [0, 0]


def test_assign_refuses_what_the_loss_refuses():
    x, c = draw(fl.kmeans.formula, 4).values()
    with pytest.raises(ValueError, match=r"^kmeans: centers must have shape \(centers, 5\), got \(11, 4\)"):
        fl.kmeans.assign(x, c[:, 1:])
    with pytest.raises(TypeError, match=r"^kmeans: x must be a floating-point array"):
        fl.kmeans.assign(x.astype(int), c)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_centers_must_be_finite(bad):
    x, c = draw(fl.kmeans.formula, 4).values()
    c[3, 2] = bad
    refuses(ValueError, f"centers must be finite, got {bad}", "kmeans", {"x": x, "centers": c})


def test_lloyds_step_is_a_gradient_step():
    """As the docstring says: half the gradient by the number of rows leads to their mean."""
    x, c = draw(fl.kmeans.formula, 500, shared=4).values()
    labels = fl.kmeans.assign(x, c)
    _, grad = fl.kmeans.grad(x, c, reduction="sum")
    counts = np.bincount(labels, minlength=4)[:, None]
    np.testing.assert_allclose(c - grad / (2 * counts), [x[labels == k].mean(0) for k in range(4)], rtol=1e-12)


def test_sums_of_many_rows_are_in_double():
    """2^20 rows of 0.1: in float32 the sum would stop growing, or drift."""
    count = 1 << 20
    x, c = np.full((count, 1), 0.1, np.float32), np.zeros((1, 1), np.float32)
    for loss, target in ((fl.kmeans, ()), (fl.center, (np.zeros(count, int),))):
        grads = loss.grad(x, c, *target, reduction="sum")
        assert grads[1][0, 0] == np.float32(-2.0 * count * float(np.float32(0.1)))
