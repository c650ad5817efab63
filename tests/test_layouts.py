"""Memory layouts: whatever the strides, the byte order or the alignment, results equal those of contiguous arrays bitwise."""

import itertools
import os

import numpy as np
import pytest

import fastloss as fl

from . import inputs

BY_LOSS = pytest.mark.parametrize("case", inputs.ONE_EACH, ids=str)
# What the driver does is the same for all losses: one with one gradient, one with two.
SOME = [case for case in inputs.ONE_EACH if case.name in ("binary_cross_entropy_with_logits", "gaussian_nll")]
ONE = next(case for case in SOME if case.name == "binary_cross_entropy_with_logits")
BY_SOME = pytest.mark.parametrize("case", SOME, ids=lambda case: case.name)
DTYPES = pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])


def dtype_of(name):
    return np.dtype(getattr(pytest.importorskip("ml_dtypes"), name) if name == "bfloat16" else name)


def call(case, arrays, **options):
    return case.loss.value_grad_hess(*arrays.values(), **case.parameters, **options)


# --- inputs --------------------------------------------------------------------------------------------------------------


@pytest.mark.fault(6)
@pytest.mark.parametrize("layout", inputs.AWKWARD)
@BY_LOSS
def test_every_loss_takes_every_layout(case, layout):
    arrays = inputs.blocks(case, (6, 5, 43), np.float32)
    w = inputs.weights((6, 5, 43), np.float32)
    awkward = {name: inputs.AWKWARD[layout](array) for name, array in arrays.items()}
    for reduction in ("mean", "none"):
        expected = call(case, arrays, sample_weight=w, reduction=reduction)
        inputs.assert_same(call(case, awkward, sample_weight=inputs.AWKWARD[layout](w), reduction=reduction), expected)


@pytest.mark.parametrize("shape", [(), (1,), (2, 1, 3), (1025,), (65, 257), (3, 0, 2)], ids=str)
@pytest.mark.parametrize("layout", inputs.AWKWARD)
@DTYPES
@BY_SOME
def test_each_input_alone_may_have_a_layout(case, dtype, layout, shape):
    dtype, change = dtype_of(dtype), inputs.AWKWARD[layout]
    if layout == "byte_swapped" and dtype.kind != "f":
        pytest.skip("ml_dtypes has no byte orders")
    arrays = inputs.blocks(case, shape, dtype)
    w = inputs.weights(shape, dtype)
    expected = call(case, arrays, reduction="sum", sample_weight=w)
    for name in arrays:
        inputs.assert_same(call(case, arrays | {name: change(arrays[name])}, reduction="sum", sample_weight=w), expected)
    inputs.assert_same(call(case, arrays, reduction="sum", sample_weight=change(w)), expected)


@pytest.mark.parametrize("target", ["int8", "uint16", "int32", "uint64", "bool", "float16"])
@pytest.mark.parametrize("layout", inputs.AWKWARD)
def test_layouts_of_targets_of_other_dtypes(layout, target):
    pred = np.random.default_rng(0).normal(size=(9, 130)).astype(np.float32)
    values = np.random.default_rng(1).integers(0, 2, (9, 130)).astype(target)
    expected = fl.squared_error.value_and_grad(pred, values.astype(np.float32))
    inputs.assert_same(fl.squared_error.value_and_grad(pred, inputs.AWKWARD[layout](values)), expected)


PAIRS = list(itertools.product(["fortran", "negative_strided", "rolled_axes", "unaligned"], repeat=2))


@pytest.mark.parametrize("layouts", PAIRS, ids="-".join)
def test_inputs_of_different_layouts_together(layouts):
    case = ONE
    arrays = inputs.blocks(case, (11, 13, 17), np.float64)
    awkward = {name: inputs.AWKWARD[layout](array) for (name, array), layout in zip(arrays.items(), layouts, strict=True)}
    inputs.assert_same(call(case, awkward), call(case, arrays))


def test_inputs_are_not_changed():
    for case, (name, change) in itertools.product(SOME, inputs.AWKWARD.items()):
        arrays = {n: change(a) for n, a in inputs.blocks(case, (6, 50)).items()}
        before = {n: a.tobytes() for n, a in arrays.items()}
        call(case, arrays)
        assert {n: a.tobytes() for n, a in arrays.items()} == before, name


def many_axes(array, order):
    """The same values, laid out in memory in another order of the axes."""
    return np.transpose(np.ascontiguousarray(np.transpose(array, order)), np.argsort(order))


@pytest.mark.parametrize("axes", [8, 9, 10, 12])
@DTYPES
@BY_SOME
def test_more_separate_dimensions_than_an_operand_holds(case, dtype, axes):
    shape = (2,) * (axes - 1) + (3,)
    arrays = inputs.blocks(case, shape, dtype_of(dtype))
    w = inputs.weights(shape, np.float32)
    expected = call(case, arrays, sample_weight=w)
    orders = [tuple(range(axes))[::-1], tuple(np.random.default_rng(axes).permutation(axes))]
    for order in orders:
        awkward = {name: many_axes(array, order) for name, array in arrays.items()}
        inputs.assert_same(call(case, awkward, sample_weight=w), expected)
        inputs.assert_same(call(case, arrays, sample_weight=many_axes(w, order)), expected)
        several = len(case.formula.differentiable) > 1
        outs = tuple(many_axes(np.full(shape, np.nan, arrays["pred"].dtype), order) for _ in case.formula.differentiable)
        inputs.assert_same(call(case, awkward, sample_weight=w, grad_out=outs if several else outs[0]), expected)


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_broadcasting_in_more_dimensions_than_an_operand_holds(dtype):
    shape = (2,) * 12
    pred = np.random.default_rng(2).normal(size=shape)
    target = np.random.default_rng(3).integers(-9, 9, (2, 1) * 6).astype(dtype)
    full = np.ascontiguousarray(np.broadcast_to(target, shape))
    inputs.assert_same(fl.huber.value_and_grad(pred, target), fl.huber.value_and_grad(pred, full))
    w = np.abs(target).astype(np.float64)
    inputs.assert_same(
        fl.huber.value_and_grad(pred, 0.0, sample_weight=w),
        fl.huber.value_and_grad(pred, 0.0, sample_weight=np.abs(full).astype(np.float64)),
    )


def test_the_most_dimensions_that_numpy_has():
    shape = (1,) * 40 + (3,) + (1,) * 20 + (2,)
    pred = np.arange(6.0).reshape(shape)
    value, grad = fl.squared_error.value_and_grad(pred, 1.0, reduction="none")
    np.testing.assert_array_equal(value, (pred - 1) ** 2)
    np.testing.assert_array_equal(grad, 2 * (pred - 1))


# --- sizes ---------------------------------------------------------------------------------------------------------------

TILE, CHUNK = 1024, 16 * 1024
SIZES = [1, 2, 3, 15, 16, 17, 63, 64, 65, 65 * CHUNK + 7]
SIZES += [border + d for border in (TILE, 2 * TILE, CHUNK, 3 * CHUNK) for d in (-1, 0, 1)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("layout", ["strided", "negative", "unaligned_strides"])
@DTYPES
def test_sizes_about_the_borders_of_tiles_and_chunks(dtype, layout, size):
    case, change = ONE, inputs.AWKWARD[layout]
    arrays = inputs.columns(case, size, dtype_of(dtype), seed=3) if size < 10**5 else tiled(case, size, dtype_of(dtype))
    w = inputs.weights(size, np.float32)
    expected = call(case, arrays, sample_weight=w)
    inputs.assert_same(call(case, {n: change(a) for n, a in arrays.items()}, sample_weight=change(w)), expected)
    value, *_ = call(case, arrays, reduction="none")
    total, *_ = call(case, arrays, reduction="sum")
    eps = float(np.finfo(np.float64 if dtype == "float64" else np.float32).eps)
    if dtype in ("float32", "float64"):
        assert abs(total - value.sum(dtype=np.float64)) <= 24 * eps * np.abs(value).sum(dtype=np.float64)


def tiled(case, size, dtype):
    return {name: np.resize(array, size) for name, array in inputs.columns(case, 9973, dtype, seed=3).items()}


def test_an_elements_results_do_not_depend_on_its_place():
    """Neither on the vector's lane nor on the tile."""
    for case, dtype in itertools.product(inputs.CASES, (np.float32, np.float64)):
        arrays = inputs.columns(case, 1100, dtype, seed=4)
        whole = inputs.flatten(call(case, arrays, reduction="none"))
        for start, stop in ((1, 1100), (7, 1090), (1023, 1025), (500, 501), (1000, 1016), (3, 34)):
            part = inputs.flatten(call(case, {n: a[start:stop] for n, a in arrays.items()}, reduction="none"))
            inputs.assert_same(tuple(part), tuple(result[start:stop] for result in whole))


@pytest.mark.parametrize("row", [1, 2, 3, 5, 16, 17, 1023, 1024, 1025, 5000])
def test_rows_of_any_length_in_wider_memory(row):
    """Inner runs shorter and longer than a tile."""
    rows = 20_000 // row + 2
    memory = np.random.default_rng(5).normal(size=(rows, row + 3)).astype(np.float32)
    pred, target = memory[:, 2:-1], memory[:, :1]
    expected = fl.huber.value_grad_hess(pred.copy(), np.broadcast_to(target, pred.shape).copy())
    inputs.assert_same(fl.huber.value_grad_hess(pred, target), expected)
    out = np.full((row + 4, rows), np.nan, np.float32)
    fl.huber.grad(pred, target, grad_out=out[2:-2].T)
    inputs.assert_same(out[2:-2].T, expected[1])
    assert np.isnan(out[:2]).all()
    assert np.isnan(out[-2:]).all()


# --- broadcasting --------------------------------------------------------------------------------------------------------

SHAPE = (3, 4, 5)
PATTERNS = list(itertools.product(*((1, n) for n in SHAPE)))
PATTERNS += [shape[1:] for shape in PATTERNS if shape[0] == 1] + [(5,), (1,), ()]


@pytest.mark.parametrize("pattern", sorted(set(PATTERNS)), ids=str)
@DTYPES
@BY_LOSS
def test_targets_broadcast(case, dtype, pattern):
    arrays = inputs.blocks(case, SHAPE, dtype_of(dtype))
    fixed = case.formula.differentiable
    small = {name: a if name in fixed else np.ascontiguousarray(_corner(a, pattern)) for name, a in arrays.items()}
    full = {name: np.ascontiguousarray(np.broadcast_to(a, SHAPE)) for name, a in small.items()}
    w = inputs.weights(SHAPE, np.float32)
    some = _corner(w, pattern) + 1
    expected = call(case, full, sample_weight=np.broadcast_to(some, SHAPE).copy())
    inputs.assert_same(call(case, small, sample_weight=some), expected)
    reversed_axes = {name: np.asfortranarray(a) for name, a in small.items()}
    inputs.assert_same(call(case, reversed_axes), call(case, full))


def _corner(array, pattern):
    """The array's first entries along the axes that the pattern leaves out or has as 1."""
    index = tuple(slice(None) if n > 1 else slice(0, 1) for n in pattern)
    return array[(0,) * (array.ndim - len(pattern)) + index]


def test_stride_0_inputs_of_any_axis():
    for axis, count in itertools.product(range(3), (1, 7, 1500)):
        shape = [3, 4, 5]
        shape[axis] = 1
        small = np.random.default_rng(axis).normal(size=shape)
        shape[axis] = count
        pred = np.broadcast_to(small, shape)
        inputs.assert_same(fl.huber.value_and_grad(pred, pred * 0.5), fl.huber.value_and_grad(pred.copy(), pred * 0.5))


def test_the_gradient_of_a_broadcast_input_has_its_own_shape():
    pred, var = np.ones((3, 4)), np.full((4,), 2.0)
    assert fl.gaussian_nll(pred, 0.0, var) == fl.gaussian_nll(pred, 0.0, np.full((3, 4), 2.0))
    _, of_var = fl.gaussian_nll.grad(pred, 0.0, var)
    _, whole = fl.gaussian_nll.grad(pred, 0.0, np.full((3, 4), 2.0))
    np.testing.assert_allclose(of_var, whole.sum(axis=0), rtol=1e-14)


# --- outputs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("shape", [(), (1,), (5, 7, 40), (1025,), (130, 257)], ids=str)
@pytest.mark.parametrize("layout", inputs.WRITEABLE)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_outputs_of_every_layout(dtype, layout, shape, reduction):
    case = ONE
    arrays = inputs.blocks(case, shape, dtype)
    w = inputs.weights(shape, dtype) + 1
    expected = call(case, arrays, reduction=reduction, sample_weight=w)
    outs = [inputs.WRITEABLE[layout](np.full(shape, 77, dtype)) for _ in range(3)]
    given = {"grad_out": outs[1], "hess_out": outs[2]} | ({"value_out": outs[0]} if reduction == "none" else {})
    results = call(case, arrays, reduction=reduction, sample_weight=w, **given)
    inputs.assert_same(results, expected)
    assert results[1] is outs[1]
    assert results[2] is outs[2]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_nothing_is_written_between_the_elements_of_an_output(dtype):
    case = ONE
    arrays = inputs.blocks(case, (20, 30), dtype)
    memory = np.full((40, 100), 77, dtype)
    out = memory[1::2, 3:93:3]
    call(case, arrays, grad_out=out)
    inputs.assert_same(out, call(case, arrays)[1])
    out[...] = 77
    assert (memory == 77).all()


def test_a_scalar_output_of_any_memory():
    memory = np.full(3, 77.0, np.float32)
    value = fl.squared_error(np.float32([1, 3]), np.float32([0, 0]), value_out=memory[1:2].reshape(()))
    assert value.base is memory
    assert memory.tolist() == [77, 5, 77]


# --- beyond 2**31 --------------------------------------------------------------------------------------------------------


@pytest.mark.fault(10)
def test_more_than_two_to_the_31_elements_without_memory():
    count = 2**31 + 12_345
    pred = np.broadcast_to(np.float32(0.5), (count,))
    assert fl.absolute_error(pred, 0.0, reduction="sum") == count / 2
    assert fl.absolute_error(np.broadcast_to(np.float16(0.5), (3, count // 3)), 0.0) == 0.5


def test_strides_beyond_two_to_the_31():
    try:
        memory = np.zeros(2**32 + 2**12, np.int8)  # untouched pages cost nothing
    except MemoryError:
        pytest.skip("no room for 4 GiB of zeros")
    step = 2**31 + 1
    memory[::step] = [3, 5, 7]
    pred = np.zeros(3, np.float32)
    assert fl.absolute_error(pred, memory[::step], reduction="none").tolist() == [3, 5, 7]
    assert fl.absolute_error(pred, memory[2 * step :: -step], reduction="none").tolist() == [7, 5, 3]
    assert fl.absolute_error(pred[:, None], memory[: 3 * 1024].reshape(3, 1024)[:, :1], reduction="sum") == 3


@pytest.mark.fault(10)
@pytest.mark.slow
def test_more_than_two_to_the_31_elements_in_memory():
    count = 2**31 + 54_321
    pages, size = os.sysconf("SC_AVPHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    if pages * size < 3 * count + 2**30:
        pytest.skip("needs some 8 GB of free memory")
    pred = np.zeros(count, np.float16)
    pred[-3:] = [1, -2, 3]
    pred[2**31 - 1 : 2**31 + 1] = 4
    target = np.zeros(count, np.int8)
    target[-1] = 1
    assert fl.absolute_error(pred, target, reduction="sum") == 4 + 4 + 1 + 2 + 2
    assert fl.absolute_error(pred[::-1], target[::-1], reduction="sum") == 13
    target[-2] = -1
    with pytest.raises(ValueError, match=f"poisson_nll: target must be >= 0, got -1 at index {count - 2}"):
        fl.poisson_nll(pred, target)
    target[-2] = 0
    grad = fl.squared_error.grad(pred, target, reduction="sum", grad_out=pred)
    assert grad is pred
    assert grad[-3:].tolist() == [2, -4, 4]
    assert grad[2**31 - 1 : 2**31 + 1].tolist() == [8, 8]
    assert np.count_nonzero(grad[2**31 - 1 :]) == 5


# --- results larger than the caches ---------------------------------------------------------------------------------------

# They are stored past the caches, in lines of 64 bytes, which rows seldom begin or end with.
LARGE = 9 << 20


def inside(shape, dtype, offset):
    """An array that begins `offset` elements after the beginning of a line, in guarded memory; and a look at the guards."""
    size, itemsize = int(np.prod(shape)), np.dtype(dtype).itemsize
    memory = np.full(size * itemsize + 4096, 0xA5, np.uint8)
    start = -memory.ctypes.data % 64 + 1024 + offset * itemsize
    array = memory[start : start + size * itemsize].view(dtype).reshape(shape)
    return array, lambda: (memory[:start] == 0xA5).all() and (memory[start + size * itemsize :] == 0xA5).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("length", "offset"), [(64, 0), (65, 4), (71, 15), (128, 4), (1000, 4), (1025, 1), (4097, 7), (70_000, 3)]
)
def test_large_results_of_rows_equal_small_ones(length, offset, dtype):
    rows = LARGE // (length * np.dtype(dtype).itemsize) + 1
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(rows, length)).astype(dtype), rng.integers(0, length, rows)
    labels[rng.random(rows) < 0.1] = -100
    weight = rng.random(rows) + 0.5
    grad, guards_stand = inside(logits.shape, dtype, offset)
    fl.cross_entropy.grad(logits, labels, sample_weight=weight, reduction="sum", grad_out=grad)
    assert guards_stand()
    few = rows // 3 + 1
    for part in (slice(k, k + few) for k in range(0, rows, few)):
        expected = fl.cross_entropy.grad(logits[part], labels[part], sample_weight=weight[part], reduction="sum")
        np.testing.assert_array_equal(grad[part], expected)


@pytest.mark.parametrize("offset", [0, 1, 15])
def test_large_gradients_of_several_inputs_equal_small_ones(offset):
    shape = (LARGE // 3 // 512 + 1, 128)
    x = [np.random.default_rng(k).normal(size=shape).astype(np.float32) for k in range(3)]
    outs = [inside(shape, np.float32, offset + k) for k in range(3)]
    fl.triplet_margin.grad(*x, reduction="sum", grad_out=tuple(out for out, _ in outs))
    for part in (slice(0, 4000), slice(4000, None)):
        expected = fl.triplet_margin.grad(*(a[part] for a in x), reduction="sum")
        for (out, guards_stand), one in zip(outs, expected, strict=True):
            assert guards_stand()
            np.testing.assert_array_equal(out[part], one)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("offset", [0, 1, 7])
def test_large_results_of_elements_equal_small_ones(offset, dtype):
    count = LARGE // np.dtype(dtype).itemsize + 5
    rng = np.random.default_rng(0)
    pred, target = rng.normal(size=(2, count)).astype(dtype)
    (grad, grad_stands), (hess, hess_stands) = (inside(count, dtype, offset + k) for k in range(2))
    fl.huber.grad_and_hess(pred, target, reduction="sum", grad_out=grad, hess_out=hess)
    assert grad_stands() and hess_stands()
    half = count // 2
    for part in (slice(0, half), slice(half, None)):
        expected = fl.huber.grad_and_hess(pred[part], target[part], reduction="sum")
        inputs.assert_same((grad[part], hess[part]), expected)
