"""Losses of rows that meet shared arrays, in blocks: against closed forms and PyTorch, memory of every kind, threads, faults."""

import itertools
import os
import subprocess
import sys
import textwrap
import tracemalloc

import inputs
import numpy as np
import peers
import pytest
from test_formulas import away_from_default

import fastloss as fl
from fastloss._kernels.cpu import blocks, picked, similarities
from fastloss._kernels.jit.kernels import Kernels
from fastloss.api.row_loss import RowLoss
from fastloss.formula import Class, ClassWeight

each_loss = pytest.mark.parametrize("name", fl.losses.BLOCKS)
each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])
IGNORED = -7
SENTINEL = 77
LEAD, FEATURES, SHARED = 37, 5, 11


def settings(formula):
    """Every variant, all other hyperparameters away from their defaults: (hyperparameters, optional inputs that are there)."""
    for choice in formula.choices():
        values = {
            name: away_from_default(domain, 1.7) if chosen is None else None if chosen == "none" else chosen
            for (name, domain), chosen in zip(formula.parameters.items(), choice, strict=True)
        }
        for there in dict.fromkeys(((), formula.optional, formula.optional[1:])):
            yield values, there


def draw(formula, rows, there=None, *, features=FEATURES, shared=SHARED, dtype=np.float64, ignored=False, seed=0):
    """All inputs by name, for rows of this shape; with `ignored`, some of the labels are."""
    rng = np.random.default_rng(seed)
    rows = (rows,) if isinstance(rows, int) else rows
    lengths = {"features": features}
    found = {}
    for name, domain in formula.input_domains.items():
        if name in formula.optional and there is not None and name not in there:
            continue
        if isinstance(domain, Class):
            found[name] = rng.integers(0, shared, rows)
            if ignored:
                found[name] = np.where(rng.random(rows) < 0.2, IGNORED, found[name])
        elif isinstance(domain, ClassWeight):
            found[name] = rng.integers(1, 17, shared) / 8
        else:
            own = [n for n in domain.dimensions if n != "..."]
            shape = (*(rows if "..." in domain.dimensions else ()), *(lengths.get(n, shared) for n in own))
            found[name] = rng.normal(size=shape).astype(dtype)
    return found


def call(name, arrays, method="value_and_grad", **options):
    loss = getattr(fl, name)
    ignore = {"ignore_index": IGNORED} if loss.formula.label else {}
    return getattr(loss, method)(**arrays, **ignore | options)


def differentiable(name, arrays):
    return [n for n in getattr(fl, name).formula.differentiable if n in arrays]


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of few rows, and of few classes."""
    monkeypatch.setattr(blocks, "SCRATCH", 1 << 11)
    monkeypatch.setattr(blocks, "SCAN", 5)
    monkeypatch.setattr(picked, "BLOCK", 1 << 10)


# --- values ---------------------------------------------------------------------------------------------------------------


def logits_loss(z, label, class_weight, label_smoothing, z_loss, softcap, temperature):
    """One row's cross-entropy and its gradient, written out."""
    weight = np.ones(len(z)) if class_weight is None else class_weight
    bent = z if softcap is None else softcap * np.tanh(z / softcap)
    slope = 1.0 if softcap is None else 1 - np.tanh(z / softcap) ** 2
    s = bent / temperature
    lse = np.log(np.exp(s - s.max()).sum()) + s.max()
    p = np.exp(s - lse)
    share = label_smoothing * weight / len(z)
    share[label] += (1 - label_smoothing) * weight[label]
    value = (share * (lse - s)).sum() + z_loss * lse**2
    return value, (share.sum() * p - share + 2 * z_loss * lse * p) * slope / temperature


def linear_cross_entropy(x, weight, target, bias=None, class_weight=None, **values):
    z = x @ weight.T + (0 if bias is None else bias)
    rows = [
        (0.0, np.zeros(len(weight))) if t == IGNORED else logits_loss(row, t, class_weight, **values)
        for row, t in zip(z, target, strict=True)
    ]
    own = np.ones(len(weight)) if class_weight is None else class_weight
    counted = np.where(target == IGNORED, 0, own[np.where(target == IGNORED, 0, target)])
    value, by_z = (np.array(part) for part in zip(*rows, strict=True))
    return value, counted, lambda w: {"x": w[:, None] * (by_z @ weight), "weight": (w[:, None] * by_z).T @ x, "bias": w @ by_z}


def center(x, centers, target):
    counted = (target != IGNORED) * 1.0
    gap = (x - centers[np.where(target == IGNORED, 0, target)]) * counted[:, None]

    def gradients(w):
        by_centers = np.zeros_like(centers)
        for label, row in zip(target, w[:, None] * gap, strict=True):
            if label != IGNORED:
                by_centers[label] -= 2 * row
        return {"x": 2 * w[:, None] * gap, "centers": by_centers}

    return (gap**2).sum(1), counted, gradients


def kmeans(x, centers):
    return center(x, centers, ((x[:, None] - centers) ** 2).sum(2).argmin(1))


REFERENCES = {"linear_cross_entropy": linear_cross_entropy, "center": center, "kmeans": kmeans}


def test_every_loss_has_a_reference():
    assert set(REFERENCES) == set(fl.losses.BLOCKS)


def assert_near(found, expected, dtype, factor=1.0):
    eps = float(np.finfo(dtype).eps)
    np.testing.assert_allclose(found, expected, rtol=64 * eps, atol=64 * eps * factor * np.abs(expected).max(initial=1e-300))


@pytest.mark.parametrize("size", ["one block", "many blocks"])
@each_dtype
@each_loss
def test_every_option_in_combination(name, dtype, size, request):
    if size == "many blocks":
        request.getfixturevalue("small_blocks")
    formula = getattr(fl, name).formula
    for k, (values, there) in enumerate(settings(formula)):
        arrays = draw(formula, LEAD, there, dtype=dtype, ignored=True, seed=k)
        exact = {n: a.astype(np.float64) if a.dtype.kind == "f" else a for n, a in arrays.items()}
        value, counted, gradients = REFERENCES[name](**exact, **values)
        for weight, (reduction, normalizer) in itertools.product(
            (None, inputs.weights((LEAD,), seed=k)),
            (("mean", None), ("mean", 2.75), ("mean", "samples"), ("sum", None), ("none", None)),
        ):
            own = np.ones(LEAD) if weight is None else weight
            divisor = {None: (own * counted).sum(), "samples": LEAD}.get(normalizer, normalizer) if reduction == "mean" else 1
            options = values | {"sample_weight": weight, "reduction": reduction, "normalizer": normalizer}
            found, grads = call(name, arrays, **options)
            each = own * value / divisor
            assert_near(found, each if reduction == "none" else each.sum(), dtype)
            expected = gradients(own / divisor)
            for n, grad in zip(differentiable(name, arrays), grads, strict=True):
                assert grad.dtype == dtype
                assert_near(grad, expected[n], dtype, factor=4)
            assert_near(call(name, arrays, "__call__", **options), found, dtype)
            inputs.assert_same(call(name, arrays, "grad", **options), grads)


@each_loss
def test_values_and_gradients_equal_the_peers(name):
    formula = getattr(fl, name).formula
    for values, there in settings(formula):
        arrays = draw(formula, LEAD, there, seed=3)
        for peer in formula.peers:
            expected, gradients = peers.evaluate(formula, peer, arrays, values)
            value, grads = call(name, arrays, **values, reduction="none")
            np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-13)
            for n, grad in zip(differentiable(name, arrays), grads, strict=True):
                np.testing.assert_allclose(grad, gradients[n], rtol=1e-11, atol=1e-12)


SIMILARITIES = {
    "dot": lambda rows, columns: rows @ columns.T,
    "squared_distance": lambda rows, columns: ((rows[..., None, :] - columns) ** 2).sum(-1),
}


@each_loss
def test_the_blocks_come_to_the_definition(name, small_blocks):
    """The row formula of all similarities at once, for rows in several dimensions."""
    formula = getattr(fl, name).formula
    row_loss = RowLoss(formula.rows, None if formula.rows.name == "cross_entropy" else Kernels(formula.rows))
    for values, there in settings(formula):
        arrays = draw(formula, (3, 4, 5), there)
        similarities = SIMILARITIES[formula.similarity_name](arrays["x"], arrays[formula.shared[0]]) + arrays.get("bias", 0)
        labels = {} if formula.label else {formula.rows.label: similarities.argmin(-1)}
        given = {n: arrays[n] for n in formula.row_inputs if n in arrays}
        expected = row_loss(similarities, **given, **labels, **values, reduction="none")
        found = call(name, arrays, "__call__", **values, reduction="none")
        assert found.shape == (3, 4, 5)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rows", [(), (1,), (4, 5), (2, 3, 4)], ids=str)
@each_loss
def test_any_number_of_dimensions(name, rows, small_blocks):
    arrays = draw(getattr(fl, name).formula, rows, ignored=bool(rows))
    w = inputs.weights(rows) + 1
    flat = {n: a.reshape(-1, a.shape[-1]) if n == "x" else a.reshape(-1) if n == "target" else a for n, a in arrays.items()}
    value, (grad, *others) = call(name, flat, sample_weight=w.reshape(-1), reduction="none")
    for order in "CF":
        own = arrays | {"x": arrays["x"].copy(order)}
        found = call(name, own, sample_weight=w.copy(order), reduction="none")
        inputs.assert_same(found, (value.reshape(rows), (grad.reshape(arrays["x"].shape), *others)))


@each_loss
def test_gradients_are_those_of_small_steps(name):
    arrays = draw(getattr(fl, name).formula, 6, ignored=True)
    _, grads = call(name, arrays)
    rng = np.random.default_rng(1)
    for n, grad in zip(differentiable(name, arrays), grads, strict=True):
        step = rng.normal(size=grad.shape)
        ahead, behind = (call(name, arrays | {n: arrays[n] + s * 1e-6 * step}, "__call__") for s in (1, -1))
        assert (ahead - behind) / 2e-6 == pytest.approx((grad * step).sum(), rel=1e-7, abs=1e-8)


def test_z_loss_and_smoothing_count_where_a_class_weighs_nothing():
    arrays = draw(fl.linear_cross_entropy.formula, 4)
    arrays["class_weight"][...] = 0
    assert call("linear_cross_entropy", arrays, "__call__", z_loss=0.5, normalizer=1.0) > 0


# --- logits beyond the range ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_that_overflow(dtype):
    """As in `cross_entropy`: several infinite logits have no limit, one at the label costs nothing, one elsewhere costs infinity."""
    big = 0.9 * float(np.finfo(dtype).max) ** 0.5 * 1e3
    x = np.array([[big, 0], [0, big], [0, big], [1, 1]], dtype)
    weight = np.array([[big, 0], [big, big], [0, 1]], dtype)
    target = np.array([0, 1, 0, 2])
    weight_of_rows = np.array([1, 1, 1, 0.0])
    with np.errstate(over="ignore"):
        logits = x @ weight.T
    assert np.isinf(logits[:3]).any(axis=1).all()
    for w in (None, weight_of_rows):
        value, grads = fl.linear_cross_entropy.value_and_grad(x, weight, target, reduction="none", sample_weight=w)
        np.testing.assert_array_equal(value[:3], [np.nan, 0, np.inf])
        expected = fl.cross_entropy(logits, target, reduction="none", sample_weight=w)
        np.testing.assert_array_equal(value[:3], expected[:3])
        assert np.isnan(grads[0][0]).all()
        assert not grads[0][1].any()
    assert np.isnan(fl.linear_cross_entropy(x, weight, target))


def test_a_class_that_weighs_nothing_may_have_a_logit_of_minus_infinity():
    x, weight = np.array([[1e30, 0], [1, 2]], np.float32), np.array([[-1e30, 0], [1, 1], [0, 1]], np.float32)
    own = [0, 1, 1]
    value, grads = fl.linear_cross_entropy.value_and_grad(x, weight, [0, 2], class_weight=own)
    assert value == fl.linear_cross_entropy(x[1:], weight, [2], class_weight=own)
    assert not grads[0][0].any()
    assert np.isfinite(grads[1]).all()


# --- layouts and dtypes -----------------------------------------------------------------------------------------------------


@pytest.mark.fault(6)
@pytest.mark.parametrize("layout", inputs.AWKWARD)
@each_dtype
@each_loss
def test_inputs_of_every_layout(name, dtype, layout, small_blocks):
    change = inputs.AWKWARD[layout]
    arrays, w = draw(getattr(fl, name).formula, (6, 5), dtype=dtype, ignored=True), inputs.weights((6, 5), np.float32)
    for reduction in ("mean", "none"):
        expected = call(name, arrays, reduction=reduction, sample_weight=w)
        for n in arrays:
            changed = arrays | {n: change(arrays[n])}
            inputs.assert_same(call(name, changed, reduction=reduction, sample_weight=w), expected)
        inputs.assert_same(call(name, arrays, reduction=reduction, sample_weight=change(w)), expected)


@pytest.mark.parametrize("layout", inputs.WRITEABLE)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@each_loss
def test_outputs_of_every_layout(name, dtype, layout, small_blocks):
    change = inputs.WRITEABLE[layout]
    arrays = draw(getattr(fl, name).formula, (6, 5), dtype=dtype, ignored=True)
    value, grads = call(name, arrays, reduction="none")
    outs = [change(np.full(a.shape, SENTINEL, dtype)) for a in (value, *grads)]
    found = call(name, arrays, reduction="none", value_out=outs[0], grad_out=outs[1:])
    inputs.assert_same(found, (value, grads))
    assert found[0] is outs[0]
    assert all(grad is out for grad, out in zip(found[1], outs[1:], strict=True))
    number = np.full((), SENTINEL, dtype)
    assert call(name, arrays, "__call__", reduction="sum", value_out=number) is number
    assert number == np.asarray(call(name, arrays, "__call__", reduction="sum"), dtype)


@pytest.mark.fault(11)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@each_loss
def test_halves_are_computed_in_float32_and_rounded_once(name, dtype, small_blocks):
    dtype = np.dtype(getattr(pytest.importorskip("ml_dtypes"), dtype) if dtype == "bfloat16" else dtype)
    arrays = draw(getattr(fl, name).formula, LEAD, dtype=dtype, ignored=True)
    wide = {n: a.astype(np.float32) if a.dtype == dtype else a for n, a in arrays.items()}
    for reduction in ("none", "sum"):
        value, grads = call(name, wide, reduction=reduction)
        value = value.astype(dtype) if reduction == "none" else value
        inputs.assert_same(call(name, arrays, reduction=reduction), (value, tuple(g.astype(dtype) for g in grads)))


@each_loss
def test_lists_and_broadcast_inputs(name):
    arrays = draw(getattr(fl, name).formula, (6, 4), ignored=True)
    inputs.assert_same(call(name, {n: a.tolist() for n, a in arrays.items()}), call(name, arrays))
    same = arrays | {"x": np.broadcast_to(arrays["x"][:1, :1], (6, 4, FEATURES))}
    inputs.assert_same(call(name, same), call(name, same | {"x": same["x"].copy()}))
    few = {n: a[0] if n == "target" else a for n, a in arrays.items()}
    full = {n: np.broadcast_to(a, (6, 4)).copy() if n == "target" else a for n, a in few.items()}
    w = inputs.weights((4,))
    inputs.assert_same(call(name, few, sample_weight=w), call(name, full, sample_weight=np.broadcast_to(w, (6, 4)).copy()))


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "uint64", "bool"])
@each_loss
def test_labels_of_every_width(name, kind):
    arrays = draw(getattr(fl, name).formula, LEAD)
    if "target" not in arrays:
        pytest.skip("no labels")
    arrays["target"] %= 2
    inputs.assert_same(call(name, arrays | {"target": arrays["target"].astype(kind)}), call(name, arrays))


# --- outputs over inputs ------------------------------------------------------------------------------------------------------


@each_dtype
@each_loss
def test_an_output_may_be_an_input(name, dtype, small_blocks):
    formula = getattr(fl, name).formula
    expected = call(name, draw(formula, LEAD, dtype=dtype, ignored=True))
    for over in itertools.product((False, True), repeat=len(expected[1])):
        arrays = draw(formula, LEAD, dtype=dtype, ignored=True)
        names = differentiable(name, arrays)
        outs = [arrays[n] if o else None for n, o in zip(names, over, strict=True)]
        found = call(name, arrays, grad_out=outs)
        inputs.assert_same(found, expected)
        assert all(out is None or grad is out for grad, out in zip(found[1], outs, strict=True))


@each_loss
def test_an_output_may_lie_over_an_input(name, small_blocks):
    formula = getattr(fl, name).formula
    arrays = draw(formula, SHARED, ignored=True)
    expected = call(name, arrays, reduction="none")
    for n, shift in itertools.product(("x", formula.shared[0]), (0, 1, FEATURES)):
        memory = np.zeros(SHARED * FEATURES + FEATURES)
        placed = memory[: SHARED * FEATURES].reshape(SHARED, FEATURES)
        placed[...] = arrays[n]
        out = memory[shift : shift + SHARED * FEATURES].reshape(SHARED, FEATURES)
        for place in range(2):
            placed[...] = arrays[n]
            outs = [None] * len(expected[1])
            outs[place] = out
            inputs.assert_same(call(name, arrays | {n: placed}, reduction="none", grad_out=outs), expected)
    w = np.ones(SHARED)
    inputs.assert_same(call(name, arrays, reduction="none", sample_weight=w, value_out=w), expected)


@each_loss
def test_outputs_that_interleave(name, small_blocks):
    """Two columns of one array, or the parts of complex numbers, have no element in common."""
    arrays = draw(getattr(fl, name).formula, SHARED)
    expected = call(name, arrays)
    rest = [None] * (len(expected[1]) - 2)
    pair, numbers = np.zeros((SHARED, FEATURES, 2)), np.zeros((SHARED, FEATURES), complex)
    for outs in ((pair[..., 0], pair[..., 1]), (numbers.real, numbers.imag)):
        inputs.assert_same(call(name, arrays, grad_out=[*outs, *rest]), expected)
    # An output between the elements of an input needs no copy, nor does it change the input.
    pair[..., 0] = arrays["x"]
    inputs.assert_same(call(name, arrays | {"x": pair[..., 0]}, grad_out=[pair[..., 1], None, *rest]), expected)
    np.testing.assert_array_equal(pair[..., 0], arrays["x"])


@each_loss
def test_outputs_must_not_share_memory(name):
    arrays = draw(getattr(fl, name).formula, SHARED)
    memory = np.full((SHARED + 1, FEATURES), float(SENTINEL))
    rest = [None] * (len(differentiable(name, arrays)) - 2)
    same = np.broadcast_to(memory[0], (SHARED, FEATURES))
    same.flags.writeable = True
    for outs, said in (
        ((memory[:-1], memory[1:]), r"grad_out\[1\] must not share memory with another output"),
        ((same, None), r"grad_out\[0\] must not share memory with itself"),
        ((None, same), r"grad_out\[1\] must not share memory with itself"),
    ):
        with pytest.raises(ValueError, match=f"{name}: {said}"):
            call(name, arrays, grad_out=[*outs, *rest])
    with pytest.raises(ValueError, match=f"{name}: .* must not share memory with another output"):
        call(name, arrays, value_out=memory[0, :1].reshape(()), grad_out=[memory[:-1], None, *rest])
    assert (memory == SENTINEL).all()


# --- memory and threads -----------------------------------------------------------------------------------------------------


def extra_memory(work):
    """The most bytes that a call holds beside what was there and what it leaves."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("shape", [(4000, 64, 20_000), (300_000, 8, 600), (64, 2000, 9000), (3, 16, 400_000)], ids=str)
def test_memory_of_linear_is_bounded(dtype, shape):
    """All logits would be 10 to 700 MB."""
    rows, features, shared = shape if dtype != "float16" else (max(3, shape[0] // 20), *shape[1:])
    arrays = draw(fl.linear_cross_entropy.formula, rows, features=features, shared=shared, dtype=dtype)
    outs = tuple(np.zeros_like(arrays[n]) for n in ("x", "weight", "bias"))
    few = {n: a[:3] if n in ("x", "target") else a for n, a in arrays.items()}
    call("linear_cross_entropy", few)  # the first call's own
    found = extra_memory(lambda: call("linear_cross_entropy", arrays, sample_weight=np.ones(rows), grad_out=outs))
    of_halves = arrays["weight"].nbytes * 2 + 2 * arrays["bias"].nbytes if dtype == "float16" else 0
    classes = arrays["class_weight"].nbytes
    assert found - of_halves <= blocks.SCRATCH + (1 << 20) + 3 * classes + rows * 8


@pytest.mark.parametrize("name", ["center", "kmeans"])
def test_memory_of_centers_is_bounded(name):
    arrays = draw(getattr(fl, name).formula, 400_000, features=32, shared=300, dtype="float32")
    outs = tuple(np.zeros_like(arrays[n]) for n in ("x", "centers"))
    found = extra_memory(lambda: call(name, arrays, grad_out=outs))
    assert found <= picked.BLOCK + (2 << 20)
    ties = arrays | {"x": np.zeros_like(arrays["x"]), "centers": np.zeros_like(arrays["centers"])}
    few = {n: a[:4000] if n in ("x", "target") else a for n, a in ties.items()}
    assert extra_memory(lambda: call(name, few)) <= blocks.SCRATCH + picked.BLOCK + (2 << 20)


@each_loss
def test_memory_that_cannot_be_allocated(name, small_blocks, monkeypatch):
    """Whichever array it is: the outputs are as they were, and the next call is right."""
    arrays, empty = draw(getattr(fl, name).formula, LEAD, ignored=True), np.empty
    expected = call(name, arrays, reduction="none")
    outs = [np.full(a.shape, float(SENTINEL)) for a in (expected[0], *expected[1])]
    for failing in itertools.count():
        count = itertools.count()

        def allocate(*args, failing=failing, count=count, **options):
            if args[0] != () and next(count) == failing:
                raise MemoryError
            return empty(*args, **options)

        monkeypatch.setattr(np, "empty", allocate)
        try:
            found = call(name, arrays, reduction="none", value_out=outs[0], grad_out=outs[1:])
        except MemoryError:
            assert all((out == SENTINEL).all() for out in outs)
        else:
            break
        finally:
            monkeypatch.setattr(np, "empty", empty)
    assert failing > 5
    inputs.assert_same(found, expected)


@each_dtype
@each_loss
def test_results_do_not_depend_on_the_number_of_threads(name, dtype):
    arrays = draw(getattr(fl, name).formula, 20_000, features=24, shared=90, dtype=dtype, ignored=True)
    before = fl.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 5):
            fl.set_num_threads(threads)
            found.append(call(name, arrays, sample_weight=inputs.weights((20_000,))))
    finally:
        fl.set_num_threads(before)
    for results in found[1:]:
        inputs.assert_same(results, found[0])


def test_blocks_are_even():
    for count, most in itertools.product((0, 1, 7, 100, 1001), (0, 1, 3, 64, 5000)):
        size = blocks.even_size(count, most)
        spans = list(blocks.spans(count, size))
        assert 1 <= size <= max(1, most)
        assert [i for start, stop in spans for i in range(start, stop)] == list(range(count))
        assert not spans or min(b - a for a, b in spans) > size - len(spans) - 1


def test_few_classes_do_not_make_large_blocks(monkeypatch):
    sizes = []
    prepare = similarities.Dot.prepare
    monkeypatch.setattr(similarities.Dot, "prepare", lambda self: (prepare(self), sizes.append(self.size)))
    call("linear_cross_entropy", draw(fl.linear_cross_entropy.formula, 10_000))
    assert sizes == [3334]


# --- faults -------------------------------------------------------------------------------------------------------------------


def refuses(error, said, name, arrays, **options):
    """Assert that each method raises this, and writes nothing."""
    for method in ("__call__", "grad", "value_and_grad"):
        outs = {}
        if method != "__call__" and all(np.ndim(arrays.get(n, 0)) for n in ("x",)):
            names = differentiable(name, {n: a for n, a in arrays.items() if a is not None})
            outs["grad_out"] = tuple(np.full(np.shape(arrays[n]), float(SENTINEL)) for n in names)
        if (method == "__call__" and "grad_out" in options) or (method == "grad" and "value_out" in options):
            continue
        with pytest.raises(error) as caught:
            call(name, arrays, method, **outs | options)
        assert type(caught.value) is error
        assert str(caught.value).startswith(f"{name}: ")
        assert said in str(caught.value)
        for array in outs.get("grad_out", ()):
            assert (array == SENTINEL).all()


def few(name, **changed):
    arrays = draw(getattr(fl, name).formula, 4, features=3, shared=6)
    return arrays | {n: a for n, a in changed.items() if n in getattr(fl, name).formula.inputs}


@pytest.mark.parametrize("how", ["smaller", "larger", "far", "unsigned"])
@pytest.mark.parametrize("name", ["linear_cross_entropy", "center"])
def test_a_label_outside(name, how, small_blocks):
    arrays = draw(getattr(fl, name).formula, 300, ignored=how != "unsigned")
    bad = {"smaller": -1, "larger": SHARED, "far": 2**62, "unsigned": 2**64 - 1}[how]
    arrays["target"] = arrays["target"].astype(np.uint64 if how == "unsigned" else np.int64)
    arrays["target"][[150, 299]] = bad
    said = f"target must be a class from 0 to {SHARED - 1}, got {bad} at index 150"
    refuses(ValueError, said, name, arrays)
    refuses(ValueError, said, name, arrays, sample_weight=np.zeros(300), reduction="sum")
    shaped = {n: a.reshape(30, 10, *a.shape[1:]) if n in ("x", "target") else a for n, a in arrays.items()}
    refuses(ValueError, f"got {bad} at index (15, 0)", name, shaped)


@pytest.mark.parametrize(
    ("error", "said", "changed"),
    [
        (TypeError, "x must be a floating-point array, got dtype int64", {"x": np.ones((4, 3), int)}),
        (TypeError, "x must hold real numbers", {"x": np.ones((4, 3), complex)}),
        (TypeError, "x must be a plain array, got a masked array", {"x": np.ma.ones((4, 3))}),
        (TypeError, "weight must be a plain array", {"weight": np.ma.ones((6, 3))}),
        (TypeError, "weight must be a floating-point array", {"weight": np.ones((6, 3), int)}),
        (TypeError, "weight must have x's dtype float64, got float32", {"weight": np.ones((6, 3), np.float32)}),
        (TypeError, "centers must have x's dtype float64, got float32", {"centers": np.ones((6, 3), np.float32)}),
        (TypeError, "bias must have x's dtype float64, got float32", {"bias": np.ones(6, np.float32)}),
        (TypeError, "target must be a plain array", {"target": np.ma.zeros(4, int)}),
        (TypeError, "target must hold real numbers", {"target": np.array(list("abcd"))}),
        (TypeError, "class_weight must be a plain array", {"class_weight": np.ma.ones(6)}),
        (TypeError, "no x", {"x": None}),
        (TypeError, "no weight", {"weight": None}),
        (TypeError, "no centers", {"centers": None}),
        (ValueError, "x must have shape (..., features), got ()", {"x": np.float64(1)}),
        (ValueError, "x must have at least one of its features, got shape (4, 0)", {"x": np.ones((4, 0))}),
        (ValueError, "weight must have shape (classes, 3), got (6, 4)", {"weight": np.ones((6, 4))}),
        (ValueError, "weight must have shape (classes, 3), got (3,)", {"weight": np.ones(3)}),
        (ValueError, "weight must have shape (classes, 3), got (1, 6, 3)", {"weight": np.ones((1, 6, 3))}),
        (ValueError, "weight must have at least one of its classes, got shape (0, 3)", {"weight": np.ones((0, 3))}),
        (ValueError, "centers must have shape (centers, 3), got (6, 2)", {"centers": np.ones((6, 2))}),
        (ValueError, "centers must have at least one of its centers, got shape (0, 3)", {"centers": np.ones((0, 3))}),
        (ValueError, "bias must have shape (6,), got (1,)", {"bias": np.ones(1)}),
        (ValueError, "bias must have shape (6,), got (6, 1)", {"bias": np.ones((6, 1))}),
        (ValueError, "target must broadcast to the rows' shape (4,), got (3,)", {"target": np.zeros(3, int)}),
        (ValueError, "target must broadcast to the rows' shape (4,), got (4, 1)", {"target": np.zeros((4, 1), int)}),
        (ValueError, "target must hold one label for each row, in their shape (4,), got (1,)", {"target": np.zeros(1, int)}),
        (ValueError, "got 18446744073709551516 at index 1", {"target": np.array([0, 2**64 - 100, 1, 1], np.uint64)}),
        (ValueError, "class_weight must have one number for each of the 6 classes", {"class_weight": np.ones(5)}),
        (ValueError, "class_weight must be finite and not negative, got -2", {"class_weight": [1, 1, -2, 1, 1, 1.0]}),
        (ValueError, "class_weight must be finite and not negative, got nan", {"class_weight": [1, 1, np.nan, 1, 1, 1]}),
    ],
)  # fmt: skip
@each_loss
def test_inputs_refused(name, error, said, changed):
    if set(changed) <= set(getattr(fl, name).formula.inputs):
        refuses(error, said, name, few(name, **changed))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_labels_must_be_whole_numbers(dtype):
    refuses(TypeError, f"target must hold whole numbers, got dtype {dtype}", "center", few("center", target=np.ones(4, dtype)))


def test_a_layer_takes_probabilities_for_labels(small_blocks):
    arrays = draw(fl.linear_cross_entropy.formula, LEAD, ("bias", "class_weight"))
    arrays["target"] = np.random.default_rng(0).dirichlet(np.ones(SHARED), LEAD)
    options = {"sample_weight": inputs.weights((LEAD,)), "class_weight": arrays.pop("class_weight"), **SOFT_OPTIONS}
    x, weight, bias = arrays["x"], arrays["weight"], arrays["bias"]
    value, by_logits = fl.cross_entropy.value_and_grad(x @ weight.T + bias, arrays["target"], **options)
    found, gradients = fl.linear_cross_entropy.value_and_grad(**arrays, **options)
    assert found == pytest.approx(value, rel=1e-13)
    for mine, expected in zip(gradients, (by_logits @ weight, by_logits.T @ x, by_logits.sum(0)), strict=True):
        assert_near(mine, expected, np.float64)


SOFT_OPTIONS = {"label_smoothing": 0.1, "z_loss": 0.02, "softcap": 4.0, "temperature": 1.5}


def test_a_layers_probabilities_must_be_some(small_blocks):
    arrays = few("linear_cross_entropy")
    rows, length = arrays["target"].shape[0], arrays["weight"].shape[0]
    target = np.full((rows, length), 1 / length)
    target[rows - 1, 1] = -0.5
    said = f"target must be in [0, 1], got -0.5 at index ({rows - 1}, 1)"
    refuses(ValueError, said, "linear_cross_entropy", arrays | {"target": target})
    assert np.isfinite(fl.linear_cross_entropy(**arrays | {"target": target}, check=False))
    refuses(ValueError, "target must broadcast", "linear_cross_entropy", arrays | {"target": target[:, 1:]})


@pytest.mark.parametrize(
    ("error", "said", "options"),
    [
        (TypeError, "'smoothing'", {"smoothing": 0.1}),
        (ValueError, "reduction must be 'mean', 'sum' or 'none', got 'average'", {"reduction": "average"}),
        (ValueError, "normalizer must be a positive number or 'samples', got -1", {"normalizer": -1}),
        (ValueError, "normalizer goes with reduction='mean'", {"normalizer": 2.0, "reduction": "sum"}),
        (ValueError, "sample_weight must broadcast to the rows' shape (4,), got (3,)", {"sample_weight": np.ones(3)}),
        (ValueError, "sample_weight must broadcast", {"sample_weight": np.ones((4, 3))}),
        (ValueError, "sample_weight must be finite and not negative, got -1 at index 2", {"sample_weight": [1, 1, -1, 1]}),
        (ValueError, "sample_weight must be finite and not negative, got nan at index 3", {"sample_weight": [1, 1, 1, np.nan]}),
        (ValueError, "sample_weight must be finite and not negative, got inf at index 0", {"sample_weight": [np.inf, 1, 1, 1]}),
        (ValueError, "value_out must have shape (), got (4,)", {"value_out": np.ones(4)}),
        (ValueError, "value_out must have shape (4,), got ()", {"value_out": np.ones(()), "reduction": "none"}),
        (ValueError, "value_out must have dtype float64, got float32", {"value_out": np.ones((), np.float32)}),
        (ValueError, "value_out must be writeable", {"value_out": inputs.read_only(np.ones(()))}),
        (ValueError, "grad_out[0] must have shape (4, 3), got (3, 4)", {"grad_out": np.ones((3, 4))}),
        (ValueError, "grad_out[0] must have dtype float64, got float32", {"grad_out": np.ones((4, 3), np.float32)}),
        (ValueError, "grad_out[0] must be writeable", {"grad_out": inputs.read_only(np.ones((4, 3)))}),
        (ValueError, "grad_out[0] must be aligned", {"grad_out": inputs.unaligned(np.ones((4, 3)))}),
        (TypeError, "grad_out[0] must be a NumPy array, got list", {"grad_out": [[1.0] * 3] * 4}),
    ],
)  # fmt: skip
@each_loss
def test_options_refused(name, error, said, options):
    arrays = few(name)
    if "grad_out" in options:
        rest = [np.full(arrays[n].shape, float(SENTINEL)) for n in differentiable(name, arrays)[1:]]
        options = {"grad_out": (options["grad_out"], *rest)}
    refuses(error, said, name, arrays, **options)


@each_loss
def test_a_reduction_by_any_kind_of_text(name):
    arrays = few(name)
    for reduction in ("mean", "sum", "none"):
        inputs.assert_same(call(name, arrays, reduction=np.str_(reduction)), call(name, arrays, reduction=reduction))
    for wrong in (1, None, b"sum", np.array(["sum", "mean"])):
        refuses(ValueError, "reduction must be 'mean', 'sum' or 'none', got", name, arrays, reduction=wrong)


@each_loss
def test_a_divisor_beyond_the_precision(name):
    arrays = draw(getattr(fl, name).formula, 4, (), dtype=np.float32)
    for options in ({"normalizer": 1e-40}, {"normalizer": 1e40}, {"sample_weight": np.full(4, 1e-42)}):
        with pytest.raises(ValueError, match=f"^{name}: .* must be within float32's range, and its inverse too"):
            call(name, arrays, **options)


@each_loss
def test_one_output_for_each_gradient(name):
    arrays = few(name)
    for wrong in (np.ones((4, 3)), (np.ones((4, 3)),), tuple(np.ones((4, 3)) for _ in range(4))):
        refuses(TypeError, "grad_out must be", name, arrays, grad_out=wrong)


@pytest.mark.parametrize(
    ("said", "options"),
    [
        ("label_smoothing must be in [0, 1], got 1.5", {"label_smoothing": 1.5}),
        ("temperature must be > 0, got 0", {"temperature": 0}),
        ("z_loss must be", {"z_loss": float("nan")}),
        ("softcap must be", {"softcap": -1}),
    ],
)
def test_hyperparameters_refused(said, options):
    refuses(ValueError, said, "linear_cross_entropy", few("linear_cross_entropy"), **options)
    with pytest.raises(TypeError, match=r"linear_cross_entropy: ignore_index must be a whole number within .* got 1\.5"):
        fl.linear_cross_entropy(**few("linear_cross_entropy"), ignore_index=1.5)


@each_loss
def test_too_many_inputs(name):
    arrays = few(name)
    with pytest.raises(TypeError, match=f"^{name}: takes"):
        getattr(fl, name)(*arrays.values(), 1)
    with pytest.raises(TypeError, match=f"^{name}: "):
        getattr(fl, name)(*arrays.values(), x=1)


@each_loss
def test_there_is_no_hessian(name):
    for method in ("value_grad_hess", "grad_and_hess"):
        with pytest.raises(TypeError, match=f"^{name}: .* Hessian"):
            getattr(getattr(fl, name), method)(**few(name))


@each_loss
def test_no_rows(name):
    arrays = draw(getattr(fl, name).formula, 0)
    outs = tuple(np.full_like(arrays[n], SENTINEL) for n in differentiable(name, arrays))
    with pytest.warns(RuntimeWarning, match=f"{name}: the mean of nothing is nan"):
        value, grads = call(name, arrays, grad_out=outs)
    assert np.isnan(value)
    assert grads[0].shape == (0, FEATURES)
    assert not any(grad.any() for grad in grads)
    value, grads = call(name, arrays, reduction="sum", grad_out=outs)
    assert value == 0
    assert not any(grad.any() for grad in grads)
    assert call(name, arrays, "__call__", reduction="none").shape == (0,)
    assert call(name, arrays, "__call__", normalizer=2.0) == 0


@pytest.mark.parametrize("how", ["ignored", "weights", "class weights"])
@each_loss
def test_nothing_that_counts(name, how):
    arrays, options = draw(getattr(fl, name).formula, 20), {}
    if how == "weights":
        options["sample_weight"] = np.zeros(20)
    elif how == "ignored" and "target" in arrays:
        arrays["target"][...] = IGNORED
    elif how == "class weights" and "class_weight" in arrays:
        arrays["class_weight"][...] = 0
    else:
        return
    if how != "class weights":
        arrays["x"][...] = np.nan
    with pytest.warns(RuntimeWarning, match="the mean of nothing is nan"):
        value, grads = call(name, arrays, **options)
    assert np.isnan(value)
    assert not any(grad.any() for grad in grads)
    assert call(name, arrays, "__call__", reduction="sum", **options) == 0
    assert not any(grad.any() for grad in call(name, arrays, "grad", **options))  # and no warning


@each_loss
def test_nan_stays_in_its_row(name, small_blocks):
    arrays = draw(getattr(fl, name).formula, LEAD, ignored=True)
    if "target" in arrays:
        arrays["target"][[4, 20]] = 0
    clean, (grad, *_) = call(name, arrays, reduction="none")
    arrays["x"][[4, 20], 1] = np.nan
    value, grads = call(name, arrays, reduction="none")
    rest = np.delete(np.arange(LEAD), [4, 20])
    assert np.isnan(value[[4, 20]]).all()
    assert np.isnan(grads[0][[4, 20]]).any(axis=1).all()
    inputs.assert_same((value[rest], grads[0][rest]), (clean[rest], grad[rest]))
    if name != "linear_cross_entropy":
        assert np.isnan(grads[1][0]).any()
        assert not np.isnan(grads[1][1:]).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("removal", ["weight", "label"])
@each_loss
def test_a_removed_row_may_hold_anything(name, removal, bad, small_blocks):
    arrays, w = draw(getattr(fl, name).formula, LEAD, ignored=True), inputs.weights((LEAD,)) + 1
    if removal == "weight":
        w[[4, 20]] = 0
    elif "target" in arrays:
        arrays["target"][[4, 20]] = IGNORED
    else:
        return
    for reduction in ("mean", "none"):
        expected = call(name, arrays, reduction=reduction, sample_weight=w)
        own = arrays | {"x": arrays["x"].copy()}
        own["x"][[4, 20]] = bad
        inputs.assert_same(call(name, own, reduction=reduction, sample_weight=w), expected)
        assert not expected[1][0][[4, 20]].any()


def test_a_removed_row_has_no_gradient_even_where_the_weight_is_infinite():
    arrays = draw(fl.linear_cross_entropy.formula, 5)
    arrays["weight"][3] = np.inf
    arrays["target"][2] = IGNORED
    grads = call("linear_cross_entropy", arrays, "grad")
    assert not grads[0][2].any()


@pytest.mark.filterwarnings("error")
@each_loss
def test_numpys_error_state_does_not_matter(name):
    with np.errstate(all="raise"):
        arrays = draw(getattr(fl, name).formula, 20, dtype=np.float32)
        arrays["x"][3] = np.inf
        arrays["x"][5] *= 1e30
        call(name, arrays)
        if "class_weight" in arrays:
            arrays["class_weight"][::2] = 1e-40
        value = call(name, arrays, sample_weight=np.full(20, 1e-30), reduction="none", value_out=np.zeros(20, np.float32))
        assert np.isfinite(value[0][[0, 1]]).all()


RACE = """
    import sys, threading, numpy as np, fastloss as fl
    name = sys.argv[1]
    rows, labels = 4000, np.zeros(4000, np.int64)
    x, shared, weight = np.ones((rows, 4), np.float32), np.ones((3, 4), np.float32), np.ones(rows)
    more = {"class_weight": np.ones(3, np.float32)} if name == "linear_cross_entropy" else {}
    going = True

    def write():
        while going:
            labels[...] = 2**40
            labels[...] = 0
            weight[...] = np.nan
            weight[...] = 1
            labels[...] = -(2**40)
            labels[...] = 1
            for array in more.values():
                array[...] = -1
                array[...] = 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(1500):
            try:
                getattr(fl, name).grad(x, shared, labels, sample_weight=weight, **more)
            except ValueError:
                pass
    finally:
        going = False
        thread.join()
    labels[...], weight[...] = 0, 1
    print(getattr(fl, name)(x, shared, labels))
"""


@pytest.mark.fault(52)
@pytest.mark.parametrize("name", ["linear_cross_entropy", "center"])
def test_labels_and_weights_rewritten_by_another_thread(name):
    """Whatever it computes then, nothing is read or written beyond the arrays."""
    command = [sys.executable, "-P", "-X", "faulthandler", "-c", textwrap.dedent(RACE), name]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) == pytest.approx({"linear_cross_entropy": np.log(3), "center": 0}[name])


INTERRUPT = """
    import os, signal, threading, time
    import numpy as np, fastloss as fl
    x, shared = np.broadcast_to(np.float32(0.5), (1 << 40, 8)), np.ones((100, 8), np.float32)
    for call in (lambda x: fl.kmeans(x, shared), lambda x: fl.linear_cross_entropy(x, shared, np.int8(3))):
        def interrupt():
            global sent
            sent = time.perf_counter()
            os.kill(os.getpid(), signal.SIGINT)
        threading.Timer(0.3, interrupt).start()
        try:
            call(x)
        except KeyboardInterrupt:
            print(time.perf_counter() - sent)
        call(x[:10])
"""


@pytest.mark.fault(41)
@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_in_a_long_call():
    run = subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(INTERRUPT)], capture_output=True, text=True, timeout=60, check=True
    )
    delays = [float(word) for word in run.stdout.split()]
    assert len(delays) == 2
    assert min(delays) < 0.2
