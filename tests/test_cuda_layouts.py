"""Calls on a GPU that were laid out before, in Numba's simulator: other arrays of the same form, and what must be looked at each time."""

import numpy as np
import pytest

import fastloss as fl

from .cuda_simulator import simulated


def there(array):
    from numba import cuda

    return cuda.to_device(array)


def drawn(seed, shape=(3, 7), dtype=np.float32):
    return np.random.default_rng(seed).normal(size=(2, *shape)).astype(dtype)


def same(found, expected):
    for mine, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine.copy_to_host(), other, rtol=1e-5, atol=1e-6)


@simulated
def test_other_arrays_of_the_same_form():
    weight = np.random.default_rng(9).random((3, 7)).astype(np.float32)
    for seed in range(3):
        pred, target = drawn(seed)
        for options in ({}, {"sample_weight": weight + seed}, {"normalizer": 2.0 + seed}, {"normalizer": "samples"}):
            given = {n: there(v) if isinstance(v, np.ndarray) else v for n, v in options.items()}
            same(fl.huber.value_and_grad(there(pred), there(target), **given), fl.huber.value_and_grad(pred, target, **options))


@simulated
def test_what_a_form_is():
    """Shape, dtype, strides, alignment, hyperparameters, what is wanted: each is laid out anew."""
    flat = np.zeros(64, np.float32)
    for k, (shape, dtype) in enumerate((((3, 7), np.float32), ((7, 3), np.float32), ((3, 7), np.float64))):
        pred, target = drawn(k, shape, dtype)
        for other in (target, np.asfortranarray(target), target[:, :1].copy(), target[0, 0]):
            for delta in (0.5, 1.5):
                expected = fl.huber.value_and_grad(pred, other, delta=delta)
                same(fl.huber.value_and_grad(there(pred), there(np.asarray(other)), delta=delta), expected)
                assert fl.huber.grad(there(pred), there(np.asarray(other)), delta=delta).dtype == dtype
    whole = there(flat)
    for start in range(4):
        part = whole[start : start + 32]
        part.copy_to_device(drawn(start, (32,))[0])
        same(fl.huber.value_and_grad(part, part), fl.huber.value_and_grad(part.copy_to_host(), part.copy_to_host()))


@simulated
def test_outputs_are_looked_at_each_time():
    pred, target = map(there, drawn(0))
    room = there(np.zeros((4, 7), np.float32))
    expected = fl.huber.value_and_grad(*drawn(0))
    for grad in (room[:3], room[1:], room[:3]):
        found = fl.huber.value_and_grad(pred, target, grad_out=grad)
        assert found[1] is grad
        same(found, expected)
    room[1:].copy_to_device(pred)
    with pytest.raises(ValueError, match=r"^huber: grad_out must not share memory with pred"):
        fl.huber.value_and_grad(room[1:], target, grad_out=room[:3])
    same(fl.huber.value_and_grad(room[1:], target, grad_out=room[1:]), expected)
    with pytest.raises(TypeError, match=r"^huber: grad_out must be a CUDA array, as the others are, got tuple"):
        fl.huber.value_and_grad(pred, target, grad_out=(room[:3],))
    weight = there(np.ones((3, 7), np.float32))
    with pytest.raises(ValueError, match="must have shape"):
        fl.huber.value_and_grad(pred, target, sample_weight=weight, grad_out=room)


@simulated
def test_a_prepared_call_reads_what_lies_there_then():
    pred, target = map(there, drawn(0))
    run = fl.huber.prepare("value_and_grad", pred, target)
    for seed in range(2):
        pred.copy_to_device(drawn(seed)[0])
        target.copy_to_device(drawn(seed)[1])
        same(run(), fl.huber.value_and_grad(*drawn(seed)))


@simulated
def test_a_report_on_its_way_is_not_lost():
    """A kernel says first that there is something, then what: the host may look between."""
    from fastloss._kernels.cuda import async_errors

    pred, target = map(there, drawn(0))
    fl.huber(pred, target, sample_weight=there(np.ones((3, 7), np.float32)))
    slot = async_errors.slot(lambda index: ValueError(f"at {index}"))
    page = async_errors.page(0)
    page.flags[0] = 1
    fl.huber(pred, target)
    page.flags[slot] = 1 + 5
    with pytest.raises(ValueError, match=r"^at 5$"):
        fl.huber(pred, target)
    fl.huber(pred, target)
