"""The faults of calls on CUDA arrays, by the row in the table of faults. What is known at the call is said before anything is written;
what lies in the data is raised by the next call, or by `check_device`."""

import re

import numpy as np
import pytest

import fastloss as fl

from . import cuda_simulator, inputs
from .cuda_simulator import Lent, host, lent

pytestmark = cuda_simulator.needed
SENTINEL = 77
RNG = np.random.default_rng(1)


@pytest.fixture(autouse=True)
def nothing_is_left():
    yield
    fl.check_device()


def numbers(*shape, dtype=np.float32):
    return RNG.normal(size=shape).astype(dtype)


def refuses(error, message, call, **options):
    """That the call raises this and writes nothing."""
    out = Lent(np.full((3, 4), SENTINEL, np.float32))
    with pytest.raises(error, match=re.escape(message)) as caught:
        call(**({"grad_out": out} | options))
    assert type(caught.value) is error
    assert (host(out) == SENTINEL).all()


def huber(pred=None, target=None, **options):
    pred = Lent(numbers(3, 4)) if pred is None else pred
    target = Lent(numbers(3, 4)) if target is None else target
    return fl.huber.value_and_grad(pred, target, **options)


def cross_entropy(logits=None, labels=None, **options):
    logits = Lent(numbers(3, 4)) if logits is None else logits
    return fl.cross_entropy.value_and_grad(logits, Lent(np.arange(3)) if labels is None else labels, **options)


# --- shapes and layout --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 3), (3,), (2, 3, 4), (0,), (2, 1)], ids=str)
def test_01_shapes_that_do_not_agree(shape):
    wrong = Lent(np.zeros(shape, np.float32))
    said = f"must broadcast to pred's shape (3, 4), got {shape}"
    refuses(ValueError, f"huber: target {said}", lambda **o: huber(target=wrong, **o))
    refuses(ValueError, f"huber: sample_weight {said}", huber, sample_weight=wrong)
    if shape != (3,):
        labels = Lent(np.zeros(shape, np.int64))
        said = f"must broadcast to the rows' shape (3,), got {shape}"
        refuses(ValueError, f"cross_entropy: target {said}", lambda **o: cross_entropy(labels=labels, **o))
        refuses(ValueError, f"cross_entropy: sample_weight {said}", cross_entropy, sample_weight=wrong)


@pytest.mark.parametrize("shape", [(1,), (1, 1), (2, 1)], ids=str)
def test_01_labels_are_one_for_each_row(shape):
    logits, labels = Lent(numbers(2, 3, 4)), Lent(np.zeros(shape, np.int64))
    with pytest.raises(
        ValueError, match=re.escape(f"target must hold one label for each row, in their shape (2, 3), got {shape}")
    ):
        fl.cross_entropy(logits, labels)
    assert host(fl.cross_entropy(logits, Lent(np.zeros(3, np.int64)))) > 0


def test_a_reduction_is_a_string():
    assert host(fl.huber(*lent(numbers(3), numbers(3)), reduction=np.str_("sum"))) > 0
    for wrong in (1, None, b"sum", np.array(["sum", "mean"])):
        refuses(ValueError, "huber: reduction must be 'mean', 'sum' or 'none', got", huber, reduction=wrong)


def test_01_inputs_with_gradients_broadcast_to_the_first():
    with pytest.raises(ValueError, match=re.escape("x2 must broadcast to x1's shape (3, 4), got (3,)")):
        fl.cosine_distance(*lent(numbers(3, 4), numbers(3)))


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0, 2)], ids=str)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_02_zero_elements(shape, dtype):
    empty = Lent(np.zeros(shape, dtype))
    for one in host(fl.huber.value_grad_hess(empty, empty, reduction="none")):
        assert (one.shape, one.dtype) == (shape, np.dtype(dtype))
    assert host(fl.huber(empty, empty, reduction="sum")) == 0
    assert host(fl.huber(empty, empty, normalizer=2.0)) == 0
    for options in ({}, {"sample_weight": empty}, {"normalizer": "samples"}):
        with pytest.warns(RuntimeWarning, match="huber: the mean of nothing is nan") as caught:
            value, grad = host(fl.huber.value_and_grad(empty, empty, **options))
        assert caught[0].filename == __file__, "the warning points at the caller"
        assert np.isnan(value)
        assert grad.shape == shape


def test_02_no_rows():
    logits, labels = lent(np.zeros((0, 3), np.float32), np.zeros(0, np.int64))
    assert host(fl.cross_entropy(logits, labels, reduction="sum")) == 0
    assert host(fl.cross_entropy.grad(logits, labels)).shape == (0, 3)
    with pytest.warns(RuntimeWarning, match="cross_entropy: the mean of nothing is nan"):
        assert np.isnan(host(fl.cross_entropy(logits, labels)))


def test_03_no_classes():
    with pytest.raises(ValueError, match="cross_entropy: logits must have at least one element along axis 1"):
        fl.cross_entropy(*lent(np.zeros((3, 0), np.float32), np.zeros(3, np.int64)))


def test_05_dimensions_of_a_row_loss():
    with pytest.raises(ValueError, match="cross_entropy: axis must be a dimension of logits, which has 0, got -1"):
        fl.cross_entropy(*lent(np.float32(1), np.int64(0)))


@pytest.mark.parametrize("layout", ["unaligned", "unaligned_strides"])
def test_07_arrays_that_a_gpu_cannot_read(layout):
    wrong = Lent(inputs.AWKWARD[layout](numbers(3, 4)))
    refuses(ValueError, "huber: pred must be aligned to its elements, got address", lambda **o: huber(pred=wrong, **o))
    refuses(ValueError, "huber: target must be aligned to its elements, got address", lambda **o: huber(target=wrong, **o))
    refuses(ValueError, "huber: grad_out must be aligned to its elements, got address", huber, grad_out=wrong)


def test_07_byte_orders():
    wrong = Lent(inputs.byte_swapped(numbers(3, 4)))
    refuses(TypeError, "huber: pred must be in native byte order, got dtype >f4", lambda **o: huber(pred=wrong, **o))


def test_08_outputs_that_overlap():
    memory = np.full(48, SENTINEL, np.float32)
    own = np.lib.stride_tricks.as_strided(memory, (3, 4), (0, 4))
    refuses(ValueError, "huber: grad_out must not share memory with itself", huber, grad_out=Lent(own))
    whole = Lent(memory)
    pred, shifted = part(whole, memory[:12].reshape(3, 4)), part(whole, memory[1:13].reshape(3, 4))
    said = "huber: grad_out must not share memory with "
    with pytest.raises(ValueError, match=f"{said}pred"):
        huber(pred=pred, grad_out=shifted)
    with pytest.raises(ValueError, match="huber: grad_out must not share memory with value"):
        huber(value_out=pred, grad_out=shifted, reduction="none")
    with pytest.raises(ValueError, match="huber: grad_out must not share memory with sample_weight"):
        huber(sample_weight=pred, grad_out=shifted)
    assert (host(whole) == SENTINEL).all()


def part(whole, view):
    """A view of what was lent."""
    found = object.__new__(Lent)
    base = view
    while isinstance(base.base, np.ndarray):
        base = base.base
    interface = dict(whole.__cuda_array_interface__)
    place = interface["data"][0] + view.ctypes.data - base.ctypes.data
    found.__cuda_array_interface__ = interface | {"shape": view.shape, "strides": view.strides, "data": (place, False)}
    return found


# --- types --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["complex64", "complex128", "longdouble", "S4", "datetime64[D]"])
def test_12_numbers_that_are_not_real(dtype):
    wrong = Lent(np.zeros((3, 4), dtype))
    said = "must hold real numbers (float16 to float64, bfloat16, integers or bool), got dtype"
    refuses(TypeError, f"huber: pred {said}", lambda **o: huber(pred=wrong, **o))
    refuses(TypeError, f"huber: target {said}", lambda **o: huber(target=wrong, **o))
    refuses(TypeError, f"huber: sample_weight {said}", huber, sample_weight=wrong)


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint8", "bool"])
def test_13_integer_predictions(dtype):
    wrong = Lent(np.ones((3, 4), dtype))
    refuses(TypeError, "huber: pred must be a floating-point array, got dtype", lambda **o: huber(pred=wrong, **o))


def test_14_labels():
    wrong = Lent(np.zeros(3, np.float32))
    refuses(
        TypeError, "cross_entropy: target must hold whole numbers, got dtype f32", lambda **o: cross_entropy(labels=wrong, **o)
    )
    beyond = Lent(np.array([0, 2**63 + 1, 1], np.uint64))
    _, grad = host(cross_entropy(labels=beyond))
    assert np.isnan(grad[1]).all()
    with pytest.raises(ValueError, match="cross_entropy: target must be a class"):
        fl.check_device()


@pytest.mark.parametrize("lists", [False, True])
def test_14_labels_beyond_int64(lists):
    """They are not taken for `ignore_index`, nor for a list's end."""
    logits = numbers(2, 3)
    for wrong in (2**64 - 100, 2**64 - 1, 2**63):
        labels = np.array([1, wrong], np.uint64)
        calls = {"cross_entropy": ({}, {"ignore_index": -1}, {"reduction": "none"})}
        if lists:
            labels = np.array([[1, 2, 0], [0, wrong, 0]], np.uint64)
            calls = {"multilabel_margin": ({},)}
        for name, each in calls.items():
            for options in each:
                value, _ = host(getattr(fl, name).value_and_grad(*lent(logits, labels), **options))
                assert np.isnan(value).any()
                with pytest.raises(ValueError, match=re.escape(f"{name}: target must be a class")):
                    fl.check_device()
    if not lists:
        correct = fl.cross_entropy.evaluate(*lent(logits, labels), outputs=("correct",))["correct"]
        assert host(correct) == (np.argmax(logits[0]) == 1)
        with pytest.raises(ValueError, match="target must be a class"):
            fl.check_device()


def test_15_gradients_are_of_one_precision():
    with pytest.raises(TypeError, match="cosine_distance: x2 must have x1's dtype f32, got f64"):
        fl.cosine_distance(*lent(numbers(3, 4), numbers(3, 4, dtype=np.float64)))


@pytest.mark.parametrize("host_array", [np.zeros((3, 4), np.float32), 0.0, [[0.0] * 4] * 3], ids=["array", "float", "list"])
def test_16_arrays_of_the_host_among_those_of_the_gpu(host_array):
    said = f"must be a CUDA array, as the others are, got {type(host_array).__name__}"
    refuses(TypeError, f"huber: target {said}", lambda **o: huber(target=host_array, **o))
    refuses(TypeError, f"huber: sample_weight {said}", huber, sample_weight=host_array)
    refuses(TypeError, f"huber: grad_out {said}", huber, grad_out=host_array)


def test_16_arrays_of_the_gpu_among_those_of_the_host():
    pred, device = numbers(3, 4), Lent(numbers(3, 4))
    said = "must be in the host's memory, as the others are, got a CUDA array"
    with pytest.raises(TypeError, match=f"huber: target {said}"):
        fl.huber(pred, device)
    with pytest.raises(TypeError, match=f"huber: sample_weight {said}"):
        fl.huber(pred, pred, sample_weight=device)
    with pytest.raises(TypeError, match="huber: grad_out must be a NumPy array, got Lent"):
        fl.huber.grad(pred, pred, grad_out=device)
    with pytest.raises(TypeError, match=f"cross_entropy: target {said}"):
        fl.cross_entropy(pred, Lent(np.arange(3)))


def test_17_masks():
    wrong = Lent(numbers(3, 4))
    wrong.__cuda_array_interface__["mask"] = Lent(np.zeros((3, 4), bool))
    refuses(TypeError, "huber: pred must be a plain array, got one with a mask", lambda **o: huber(pred=wrong, **o))


def test_18_read_only_outputs():
    wrong = Lent(np.full((3, 4), SENTINEL, np.float32))
    wrong.__cuda_array_interface__["data"] = (wrong.__cuda_array_interface__["data"][0], True)
    refuses(ValueError, "huber: grad_out must be writeable, got a read-only array", huber, grad_out=wrong)
    assert (host(wrong) == SENTINEL).all()
    huber(pred=wrong)


def test_19_outputs_of_wrong_shape_dtype_or_number():
    for shape in ((4, 3), (12,), ()):
        wrong = Lent(np.zeros(shape, np.float32))
        refuses(ValueError, f"huber: grad_out must have shape (3, 4), got {shape}", huber, grad_out=wrong)
    wrong = Lent(np.zeros((3, 4)))
    refuses(ValueError, "huber: grad_out must have dtype f32, got f64", huber, grad_out=wrong)
    with pytest.raises(TypeError, match="cosine_distance: grad_out must be 2 arrays, one for each of x1, x2"):
        fl.cosine_distance.grad(*lent(numbers(3, 4), numbers(3, 4)), grad_out=wrong)


# --- values -------------------------------------------------------------------------------------------------------------------

HARD = [np.nan, np.inf, -np.inf, 1e4, -1e4, 1e38, -1e38, 1e-40, -0.0, 0.0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["squared_error", "huber", "log_cosh", "binary_cross_entropy_with_logits", "poisson_nll"])
def test_20_to_23_hard_numbers(name, dtype):
    pred, target = np.array(HARD, dtype), np.ones(len(HARD), dtype)
    loss = getattr(fl, name)
    expected = loss.value_grad_hess(pred, target, reduction="none")
    for one, wanted in zip(host(loss.value_grad_hess(*lent(pred, target), reduction="none")), expected, strict=True):
        np.testing.assert_array_equal(one, wanted)


@pytest.mark.parametrize("length", [3, 19])
def test_20_to_22_hard_rows(length):
    rows = np.zeros((8, length))
    rows[0, 1] = np.nan
    rows[1, 0] = np.inf  # at the label
    rows[2, 1] = np.inf
    rows[3] = -np.inf
    rows[4, 0] = -np.inf
    rows[5], rows[6] = np.linspace(-1e4, 1e4, length), np.linspace(1e38, -1e38, length)
    labels = np.zeros(8, np.int64)
    for dtype in (np.float32, np.float64):
        logits = rows.astype(dtype)
        expected = fl.cross_entropy.value_and_grad(logits, labels, reduction="none")
        for one, wanted in zip(
            host(fl.cross_entropy.value_and_grad(*lent(logits, labels), reduction="none")), expected, strict=True
        ):
            np.testing.assert_allclose(one, wanted, rtol=4 * np.finfo(dtype).eps, atol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("length", [3, 19])
@pytest.mark.parametrize("wrong", [-1, 1000, -(2**40), 2**40])
def test_25_labels_that_are_no_class(length, wrong):
    """Nothing is read where they point: those addresses are not mapped, or hold other numbers."""
    logits, labels = numbers(6, length), RNG.integers(0, length, 6)
    labels[4] = wrong
    for reduction in ("none", "mean"):
        value, grad = host(fl.cross_entropy.value_and_grad(*lent(logits, labels), reduction=reduction))
        assert np.isnan(grad[4]).all()
        assert np.isfinite(np.delete(grad, 4, 0)).all()
        assert np.isnan(value[4] if reduction == "none" else value)
        said = "cross_entropy: target must be a class, got another number in row 4 (an earlier call)"
        with pytest.raises(ValueError, match=re.escape(said)):
            fl.check_device()
        fl.check_device()
    fl.cross_entropy(*lent(logits, labels), check=False)
    with pytest.raises(ValueError, match=re.escape(said)):
        wait_and(fl.huber, *lent(logits, logits))
    weights = Lent(np.ones(length, np.float32))
    assert np.isnan(host(fl.cross_entropy.grad(*lent(logits, labels), weights))[4]).all()
    with pytest.raises(ValueError, match=re.escape(said)):
        fl.check_device()


def wait_and(loss, *arrays):
    """The next call raises what the GPU has come to."""
    if not cuda_simulator.SIMULATED:
        from numba import cuda

        cuda.synchronize()
    return loss(*arrays)


def test_25_prepared_calls_raise_too():
    logits, labels = lent(numbers(3, 4), np.array([0, 9, 1]))
    call = fl.cross_entropy.prepare("grad", logits, labels)
    call()
    with pytest.raises(ValueError, match="cross_entropy: target must be a class"):
        wait_and(call)


def test_25_lists_of_labels():
    labels = np.array([[0, 2, -1], [1, 7, -1], [-1, 9, 9], [-2, 0, 0]])
    grad = host(fl.multilabel_margin.grad(*lent(numbers(4, 3), labels)))
    assert np.isnan(grad[[1, 3]]).all()
    assert np.isfinite(grad[[0, 2]]).all()
    with pytest.raises(ValueError, match="multilabel_margin: target must be a class, or -1 at the list's end"):
        fl.check_device()


@pytest.mark.parametrize("wrong", [-1.0, -0.125, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("shape", [(21,), (3, 7)], ids=str)
def test_27_weights(wrong, shape):
    pred, weight = numbers(*shape), np.ones(shape, np.float32)
    weight.flat[17] = wrong
    for check in (True, False):
        fl.huber(*lent(pred, pred), sample_weight=Lent(weight), check=check)
        with pytest.raises(
            ValueError, match="huber: sample_weight must be finite and not negative, got another number at index 17"
        ):
            fl.check_device()
    fl.cross_entropy(*lent(numbers(21, 3), RNG.integers(0, 3, 21)), sample_weight=Lent(weight.ravel()))
    with pytest.raises(
        ValueError, match="cross_entropy: sample_weight must be finite and not negative, got another number at index 17"
    ):
        fl.check_device()


@pytest.mark.parametrize("count", [1, 6, 21])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_28_numbers_outside_a_domain(dtype, count):
    pred, target = np.full(count, 0.5, dtype), np.full(count, 0.25, dtype)
    for name, wrong in (("pred", 1.5), ("target", -0.25)):
        arrays = {"pred": pred, "target": target}
        arrays[name] = arrays[name].copy()
        arrays[name][count - 1] = wrong
        fl.binary_cross_entropy(*lent(*arrays.values()))
        with pytest.raises(
            ValueError, match=rf"binary_cross_entropy: {name} must be .*, got another number at index {count - 1} "
        ):
            fl.check_device()
        fl.binary_cross_entropy(*lent(*arrays.values()), check=False)
        fl.check_device()


def test_28_probabilities_for_labels():
    labels = np.full((3, 4), 0.25, np.float32)
    labels[1, 2] = 1.5
    fl.cross_entropy(*lent(numbers(3, 4), labels))
    with pytest.raises(ValueError, match=r"cross_entropy: target must be .*, got another number at index 6"):
        fl.check_device()


def test_29_hyperparameters():
    for wrong in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="huber: delta must be "):
            huber(delta=wrong)
    with pytest.raises(
        ValueError, match="huber: hyperparameters, and what the formula makes of them, must be within float32's range"
    ):
        huber(delta=1e300)
    with pytest.raises(TypeError, match="huber: arguments must be among pred, target, delta, got 'dleta'"):
        huber(dleta=1.0)
    with pytest.raises(ValueError, match="huber: reduction must be 'mean', 'sum' or 'none', got 'avg'"):
        huber(reduction="avg")


def test_47_streams():
    with pytest.raises(TypeError, match="stream must be a CUDA stream or its address, got str"):
        huber(stream="0")
    huber(stream=0)
