"""Formulas inside a user's own CUDA kernels, and users' own formulas on CUDA arrays."""

import numpy as np
import pytest

import fastloss as fl

from . import cuda_simulator

if cuda_simulator.INSTALLED:
    from numba import cuda  # by this name kernels find it under the simulator

pytestmark = cuda_simulator.needed
RNG = np.random.default_rng(3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["huber", "log_cosh", "binary_cross_entropy_with_logits", "poisson_nll"])
def test_a_loss_in_a_kernel(name, dtype):
    loss = getattr(fl, name)
    values = {"delta": 0.7} if name == "huber" else {}
    functions = loss.jit.cuda(dtype, **values)
    value_and_grad, hess = functions.value_and_grad, functions.hess

    @cuda.jit
    def kernel(pred, target, out):
        i = cuda.grid(1)
        if i < pred.size:
            value, grad = value_and_grad(pred[i], target[i])
            out[0, i] = value
            out[1, i] = grad
            out[2, i] = hess(pred[i], target[i])

    pred, target = RNG.normal(size=20).astype(dtype), RNG.integers(0, 2, 20).astype(dtype)
    out = np.zeros((3, 20), dtype)
    kernel[2, 16](pred, target, out)
    for mine, theirs in zip(out, loss.value_grad_hess(pred, target, reduction="none", **values), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_rule_in_a_kernel():
    functions = fl.AdamW.jit.cuda("float32", lr=0.03, weight_decay=0.2, betas=(0.8, 0.95))
    step = functions.step

    @cuda.jit
    def kernel(param, grad, first, second, numbers):
        i = cuda.grid(1)
        if i < param.size:
            param[i], first[i], second[i] = step(param[i], grad[i], first[i], second[i], numbers)

    param = RNG.normal(size=20).astype(np.float32)
    expected, states = param.copy(), np.zeros((2, 20), np.float32)
    opt = fl.AdamW(expected, lr=0.03, weight_decay=0.2, betas=(0.8, 0.95))
    for count in (1, 2, 3):
        grad = RNG.normal(size=20).astype(np.float32)
        opt.step(grad)
        kernel[2, 16](param, grad, states[0], states[1], functions.numbers(count))
        np.testing.assert_array_equal(param, expected)


def test_a_loss_of_ones_own():
    @fl.loss(c=fl.Positive(1.0))
    def my_cauchy(pred, target, c):
        z = (pred - target) / c
        return 0.5 * c * c * fl.math.log1p(z * z)

    @fl.loss(label=fl.Class())
    def my_cross_entropy(logits, label):
        return fl.math.logsumexp(logits) - fl.math.pick(logits, label)

    to_device = cuda.to_device
    pred, target = RNG.normal(size=(2, 3, 7)).astype(np.float32)
    value, grad = my_cauchy.value_and_grad(to_device(pred), to_device(target), c=2.0)
    expected = fl.cauchy.value_and_grad(pred, target, c=2.0)
    assert float(value.copy_to_host()) == pytest.approx(expected[0], rel=1e-6)
    np.testing.assert_allclose(grad.copy_to_host(), expected[1], rtol=1e-6)
    labels = np.array([0, 6, 3])
    mine = my_cross_entropy.grad(to_device(pred), to_device(labels)).copy_to_host()
    np.testing.assert_allclose(mine, fl.cross_entropy.grad(pred, labels), rtol=1e-5, atol=1e-7)


def test_bad_use():
    with pytest.raises(TypeError, match=r"huber.jit.cuda: dtype must be float32 or float64, got float16"):
        fl.huber.jit.cuda("float16")
    with pytest.raises(TypeError, match=r"huber.jit.cuda: arguments must be among delta, got 'beta'"):
        fl.huber.jit.cuda(beta=1.0)
    with pytest.raises(ValueError, match=r"huber.jit.cuda: delta must be > 0"):
        fl.huber.jit.cuda(delta=-1.0)
    with pytest.raises(AttributeError, match=r"functions must be among value, grad"):
        _ = fl.huber.jit.cuda().step
    with pytest.raises(AttributeError, match=r"LAMB.jit: must be of a formula of single elements"):
        fl.LAMB.jit.cuda()
