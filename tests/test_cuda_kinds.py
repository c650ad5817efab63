"""Arrays of the libraries that a GPU's arrays come from, by stand-ins over the simulator's memory: how they are taken, what comes
back, on which stream, and what has to be waited for. Results are looked at elsewhere."""

import ctypes
import subprocess
import sys
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import fastloss as fl

from . import cuda_simulator, inputs

pytestmark = cuda_simulator.needed
if not cuda_simulator.SIMULATED:
    pytestmark = pytest.mark.skip(reason="the stand-ins' memory is the host's: test_simulator.py runs them")

PRED, TARGET = np.linspace(-3, 3, 21, dtype=np.float32).reshape(3, 7), np.zeros((3, 7), np.float32)
STREAM = 0x5EED


class Stand:
    """An array of a library that is not there, over a NumPy array."""

    def __init__(self, array):
        self.array = array
        self.shape, self.strides, self.dtype = array.shape, array.strides, array.dtype


@pytest.fixture
def launched(monkeypatch):
    """The streams that kernels were launched on, and those that were waited for."""
    from fastloss._kernels.cuda import device

    seen = SimpleNamespace(streams=set(), waited=[])
    launch = device.Kernel.launch

    def noted(kernel, blocks, threads, stream, arguments, shared=0):
        seen.streams.add(stream)
        launch(kernel, blocks, threads, stream, arguments, shared)

    monkeypatch.setattr(device.Kernel, "launch", noted)
    monkeypatch.setattr(device, "wait", seen.waited.append)
    return seen


def library(monkeypatch, name, kind, **members):
    """A module of that name, and its class of arrays."""
    module = ModuleType(name)
    own = type("Array", (Stand,), {"__module__": name} | kind)
    for member, value in members.items():
        setattr(module, member, value)
    monkeypatch.setitem(sys.modules, name, module)
    return own


def check(make, kind, dtype=np.float32, call=fl.huber.value_and_grad):
    """The call's results are of that kind, and the CPU's."""
    pred, target = PRED.astype(dtype), TARGET.astype(dtype)
    value, grad = call(make(pred), make(target), delta=0.625)
    expected, expected_grad = fl.huber.value_and_grad(pred, target, delta=0.625)
    assert type(value) is kind
    assert type(grad) is kind
    # A sum is not rounded to half a precision.
    assert (value.array.dtype, value.array.shape) == (np.promote_types(np.dtype(dtype), np.float32), ())
    assert float(value.array) == pytest.approx(expected, rel=1e-2 if np.dtype(dtype).itemsize == 2 else 1e-6)
    inputs.assert_same(grad.array, expected_grad)
    return make(pred), make(target)


# --- CuPy ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def cupy(monkeypatch):
    members = {
        "data": property(lambda self: SimpleNamespace(ptr=self.array.ctypes.data)),
        "device": SimpleNamespace(id=0),
        "__cuda_array_interface__": property(lambda self: {"data": (self.array.ctypes.data, False)}),
    }
    stream = SimpleNamespace(
        get_current_stream=lambda: SimpleNamespace(ptr=STREAM), ExternalStream=lambda stream, number: nullcontext()
    )
    own = library(monkeypatch, "cupy", members, cuda=stream)
    sys.modules["cupy"].empty = lambda shape, dtype: own(np.empty(shape, dtype))
    return own


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_cupy(cupy, launched, dtype):
    dtype = np.dtype(getattr(pytest.importorskip("ml_dtypes"), dtype) if dtype == "bfloat16" else dtype)
    check(cupy, cupy, dtype)
    assert launched.streams == {STREAM}
    assert not launched.waited


def test_cupys_views(cupy):
    pred = np.repeat(PRED, 2, axis=1)[:, ::2]
    found = fl.huber.grad(cupy(pred.T), cupy(TARGET.T))
    inputs.assert_same(found.array, fl.huber.grad(np.ascontiguousarray(pred.T), np.ascontiguousarray(TARGET.T)))


@pytest.mark.parametrize(
    "stream",
    [
        7,
        SimpleNamespace(ptr=7),
        SimpleNamespace(cuda_stream=7),
        SimpleNamespace(handle=ctypes.c_void_p(7)),
        SimpleNamespace(__cuda_stream__=lambda: (0, 7)),
    ],
    ids=["address", "CuPy", "PyTorch", "Numba", "protocol"],
)
def test_the_callers_stream(cupy, launched, stream):
    fl.huber.value_and_grad(cupy(PRED), cupy(TARGET), stream=stream)
    fl.cross_entropy.value_and_grad(cupy(PRED), cupy(np.arange(3)), stream=stream)
    fl.huber.prepare("grad", cupy(PRED), cupy(TARGET), stream=stream)()
    assert launched.streams == {7}


def test_another_gpu(cupy):
    far = cupy(TARGET)
    far.device = SimpleNamespace(id=1)
    with pytest.raises(ValueError, match="huber: target must be on GPU 0, as pred, got GPU 1"):
        fl.huber(cupy(PRED), far)


# --- PyTorch ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def torch(monkeypatch):
    """Its functions and dtypes are held on to: of this module, not of one that may be installed."""
    from fastloss.interop.library import _of_type

    _of_type.cache_clear()
    names = {
        np.dtype(n): f"torch.{n}" for n in ("float16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64", "bool")
    }
    members = {
        "is_cuda": True,
        "device": SimpleNamespace(index=None),
        "is_neg": lambda self: False,
        "detach": lambda self: self,
        "data_ptr": lambda self: self.array.ctypes.data,
        "stride": lambda self: tuple(s // self.array.itemsize for s in self.array.strides),
        "element_size": lambda self: self.array.itemsize,
        "__init__": lambda self, array: (Stand.__init__(self, array), setattr(self, "dtype", names[array.dtype]))[0],
    }
    dtypes = {name.removeprefix("torch."): name for name in names.values()} | {"bfloat16": "torch.bfloat16"}
    asked = []
    current = SimpleNamespace(current_stream=lambda number: asked.append(number) or SimpleNamespace(cuda_stream=STREAM))
    own = library(monkeypatch, "torch", members, cuda=current, **dtypes)
    backwards = {name: dtype for dtype, name in names.items()}
    sys.modules["torch"].empty = lambda shape, dtype, device: own(np.empty(shape, backwards[dtype]))
    own.asked = asked
    yield own
    _of_type.cache_clear()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_pytorch(torch, launched, dtype):
    check(torch, torch, np.dtype(dtype))
    assert launched.streams == {STREAM}
    assert set(torch.asked) == {0}
    assert not launched.waited


def test_pytorchs_labels_and_complex_numbers(torch):
    grad = fl.cross_entropy.grad(torch(PRED), torch(np.arange(3)), axis=-1)
    assert type(grad) is torch
    wrong = torch(PRED)
    wrong.dtype = "torch.complex64"
    with pytest.raises(TypeError, match=r"huber: pred must hold real numbers .*, got dtype complex64"):
        fl.huber(wrong, torch(TARGET))


def test_tensors_of_the_host_are_not_of_the_gpu():
    tensor = pytest.importorskip("torch").tensor
    value, grad = fl.huber.value_and_grad(tensor(PRED), tensor(TARGET))
    inputs.assert_same((value, grad), fl.huber.value_and_grad(PRED, TARGET))
    inputs.assert_same(fl.huber.grad(PRED, tensor(TARGET)), fl.huber.grad(PRED, TARGET))


# --- JAX ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def jax(monkeypatch):
    waited = []
    members = {
        "block_until_ready": lambda self: waited.append(self) or self,
        "devices": lambda self: [SimpleNamespace(local_hardware_id=0)],
        "unsafe_buffer_pointer": lambda self: self.array.ctypes.data,
        "__dlpack_device__": lambda self: (2, 0),
    }
    own = library(monkeypatch, "jaxlib", members)
    numpy = ModuleType("jax.numpy")
    numpy.empty = lambda shape, dtype: own(np.empty(shape, dtype))
    monkeypatch.setitem(sys.modules, "jax", ModuleType("jax"))
    monkeypatch.setitem(sys.modules, "jax.numpy", numpy)
    sys.modules["jax"].numpy = numpy
    own.waited = waited
    return own


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_jax_is_waited_for_before_and_after(jax, launched, dtype):
    dtype = np.dtype(getattr(pytest.importorskip("ml_dtypes"), dtype) if dtype == "bfloat16" else dtype)
    pred, target = PRED.astype(dtype), TARGET.astype(dtype)
    check(jax, jax, dtype)
    assert [a.array.shape for a in jax.waited[:2]] == [pred.shape, target.shape]
    assert launched.waited == [0]


def test_jaxs_arrays_do_not_change(jax):
    with pytest.raises(TypeError, match="huber: grad_out must be an array that may change, got a JAX array"):
        fl.huber.grad(jax(PRED), jax(TARGET), grad_out=jax(PRED.copy()))


def test_arrays_of_the_installed_jax_are_the_hosts():
    numpy = pytest.importorskip("jax.numpy")
    inputs.assert_same(fl.huber.grad(numpy.asarray(PRED), TARGET), fl.huber.grad(PRED, TARGET))


# --- DLPack -------------------------------------------------------------------------------------------------------------------


class Exchanged:
    """What has DLPack alone: a capsule over a NumPy array, said to be a GPU's."""

    def __init__(self, array, strides=True, kind=None):
        from fastloss.interop.dlpack import Tensor

        self.array, self.dtype, self.shape = array, array.dtype, array.shape
        dims = array.ndim
        self.lengths = (ctypes.c_int64 * dims)(*array.shape)
        self.steps = (ctypes.c_int64 * dims)(*(s // array.itemsize for s in array.strides))
        code = {"i": 0, "u": 1, "f": 2, "b": 6}[array.dtype.kind] if kind is None else kind
        self.tensor = Tensor(array.ctypes.data - 4, 2, 0, dims, code, 8 * array.itemsize, 1, self.lengths, None, 4)
        if strides:
            self.tensor.strides = self.steps

    def __dlpack_device__(self):
        return 2, 0

    def __dlpack__(self, **_):
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        return new(ctypes.addressof(self.tensor), b"dltensor", None)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_dlpack(dtype):
    pred, target = PRED.astype(dtype), TARGET.astype(dtype)
    expected = fl.huber.grad(pred, target)
    inputs.assert_same(fl.huber.grad(Exchanged(pred), Exchanged(target, strides=False)).copy_to_host(), expected)
    turned = fl.huber.grad(Exchanged(pred.T), Exchanged(target.T)).copy_to_host()
    inputs.assert_same(turned, np.ascontiguousarray(expected.T))


def test_dlpacks_brain_floats_and_complex_numbers():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    pred = PRED.astype(ml_dtypes.bfloat16)
    raw = Exchanged(pred.view(np.uint16), kind=4)
    found = fl.huber.grad(raw, Exchanged(TARGET)).copy_to_host()
    inputs.assert_same(found.view(ml_dtypes.bfloat16), fl.huber.grad(pred, TARGET))
    with pytest.raises(TypeError, match=r"huber: pred must hold real numbers"):
        fl.huber(Exchanged(np.zeros(3), kind=5), Exchanged(np.zeros(3)))


# --- what must not be there ---------------------------------------------------------------------------------------------------


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


def test_import_leaves_numba_alone():
    run = python("import sys, fastloss; fastloss.huber(1.0, 0.0); print({'numba', 'llvmlite'} & {*sys.modules})")
    assert run.stdout.strip() == "set()", run.stderr


def test_44_without_numba_cuda_the_extra_is_named():
    run = python(
        "import sys; sys.modules['numba.cuda'] = None\n"
        "import fastloss as fl\n"
        "class Array:\n    __cuda_array_interface__ = {}\n"
        "for call in (lambda: fl.huber(Array(), Array()), lambda: fl.nll.grad(Array(), Array()), fl.check_device):\n"
        "    try:\n        call()\n"
        "    except ImportError as error:\n        print(str(error).partition(' (')[0])"
    )
    said = "CUDA arrays need numba-cuda: pip install 'fastloss[cuda]'"
    assert run.stdout.splitlines() == [f"huber: {said}", f"nll: {said}", f"check_device: {said}"], run.stderr
