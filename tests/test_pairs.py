"""Pair formulas: losses of batches, defined here, against NumPy in float64 with their gradients written out."""

import numpy as np
import pytest

import fastloss as fl
from fastloss._kernels.cpu import blocks
from fastloss._kernels.jit.kernels import Kernels
from fastloss.api import BlockLoss
from fastloss.formula import (
    Class,
    ClassWeight,
    ColumnIndex,
    FormulaError,
    Nearest,
    Own,
    PairFormula,
    PerRow,
    Positive,
    Real,
    RowIndex,
    Same,
    Shaped,
    absolute,
    maximum,
    softplus,
    where,
)
from fastloss.formula.pairs import cosine, distance, squared_distance
from fastloss.formula.rows import dot, largest, logsumexp, pick, total

pytest.importorskip("llvmlite")
ROWS, COLUMNS, FEATURES = 23, 17, 5
COMPARED = {"x": Shaped(("...", "features")), "y": Shaped(("columns", "features"))}


def pair_loss(**options):
    def define(function):
        formula = PairFormula.define(function, **options)
        return BlockLoss(formula, Kernels(formula.kernels))

    return define


# --- losses -----------------------------------------------------------------------------------------------------------------


@pair_loss(similarity=cosine, partner=Class("columns"), temperature=Positive(0.5), **COMPARED)
def info_nce(similarities, partner, temperature):
    scale = 1 / temperature
    return logsumexp(similarities, scale) - scale * pick(similarities, partner)


@pair_loss(similarity=cosine, same=Same("group", "column_group"), own=Own(), temperature=Positive(0.5), **COMPARED)
def sup_con(similarities, same, own, temperature):
    scale, positive = 1 / temperature, same * (1 - own)
    others = logsumexp(where(own > 0, float("-inf"), similarities), scale)
    count = total(positive)
    return where(count > 0, others - scale * total(positive * similarities) / maximum(count, 1), 0)


@pair_loss(similarity=dot, own=Own(), bias=Shaped(("columns",), is_optional=True), scale=Positive(1.5), **COMPARED)
def sig_lip(similarities, own, scale):
    return total(softplus((1 - 2 * own) * scale * similarities))


@pair_loss(similarity=distance, same=Same("group", "column_group"), own=Own(), margin=Positive(1.0), **COMPARED)
def batch_hard(distances, same, own, margin):
    farthest = largest(where(same * (1 - own) > 0, distances, 0))
    nearest = -largest(where(same > 0, float("-inf"), -distances))
    return maximum(farthest - nearest + margin, 0)


@pair_loss(
    similarity=squared_distance,
    column=ColumnIndex(),
    row=RowIndex(),
    height=PerRow(Positive()),
    column_weight=ClassWeight(),
    **COMPARED,
)
def near_in_order(distances, column, row, height, column_weight):
    each = height * distances / (1 + absolute(column - row))
    return total(each if column_weight is None else column_weight * each)


# --- references: the rows' losses, and the gradient with respect to the similarities -----------------------------------------


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def of_info_nce(s, partner, temperature=0.5):
    p, rows = softmax(s / temperature), np.arange(len(s))
    gradient = p / temperature
    gradient[rows, partner] -= 1 / temperature
    return -np.log(p[rows, partner]), gradient


def of_sup_con(s, group, column_group, temperature=0.5):
    own = np.arange(len(s))[:, None] == np.arange(s.shape[1])
    positive = (group[:, None] == column_group) & ~own
    p = softmax(np.where(own, -np.inf, s / temperature))
    count = positive.sum(1, keepdims=True)
    with np.errstate(divide="ignore"):
        logs = np.where(positive, np.log(p), 0)
    there = count[:, 0] > 0
    value = np.where(there, -logs.sum(1) / np.maximum(count[:, 0], 1), 0)
    return value, there[:, None] * (p - positive / np.maximum(count, 1)) / temperature


def of_sig_lip(s, scale=1.5):
    sign = 1 - 2.0 * (np.arange(len(s))[:, None] == np.arange(s.shape[1]))
    return np.logaddexp(0, sign * scale * s).sum(1), sign * scale / (1 + np.exp(-sign * scale * s))


def of_batch_hard(s, group, column_group, margin=1.0):
    own = np.arange(len(s))[:, None] == np.arange(s.shape[1])
    same = group[:, None] == column_group
    far, near = np.where(same & ~own, s, 0), np.where(same, np.inf, s)
    value = far.max(1) - near.min(1) + margin
    gradient, rows = np.zeros_like(s), np.arange(len(s))
    counts = far.max(1) > 0
    gradient[rows[counts], far.argmax(1)[counts]] = 1
    gradient[rows, near.argmin(1)] -= 1
    return np.maximum(value, 0), gradient * (value > 0)[:, None]


def of_near_in_order(s, height, column_weight=None):
    weight = height[:, None] / (1 + np.abs(np.arange(len(s))[:, None] - np.arange(s.shape[1])))
    weight = weight if column_weight is None else weight * column_weight
    return (weight * s).sum(1), weight


def compared(kind, x, y, bias=0):
    """All similarities, and how a gradient with respect to them passes on to the rows and the columns."""
    if kind == "dot":
        return x @ y.T + bias, lambda g: (g @ y, g.T @ x)
    if kind == "cosine":
        lengths = [np.sqrt((a * a).sum(1, keepdims=True)) for a in (x, y)]
        u, v = (a / n for a, n in zip((x, y), lengths, strict=True))
        s = u @ v.T
        return s, lambda g: (
            (g @ v - u * (g * s).sum(1, keepdims=True)) / lengths[0],
            (g.T @ u - v * (g * s).sum(0)[:, None]) / lengths[1],
        )
    gaps = x[:, None] - y
    squares = (gaps**2).sum(2)
    if kind == "squared_distance":
        return squares, lambda g: (2 * np.einsum("nk,nkd->nd", g, gaps), -2 * np.einsum("nk,nkd->kd", g, gaps))
    far = np.sqrt(squares)
    inverse = np.divide(1, far, out=np.zeros_like(far), where=far > 0)
    return far, lambda g: (np.einsum("nk,nkd->nd", g * inverse, gaps), -np.einsum("nk,nkd->kd", g * inverse, gaps))


LOSSES = {
    "info_nce": (info_nce, of_info_nce),
    "sup_con": (sup_con, of_sup_con),
    "sig_lip": (sig_lip, of_sig_lip),
    "batch_hard": (batch_hard, of_batch_hard),
    "near_in_order": (near_in_order, of_near_in_order),
}
each_loss = pytest.mark.parametrize("name", LOSSES)


def draw(loss, seed=0, rows=ROWS, columns=COLUMNS):
    """(what is compared, the other inputs)."""
    rng = np.random.default_rng(seed)
    near = {"x": rng.normal(size=(rows, FEATURES)), "y": rng.normal(size=(columns, FEATURES))}
    every = {
        "bias": rng.normal(size=columns),
        "partner": rng.integers(0, columns, rows),
        "group": rng.integers(0, 4, rows),
        "column_group": rng.integers(0, 4, columns),
        "height": rng.random(rows) + 0.5,
        "column_weight": rng.integers(0, 5, columns) / 4,
    }
    return near, {name: every[name] for name in loss.formula.inputs if name not in near}


@pytest.fixture(params=["one block", "many blocks"])
def size(request, monkeypatch):
    if request.param == "many blocks":
        monkeypatch.setattr(blocks, "SCRATCH", 1 << 11)
        monkeypatch.setattr(blocks, "SCAN", 5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@each_loss
def test_values_and_gradients(name, dtype, size):
    loss, reference = LOSSES[name]
    near, others = draw(loss)
    near = {n: a.astype(dtype) for n, a in near.items()}
    others = {n: a.astype(dtype) if n == "bias" else a for n, a in others.items()}
    similarities, pass_on = compared(loss.formula.similarity_name, *(a.astype(float) for a in near.values()), *_bias(others))
    value, by_similarities = reference(similarities, **{n: a for n, a in others.items() if n != "bias"})
    weight = np.random.default_rng(1).integers(0, 5, ROWS) / 4
    eps = 200 * np.finfo(dtype).eps
    for w, reduction in ((None, "none"), (weight, "none"), (None, "mean"), (weight, "mean"), (weight, "sum")):
        own = np.ones(ROWS) if w is None else w
        divisor = own.sum() if reduction == "mean" else 1
        found, grads = loss.value_and_grad(**near, **others, sample_weight=w, reduction=reduction)
        each = own * value / divisor
        np.testing.assert_allclose(found, each if reduction == "none" else each.sum(), rtol=eps, atol=eps)
        gradient = own[:, None] * by_similarities / divisor
        expected = (*pass_on(gradient), gradient.sum(0))
        for grad, its in zip(grads, expected[: len(grads)], strict=True):
            assert grad.dtype == dtype
            np.testing.assert_allclose(grad, its, rtol=eps, atol=eps * np.abs(its).max())
        np.testing.assert_allclose(loss(**near, **others, sample_weight=w, reduction=reduction), found, rtol=eps)


def _bias(others):
    return (others["bias"].astype(float),) if "bias" in others else ()


def test_a_batch_compared_with_itself():
    """Both gradients belong to the batch then; a row's own column is left out."""
    rng = np.random.default_rng(2)
    x, group = rng.normal(size=(12, 4)), rng.integers(0, 3, 12)
    value, grads = sup_con.value_and_grad(x, x, group=group, column_group=group)
    step, size = rng.normal(size=x.shape), 1e-6
    ahead, behind = (sup_con(x + s * size * step, x + s * size * step, group=group, column_group=group) for s in (1, -1))
    assert (ahead - behind) / (2 * size) == pytest.approx(((grads[0] + grads[1]) * step).sum(), rel=1e-6)
    assert value == pytest.approx(of_sup_con(compared("cosine", x, x)[0], group, group)[0].mean(), rel=1e-12)


@each_loss
def test_rows_of_any_shape(name, size):
    loss, _ = LOSSES[name]
    near, others = draw(loss, rows=12)
    flat = loss.value_and_grad(**near, **others)
    shaped = {n: a.reshape(3, 4, *a.shape[1:]) if a.shape[0] == 12 else a for n, a in (near | others).items()}
    found = loss.value_and_grad(**shaped)
    assert found[0] == flat[0]
    np.testing.assert_array_equal(found[1][0], flat[1][0].reshape(3, 4, FEATURES))
    np.testing.assert_array_equal(found[1][1], flat[1][1])


@pytest.mark.parametrize("kind", [cosine, distance, squared_distance, dot])
@pytest.mark.parametrize("place", [0, 1e4])
def test_similarities_are_those_of_their_formulas(kind, place):
    """The products of matrices agree with the formula of two rows, also where the rows coincide or lie far from 0."""

    @pair_loss(similarity=kind, partner=Class("columns"), **COMPARED)
    def picked(similarities, partner):
        return pick(similarities, partner)

    @pair_loss(similarity=kind, partner=Class("columns"), scale=Positive(1.0), **COMPARED)
    def multiplied(similarities, partner, scale):
        return scale * pick(similarities, partner)

    assert picked.formula.picks == "partner"
    assert multiplied.formula.picks is None
    near, others = draw(picked)
    near = {n: (a + place).astype(np.float32) for n, a in near.items()}
    near["x"][3] = near["y"][others["partner"][3]]
    near["x"][4] = 0
    value, grads = picked.value_and_grad(**near, **others, reduction="none")
    found, gradients = multiplied.value_and_grad(**near, **others, reduction="none")
    np.testing.assert_allclose(found, value, rtol=2e-5, atol=2e-6)
    rest = np.arange(ROWS) != 4 if kind is cosine else slice(None)  # at 0 the cosine's gradient is of the size 1e8
    np.testing.assert_allclose(gradients[0][rest], grads[0][rest], rtol=2e-4, atol=1e-5)


def test_cosines_of_long_and_short_rows():
    """Squares that leave the range of float32 or float64."""
    for dtype, length in (("float32", 1e30), ("float64", 1e200), ("float32", 1e-5), ("float32", 1e-12)):
        near, others = draw(info_nce)
        expected = info_nce(**near, **others)
        near = {n: (a * length).astype(dtype) for n, a in near.items()}
        value, grads = info_nce.value_and_grad(**near, **others)
        assert all(np.isfinite(grad).all() for grad in grads)
        if length > 1e-8:
            assert value == pytest.approx(expected, rel=1e-5)


def test_memory_is_bounded():
    from test_blocks import extra_memory

    near, others = draw(batch_hard, rows=6000, columns=5000)
    near = {n: a.astype(np.float32) for n, a in near.items()}
    outs = tuple(np.zeros_like(a) for a in near.values())
    batch_hard.grad(
        **{n: a[:40] for n, a in near.items()}, group=others["group"][:40], column_group=others["column_group"][:40]
    )
    assert extra_memory(lambda: batch_hard.grad(**near, **others, grad_out=outs)) <= blocks.SCRATCH + (2 << 20)


# --- faults -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "said", "changed"),
    [
        (TypeError, "group must hold whole numbers, got dtype float64", {"group": np.ones(ROWS)}),
        (ValueError, "column_group must have one number for each of the 17 columns", {"column_group": np.ones(3, int)}),
        (ValueError, r"group must broadcast to the rows' shape \(23,\), got \(3,\)", {"group": np.ones(3, int)}),
        (TypeError, "takes x, y, group, column_group, got no group", {"group": None}),
        (ValueError, "margin must be > 0", {"margin": -1}),
    ],
)
def test_inputs_refused(error, said, changed):
    near, others = draw(batch_hard)
    with pytest.raises(error, match=f"^batch_hard: {said}"):
        batch_hard.grad(**near, **others | changed)


def test_numbers_outside_their_domain():
    near, others = draw(near_in_order)
    others["height"][5] = -2
    with pytest.raises(ValueError, match=r"^near_in_order: height must be > 0, got -2 at index 5"):
        near_in_order(**near, **others)
    assert np.isfinite(near_in_order(**near, **others, check=False))


def test_formulas_refused():
    with pytest.raises(FormulaError, match="similarity must be among dot, cosine, squared_distance, distance, got largest"):
        pair_loss(similarity=largest, **COMPARED)(total)
    with pytest.raises(FormulaError, match="rows, columns and perhaps a bias must have shapes, got x"):
        pair_loss(similarity=dot, x=COMPARED["x"])(total)
    with pytest.raises(FormulaError, match=r"\['margin'\] must be arguments of the formula"):
        pair_loss(similarity=dot, margin=Real(1.0), **COMPARED)(total)
    with pytest.raises(FormulaError, match="the nearest column must be picked by its squared distance"):

        @pair_loss(similarity=dot, nearest=Nearest("columns"), **COMPARED)
        def nearest_product(similarities, nearest):
            return pick(similarities, nearest)


def test_the_public_losses_are_pair_formulas():
    assert fl.linear_cross_entropy.formula.kernels is fl.cross_entropy.formula
    assert fl.center.formula.picks == "target"
    assert fl.kmeans.formula.picks == "nearest"
    assert fl.kmeans.formula.kernels is fl.squared_distance.formula
