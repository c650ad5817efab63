"""Every kernel of every loss, compiled to a GPU's assembly with no GPU: float32 kernels compute in float32, denormals are kept,
nothing is called and nothing lies in slow memory."""

import itertools
import re
from contextlib import nullcontext

import numpy as np
import pytest
from test_row_registry import draw

import fastloss as fl

from . import cuda_simulator, inputs

if not cuda_simulator.INSTALLED or cuda_simulator.SIMULATED:
    pytest.skip("the simulator compiles nothing" if cuda_simulator.SIMULATED else "needs numba-cuda", allow_module_level=True)
from numba.cuda.cudadrv import nvvm

if not nvvm.is_available():
    pytest.skip("needs NVIDIA's compiler: pip install 'fastloss[cuda]'", allow_module_level=True)

# A thread, a warp, a block for each row.
LENGTHS = (3, 64, 4096)
CAPABILITIES = ((8, 0), (9, 0))


class Somewhere:
    """An array that is nowhere: enough to lay a call out."""

    places = itertools.count(1 << 20, 1 << 28)

    def __init__(self, shape, dtype):
        self.kind = str(dtype)
        typestr = np.dtype("uint16" if self.kind == "bfloat16" else self.kind).str
        self.__cuda_array_interface__ = {
            "shape": tuple(shape),
            "typestr": typestr,
            "data": (next(self.places), False),
            "version": 3,
        }


@pytest.fixture
def laid_out(monkeypatch):
    """A function that gives the kernels of a call."""
    from fastloss._kernels.cuda import calls, device
    from fastloss.interop import ArrayLibrary

    place = ArrayLibrary.place

    def placed(library, who, name, value):
        return place(library, who, name, value)._replace(dtype=value.kind)

    monkeypatch.setattr(ArrayLibrary, "place", placed)
    monkeypatch.setattr(device, "current", lambda: 0)
    monkeypatch.setattr(device, "on", lambda number: nullcontext())
    monkeypatch.setattr(device, "blocks_at_once", lambda number: 8)
    monkeypatch.setattr(device, "empty", Somewhere)
    monkeypatch.setattr(device, "mapped", lambda count: (np.zeros(count, np.int64), 1 << 16))

    def kernels(loss, what, arrays, **options):
        prepared = []
        monkeypatch.setattr(calls.CallLayout, "bound", lambda layout, given, stream: prepared.append(layout))
        loss.prepare(what, **arrays, **options)
        return [kernel for kernel, *_ in prepared[0].launches]

    return kernels


def somewhere(loss, shape, dtype):
    """Inputs for a loss, the rows of this shape."""
    if loss.__name__ in fl.losses.POINTWISE:
        return {name: Somewhere(shape, dtype) for name in loss.formula.inputs}
    drawn = draw(loss.formula, (2, shape[-1]), loss.formula.optional)
    return {
        name: Somewhere(a.shape if a.shape == shape[-1:] and a.ndim == 1 and name == "class_weight" else (shape[0], *a.shape[1:]),
                        dtype if a.dtype.kind == "f" else a.dtype)
        for name, a in drawn.items()
    }  # fmt: skip


def check(kernel, dtype, capability):
    text = kernel.ptx(capability)
    code = re.sub(r"//.*", "", text)
    assert f".target sm_{capability[0]}{capability[1]}" in text
    assert ".entry" in code
    if dtype != "float64":
        assert ".f64" not in code, kernel.name
    assert not re.search(r"\bcall\b", code), kernel.name
    assert ".ftz" not in code, kernel.name
    assert ".approx" not in code, kernel.name
    assert not re.search(r"\b(ld|st)\.local", code), kernel.name


def check_all(kernels, dtype, capabilities):
    assert kernels
    for kernel, capability in itertools.product(kernels, capabilities):
        check(kernel, dtype, capability)


def capability_of(k):
    """Assembly for the one is that for the other but for its target: turn by turn, and both among the slow tests."""
    return CAPABILITIES[k % 2 : k % 2 + 1]


def pointwise_kernels(laid_out, case, dtype):
    what = "value_and_grad" if "16" in dtype else "value_grad_hess"
    return laid_out(case.loss, what, somewhere(case.loss, (64, 64), dtype), **case.parameters)


def row_kernels(laid_out, name, length, dtype):
    what = "value_and_grad" if "16" in dtype else "value_grad_hess"
    return laid_out(getattr(fl, name), what, somewhere(getattr(fl, name), (64, length), dtype))


@pytest.mark.parametrize(
    "k", cuda_simulator.thinned(range(len(inputs.ONE_EACH)), 4), ids=[case.name for case in inputs.ONE_EACH]
)
def test_pointwise_losses(laid_out, k):
    check_all(pointwise_kernels(laid_out, inputs.ONE_EACH[k], "float32"), "float32", capability_of(k))


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
@pytest.mark.parametrize("name", ["huber", "binary_cross_entropy_with_logits"])
def test_pointwise_losses_of_other_dtypes(laid_out, name, dtype):
    case = next(case for case in inputs.ONE_EACH if case.name == name)
    check_all(pointwise_kernels(laid_out, case, dtype), dtype, CAPABILITIES)


@pytest.mark.parametrize("k", cuda_simulator.thinned(range(len(fl.losses.ROWS)), 4), ids=fl.losses.ROWS)
def test_row_losses(laid_out, k):
    check_all(row_kernels(laid_out, fl.losses.ROWS[k], LENGTHS[k % 3], "float32"), "float32", capability_of(k))


@pytest.mark.parametrize("dtype", cuda_simulator.thinned(["bfloat16", "float64", "float16"], 3))
@pytest.mark.parametrize("length", LENGTHS)
def test_row_losses_of_other_dtypes(laid_out, length, dtype):
    check_all(row_kernels(laid_out, "cross_entropy", length, dtype), dtype, capability_of(length))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("case", inputs.CASES, ids=str)
def test_pointwise_losses_in_every_variant(laid_out, case, dtype):
    check_all(pointwise_kernels(laid_out, case, dtype), dtype, CAPABILITIES)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", fl.losses.ROWS)
def test_row_losses_of_every_length(laid_out, name, length, dtype):
    check_all(row_kernels(laid_out, name, length, dtype), dtype, CAPABILITIES)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("shape", [(64, 1), (1,)], ids=str)
def test_gradients_of_inputs_that_were_broadcast(laid_out, shape, dtype):
    given = {name: Somewhere(shape if name == "var" else (64, 64), dtype) for name in fl.gaussian_nll.formula.inputs}
    kernels = laid_out(fl.gaussian_nll, "value_and_grad", given)
    assert "sum_rows" in {kernel.name for kernel in kernels}
    check_all(kernels, dtype, CAPABILITIES)


@pytest.mark.parametrize("length", cuda_simulator.thinned(LENGTHS, 3))
def test_labels_of_every_dtype(laid_out, length):
    for dtype in ("uint64", "uint8", "int32", "bool"):
        given = {"logits": Somewhere((64, length), "float32"), "target": Somewhere((64,), dtype)}
        check_all(laid_out(fl.cross_entropy, "value_and_grad", given, ignore_index=-1), "float32", CAPABILITIES[:1])
