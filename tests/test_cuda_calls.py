"""What a call on CUDA arrays may be asked: layouts, broadcasting, axes, outputs, other results, calls prepared once."""

import numpy as np
import pytest

import fastloss as fl
from fastloss.api.loss import Loss
from fastloss.formula import Formula, Positive, Real

from . import cuda_simulator, inputs
from .cuda_simulator import Lent, host, lent

pytestmark = cuda_simulator.needed
RNG = np.random.default_rng(0)
LAYOUTS = [name for name in inputs.AWKWARD if name not in ("byte_swapped", "unaligned", "unaligned_strides", "read_only")]


def numbers(*shape, dtype=np.float32):
    return RNG.normal(size=shape).astype(dtype)


def same(found, expected):
    """Bitwise, but for the sign of zeros."""
    for one, wanted in zip(inputs.flatten(host(found)), inputs.flatten(expected), strict=True):
        assert (one.dtype, one.shape) == (wanted.dtype, wanted.shape)
        np.testing.assert_array_equal(one, wanted)


# --- memory -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pointwise_inputs_of_every_layout(layout):
    pred, target, weight = numbers(3, 4, 5), numbers(3, 4, 5), inputs.weights((3, 4, 5), np.float32)
    expected = fl.huber.value_and_grad(pred, target, delta=0.625, sample_weight=weight, reduction="none")
    change = inputs.AWKWARD[layout]
    for k in range(4):
        arrays = [change(a) if k in (i, 3) else a for i, a in enumerate((pred, target, weight))]
        p, t, w = lent(*arrays)
        same(fl.huber.value_and_grad(p, t, delta=0.625, sample_weight=w, reduction="none"), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("length", [3, 19])
def test_rows_of_every_layout(layout, length):
    logits, labels, weight = numbers(5, length), RNG.integers(0, length, 5), inputs.weights(5, np.float32)
    change = inputs.AWKWARD[layout]
    expected = host(fl.cross_entropy.value_and_grad(*lent(logits, labels), sample_weight=Lent(weight), reduction="none"))
    x, y, w = lent(change(logits), change(labels), change(weight))
    # The vectors of rows that lie dense are added up in pairs first.
    for one, wanted in zip(
        host(fl.cross_entropy.value_and_grad(x, y, sample_weight=w, reduction="none")), expected, strict=True
    ):
        np.testing.assert_allclose(one, wanted, rtol=0, atol=4 * np.spacing(np.abs(wanted).max()))


@pytest.mark.parametrize("shift", [1, 2, 3])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_starts_that_vectors_cannot_load_from(dtype, shift):
    memory = numbers(40, dtype=dtype)
    pred, target, out = memory[shift : shift + 21], numbers(21, dtype=dtype), np.zeros(24, dtype)[3:]
    expected = fl.squared_error.value_and_grad(pred, target, reduction="none")
    p, t, o = lent(pred, target, out)
    same(fl.squared_error.value_and_grad(p, t, reduction="none", grad_out=o), expected)
    same(o, expected[1])


@pytest.mark.parametrize("count", [1, 3, 4, 5, 63, 64, 65, 200])
def test_lengths_about_vectors_and_blocks(count):
    pred, target = numbers(count), numbers(count)
    found, grad = fl.squared_error.value_and_grad(*lent(pred, target), reduction="sum")
    expected, expected_grad = fl.squared_error.value_and_grad(pred, target, reduction="sum")
    assert host(found) == pytest.approx(expected, rel=1e-6)
    same(grad, expected_grad)


@pytest.mark.parametrize("shape", [(4, 5), (5,), (4, 1), (1, 1), (1, 5), ()], ids=str)
def test_targets_and_weights_broadcast(shape):
    pred, target, weight = numbers(4, 5), numbers(*shape), np.full(shape, 2.125, np.float32)
    expected = fl.log_cosh.value_and_grad(pred, target, sample_weight=weight, reduction="none")
    p, t, w = lent(pred, target, weight)
    same(fl.log_cosh.value_and_grad(p, t, sample_weight=w, reduction="none"), expected)
    stretched = Lent(np.broadcast_to(target, (4, 5)))
    same(fl.log_cosh.value_and_grad(p, stretched, sample_weight=w, reduction="none"), expected)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(), (1,), (4,), (3, 1), (1, 4), (2, 1, 1), (2, 1, 4), (1, 3, 1)], ids=str)
def test_gradients_of_inputs_that_were_broadcast(shape, dtype):
    """In the input's own shape: what a whole input's gradient sums to."""
    pred, target, weights = (numbers(2, 3, 4, dtype=dtype) for _ in range(3))
    var = np.abs(numbers(*shape, dtype=dtype)) + np.dtype(dtype).type(0.5)
    whole = np.ascontiguousarray(np.broadcast_to(var, pred.shape))
    summed = tuple(d for d in range(3) if d < 3 - len(shape) or shape[d - 3 + len(shape)] == 1)
    for options in ({}, {"sample_weight": np.abs(weights)}, {"reduction": "sum"}, {"reduction": "none"}):
        given = {name: Lent(value) if isinstance(value, np.ndarray) else value for name, value in options.items()}
        for method, parts in (("value_and_grad", 1), ("value_grad_hess", 2)):
            found = host(getattr(fl.gaussian_nll, method)(*lent(pred, target, var), **given))
            expected = host(getattr(fl.gaussian_nll, method)(*lent(pred, target, whole), **given))
            np.testing.assert_allclose(found[0], expected[0], rtol=3e-7)
            for k in range(1, 1 + parts):
                np.testing.assert_array_equal(found[k][0], expected[k][0])
                sums = expected[k][1].astype(np.float64).sum(axis=summed).reshape(shape)
                assert (found[k][1].shape, found[k][1].dtype) == (shape, np.dtype(dtype))
                tolerance = {"rtol": 4e-3, "atol": 4e-3} if dtype == "float16" else {"rtol": 3e-6, "atol": 1e-6}
                np.testing.assert_allclose(found[k][1].astype(np.float64), sums, **tolerance)


def test_gradients_of_one_number_for_many_elements_and_of_rows():
    pred, target = numbers(37, 5), numbers(37, 5)
    var = np.array([1.25], np.float32)
    out = Lent(np.zeros((37, 5), np.float32)), Lent(np.full(1, 77, np.float32))
    _, grads = fl.gaussian_nll.value_and_grad(*lent(pred, target, var), grad_out=out)
    expected = host(fl.gaussian_nll.grad(*lent(pred, target, np.full((37, 5), 1.25, np.float32))))
    assert grads[1] is out[1]
    np.testing.assert_allclose(host(out[1]), [expected[1].sum(dtype=float)], rtol=1e-6)
    shared = numbers(5)
    grads = host(fl.cosine_distance.grad(*lent(pred, shared)))
    expected = host(fl.cosine_distance.grad(*lent(pred, np.ascontiguousarray(np.broadcast_to(shared, (37, 5))))))
    np.testing.assert_array_equal(grads[0], expected[0])
    np.testing.assert_allclose(grads[1], expected[1].sum(0, dtype=float), rtol=1e-5, atol=1e-7)
    empty = host(fl.gaussian_nll.grad(*lent(np.zeros((0, 5), np.float32), np.zeros((0, 5), np.float32), var), reduction="sum"))
    assert (empty[1] == 0).all()
    assert empty[1].shape == (1,)


def test_no_dimension():
    value, *rest = fl.huber.value_grad_hess(np.float32(2), np.float32(0))
    same(fl.huber.value_grad_hess(*lent(np.float32(2), np.float32(0))), (np.asarray(value, np.float32), *rest))


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool"])
def test_integers_of_every_width(kind):
    pred, target = numbers(21), RNG.integers(0, 2, 21).astype(kind)
    same(fl.squared_error.grad(*lent(pred, target)), fl.squared_error.grad(pred, target))
    logits = numbers(21, 3)
    same(fl.nll.grad(*lent(logits, target)), fl.nll.grad(logits, target))


@pytest.mark.parametrize("axis", [0, 1, -2, 2])
def test_axes(axis):
    logits = numbers(3, 4, 5, dtype=np.float64)
    labels = RNG.integers(0, logits.shape[axis], np.delete(logits.shape, axis))
    expected = fl.cross_entropy.value_and_grad(logits, labels, axis=axis, reduction="none", label_smoothing=0.25)
    found = host(fl.cross_entropy.value_and_grad(*lent(logits, labels), axis=axis, reduction="none", label_smoothing=0.25))
    for one, wanted in zip(found, expected, strict=True):
        assert one.shape == wanted.shape
        np.testing.assert_allclose(one, wanted, rtol=0, atol=1e-14)


# --- labels -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [3, 19])
def test_rows_to_ignore(length):
    logits, labels = numbers(6, length, dtype=np.float64), RNG.integers(0, length, 6)
    labels[1::2] = -7
    weight = RNG.uniform(0.5, 2, length)
    for reduction in ("mean", "sum", "none"):
        options = {"ignore_index": -7, "reduction": reduction}
        value, grad = fl.cross_entropy.value_and_grad(logits, labels, weight, **options)
        found, found_grad = host(fl.cross_entropy.value_and_grad(*lent(logits, labels, weight), **options))
        np.testing.assert_allclose(found, value, rtol=1e-14)
        np.testing.assert_allclose(found_grad, grad, rtol=0, atol=1e-15)
        assert not found_grad[1::2].any()


def test_all_rows_ignored_or_without_weight():
    logits, labels = numbers(4, 3), np.full(4, -100)
    value, grad = host(fl.cross_entropy.value_and_grad(*lent(logits, labels)))
    assert np.isnan(value)
    assert not grad.any()
    value, grad = host(fl.huber.value_and_grad(*lent(logits, logits * 0), sample_weight=Lent(np.zeros((4, 3), np.float32))))
    assert np.isnan(value)
    assert not grad.any()


def test_a_weight_of_zero_takes_out_even_nan():
    pred = numbers(9)
    pred[4] = np.nan
    weight = np.ones(9, np.float32)
    weight[4] = 0
    value, grad = host(fl.squared_error.value_and_grad(*lent(pred, pred * 0), sample_weight=Lent(weight)))
    expected, expected_grad = fl.squared_error.value_and_grad(pred, pred * 0, sample_weight=weight)
    assert value == pytest.approx(expected, rel=1e-6)
    np.testing.assert_array_equal(grad, expected_grad)


@pytest.mark.parametrize("normalizer", [7.5, "samples"])
def test_normalizers(normalizer):
    pred, target, weight = numbers(9), numbers(9), inputs.weights(9, np.float32)
    for each, arrays in ((fl.huber, (pred, target)), (fl.cross_entropy, (numbers(9, 4), RNG.integers(0, 4, 9)))):
        value, grad = each.value_and_grad(*arrays, sample_weight=weight, normalizer=normalizer)
        found, found_grad = host(each.value_and_grad(*lent(*arrays), sample_weight=Lent(weight), normalizer=normalizer))
        assert found == pytest.approx(value, rel=1e-6)
        np.testing.assert_allclose(found_grad, grad, rtol=1e-6, atol=1e-8)


# --- results ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "extra_axes"])
def test_results_into_arrays_that_are_given(layout):
    pred, target = numbers(5, 6), numbers(5, 6)
    value, grad, hess = fl.huber.value_grad_hess(pred, target, reduction="none")
    change = inputs.AWKWARD[layout]
    outs = lent(*(change(np.full((5, 6), 77, np.float32)) for _ in range(3)))
    options = dict(zip(("value_out", "grad_out", "hess_out"), outs, strict=True))
    results = fl.huber.value_grad_hess(*lent(pred, target), reduction="none", **options)
    assert all(result is out for result, out in zip(results, outs, strict=True))
    same(results, (value, grad, hess))


def test_nothing_is_written_between_the_elements_of_an_output():
    memory = np.full((8, 12), 77, np.float32)
    p, t, whole = lent(numbers(4, 6), numbers(4, 6), memory)
    part = Part(whole, memory[1::2, ::2])
    expected = fl.huber.grad(p.copy_to_host(), t.copy_to_host())
    assert fl.huber.grad(p, t, grad_out=part) is part
    found = whole.copy_to_host()
    np.testing.assert_array_equal(found[1::2, ::2], expected)
    found[1::2, ::2] = 77
    assert (found == 77).all()


class Part:
    """A view of what was lent."""

    def __init__(self, whole, view):
        interface = dict(whole.__cuda_array_interface__)
        start = view.ctypes.data - np.asarray(view.base).ctypes.data
        self.__cuda_array_interface__ = interface | {
            "shape": view.shape,
            "strides": view.strides,
            "data": (interface["data"][0] + start, False),
        }


@pytest.mark.parametrize("length", [3, 19])
def test_results_in_the_place_of_the_input(length):
    pred, target = numbers(5, length), numbers(5, length)
    expected = fl.huber.grad(pred, target)
    p, t = lent(pred, target)
    assert fl.huber.grad(p, t, grad_out=p) is p
    same(p, expected)
    labels = RNG.integers(0, length, 5)
    x, y = lent(pred, labels)
    expected = host(fl.cross_entropy.grad(x, y, softcap=2.75))
    fl.cross_entropy.grad(x, y, softcap=2.75, grad_out=x)
    same(x, expected)


@pytest.mark.parametrize("length", [3, 19])
def test_other_results_of_rows(length):
    logits, labels = numbers(5, length, dtype=np.float64), RNG.integers(0, length, 5)
    names = ("value", "grad", "logsumexp", "predicted", "correct")
    expected = fl.cross_entropy.evaluate(logits, labels, outputs=names, reduction="none")
    found = host(fl.cross_entropy.evaluate(*lent(logits, labels), outputs=names, reduction="none"))
    assert list(found) == list(names)
    for name in names:
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-14)
    known = "logsumexp, predicted, correct"
    with pytest.raises(
        ValueError, match=f"cross_entropy: outputs besides the value and its derivatives must be among {known}, got"
    ):
        fl.cross_entropy.evaluate(*lent(logits, labels), outputs=("margin",))


def test_calls_that_are_prepared():
    pred, target = numbers(21), numbers(21)
    p, t = lent(pred, target)
    for what in ("value", "grad", "value_and_grad", "grad_and_hess", "value_grad_hess"):
        call = fl.huber.prepare(what, p, t, delta=0.625)
        method = "__call__" if what == "value" else what
        same(call(), host(getattr(fl.huber, method)(p, t, delta=0.625)))
    call = fl.huber.prepare("grad", p, t, delta=0.625, grad_out=p)
    once = fl.huber.grad(pred, target, delta=0.625)
    assert call() is p
    same(p, once)
    assert call() is p
    same(p, fl.huber.grad(once, target, delta=0.625))


@pytest.mark.parametrize("length", [3, 19])
def test_results_are_the_same_from_run_to_run(length):
    pred, target = numbers(40, 7), numbers(40, 7)
    logits, labels = numbers(7, length), RNG.integers(0, length, 7)
    for each, arrays in ((fl.huber, (pred, target)), (fl.cross_entropy, (logits, labels)), (fl.js_divergence, (pred, target))):
        first = host(each.value_and_grad(*lent(*arrays)))
        for _ in range(2):
            inputs.assert_same(host(each.value_and_grad(*lent(*arrays))), first)


# --- formulas of users --------------------------------------------------------------------------------------------------------


def _loss(**options):
    """A loss of a formula, which no table holds."""
    return lambda function: Loss(Formula.define(function, **options))


@_loss(scale=Positive(1.0), first=Real(0.5), count=Positive(2.0))
def log_cosh(high, low, scale, first, count):
    """Named as a function of fastloss.vecmath, its arguments as what kernels count with."""
    z = fl.formula.log_cosh((high - low) / scale)
    return count * z + first * z * z


def test_names_that_kernels_use_themselves():
    high, low = numbers(9), numbers(9)
    options = {"scale": 1.5, "first": 0.25, "count": 3.0}
    z = (high.astype(float) - low) / 1.5
    expected = 3 * np.log(np.cosh(z)) + 0.25 * np.log(np.cosh(z)) ** 2
    found = host(log_cosh(*lent(high, low), **options, reduction="none"))
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-7)
    alone = host(log_cosh(*lent(high, np.float32(0.5)), **options, reduction="none"))
    wide = np.log(np.cosh((high.astype(float) - 0.5) / 1.5))
    np.testing.assert_allclose(alone, 3 * wide + 0.25 * wide**2, rtol=2e-6, atol=1e-7)
