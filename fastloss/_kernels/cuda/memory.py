"""Arrays in a GPU's memory, of any library: where their elements lie, and how a result of the same kind is made.

Each library is a `Kind`; which one an array belongs to its type's module says, so none is imported that is not there.
"""

import ctypes
from contextlib import nullcontext
from functools import cache
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

from ... import interop
from .. import arrays
from . import device
from .storage import STORAGES, code_of

_BF16_NAMES = ("bfloat16", "torch.bfloat16")


class Array(NamedTuple):
    """An array that kernels can reach; `strides` count elements, `owner` is what the caller gave."""

    owner: object
    kind: "Kind"
    address: int
    shape: tuple
    strides: tuple
    code: str
    device: int

    @property
    def size(self):
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def ndim(self):
        return len(self.shape)

    @property
    def dtype(self):
        return interop.bfloat16(self.kind.name) if self.code == "bf16" else STORAGES[self.code].dtype

    @property
    def itemsize(self):
        return STORAGES[self.code].itemsize

    def form(self):
        """All that kernels are chosen by: what is left is where it lies."""
        return self.kind, self.shape, self.strides, self.code, self.device, self.address & 15

    def extent(self):
        """The first byte of its memory and the one behind its last."""
        reach = [(n - 1) * s for n, s in zip(self.shape, self.strides, strict=True)]
        low = self.address + self.itemsize * sum(r for r in reach if r < 0)
        return low, self.address + self.itemsize * (1 + sum(r for r in reach if r > 0))

    def shares_memory(self, other):
        """Whether the two arrays have an element in common."""
        (low, high), (other_low, other_high) = self.extent(), other.extent()
        if low >= other_high or other_low >= high or not self.size or not other.size:
            return False
        return arrays.share_memory(self._described(), other._described())

    def _described(self):
        """The same addresses as an array of NumPy's, of bytes that nobody reads."""
        strides = tuple(self.itemsize * s for s in self.strides)
        interface = {"data": (self.address, False), "shape": self.shape, "strides": strides, "version": 3}
        return np.asarray(SimpleNamespace(__array_interface__=interface | {"typestr": f"|V{self.itemsize}"}))


class Kind:
    """What is known of every library's arrays through `__cuda_array_interface__`."""

    name = "CUDA"

    def take(self, who, name, value):
        """The array's place and form."""
        interface = value.__cuda_array_interface__
        dtype = np.dtype(interface["typestr"])
        if interface.get("mask") is not None:
            raise TypeError(f"{who}: {name} must be a plain array, got one with a mask")
        if not dtype.isnative:
            raise TypeError(f"{who}: {name} must be in native byte order, got dtype {dtype}")
        return self.placed(who, name, value, interface["data"][0], interface["shape"], interface.get("strides"), dtype)

    def placed(self, who, name, value, address, shape, strides, dtype, number=None):
        """The array at an address, its strides in bytes or None."""
        code = code_of(dtype)
        if code is None:
            raise TypeError(
                f"{who}: {name} must hold real numbers (float16 to float64, bfloat16, integers or bool), got dtype {dtype}"
            )
        shape, size = tuple(shape), dtype.itemsize
        steps = contiguous(shape) if strides is None else tuple(s // size for s in strides)
        # A GPU reads nothing from elsewhere than multiples of what it reads.
        if 0 not in shape and (address % size or any(s % size for s in strides or ())):
            raise ValueError(f"{who}: {name} must be aligned to its elements, got address {address} and strides {strides}")
        number = device.current() if number is None else number
        return Array(value, self, address or 0, shape, steps, code, number)

    def stays(self, value, array):
        """Whether what was taken of an object is where it was."""
        return True

    def check_writeable(self, who, name, value):
        """Whether kernels may write into what the caller gave."""
        if getattr(value, "__cuda_array_interface__", {"data": (0, False)})["data"][1]:
            raise ValueError(f"{who}: {name} must be writeable, got a read-only array")

    def empty(self, like, shape, code):
        """A new array beside `like`, Numba's where the library cannot be asked for one."""
        return device.empty(shape, STORAGES[code].dtype)

    def stream(self, like):
        """The library's present stream, as an address."""
        return 0

    def on(self, number, stream):
        """Within, a stream is the library's present one: memory that goes back while it is at work is not given away before."""
        return nullcontext()

    def finish(self, stream):
        """What a library without streams waits for before it sees results."""


class Numba(Kind):
    """Numba's device arrays; under the simulator they lie in the host's memory."""

    name = "Numba"

    def take(self, who, name, value):
        if not device.SIMULATED:
            return super().take(who, name, value)
        array = value._ary
        return self.placed(who, name, value, array.ctypes.data, array.shape, array.strides, array.dtype)


class CuPy(Kind):
    name = "CuPy"

    def take(self, who, name, value):
        return self.placed(who, name, value, value.data.ptr, value.shape, value.strides, value.dtype, value.device.id)

    def empty(self, like, shape, code):
        import cupy

        dtype = like.owner.dtype if code == like.code else STORAGES[code].dtype
        return cupy.empty(shape, dtype)

    def stream(self, like):
        import cupy

        return cupy.cuda.get_current_stream().ptr

    def on(self, number, stream):
        import cupy

        return cupy.cuda.ExternalStream(stream, number)


class Torch(Kind):
    name = "PyTorch"

    def take(self, who, name, value):
        code = _torch_codes().get(value.dtype)
        if code is None:
            raise TypeError(
                f"{who}: {name} must hold real numbers (float16 to float64, bfloat16, integers or bool), got dtype {value.dtype}"
            )
        if value.is_neg():
            raise TypeError(f"{who}: {name} must hold its numbers as they are, got a negated view: resolve_neg() makes a copy")
        return Array(value, self, value.data_ptr(), tuple(value.shape), value.stride(), code, value.device.index or 0)

    def stays(self, value, array):
        # What is assigned to `.data` moves it.
        return value.data_ptr() == array.address and tuple(value.shape) == array.shape

    def empty(self, like, shape, code):
        empty, dtypes = _torch_empty()
        return empty(shape, dtype=dtypes[code], device=like.owner.device)

    def stream(self, like):
        import torch

        return torch.cuda.current_stream(like.device).cuda_stream

    def on(self, number, stream):
        import torch

        return torch.cuda.stream(torch.cuda.ExternalStream(stream, number))


class Jax(Kind):
    """JAX has no stream of its own to give: its arrays are waited for, and so are results before it gets them."""

    name = "JAX"

    def take(self, who, name, value):
        value.block_until_ready()
        code = "bf16" if value.dtype.name in _BF16_NAMES else None
        number = next(iter(value.devices())).local_hardware_id
        address = value.unsafe_buffer_pointer()
        if code:
            return Array(value, self, address, tuple(value.shape), contiguous(value.shape), code, number)
        return self.placed(who, name, value, address, value.shape, None, value.dtype, number)

    def check_writeable(self, who, name, value):
        raise TypeError(f"{who}: {name} must be an array that may change, got a JAX array: use what is returned")

    def empty(self, like, shape, code):
        import jax.numpy as jnp

        dtype = like.owner.dtype if code == like.code else STORAGES[code].dtype
        return jnp.empty(shape, dtype).block_until_ready()

    def finish(self, stream):
        device.wait(stream)


class Exchanged(Kind):
    """What has DLPack alone; results are Numba's arrays."""

    name = "DLPack"

    def take(self, who, name, value):
        *found, is_bfloat16 = _from_dlpack(value)
        array = self.placed(who, name, *found)
        return array._replace(code="bf16") if is_bfloat16 else array


class _Tensor(ctypes.Structure):
    """DLPack's DLTensor."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("kind", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


# What NumPy calls them. Of bool and bfloat16 it is told that they are whole numbers.
_BFLOAT16 = 4
_DLPACK_KINDS = {0: "i", 1: "u", 2: "f", _BFLOAT16: "u", 6: "u"}


def _from_dlpack(value):
    """(owner, address, shape, strides in bytes, dtype, device, whether its numbers are bfloat16) of an array.

    The capsule keeps it alive and is not consumed.
    """
    capsule = value.__dlpack__()
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    tensor = _Tensor.from_address(pointer(capsule, b"dltensor"))
    size = tensor.bits // 8
    kind = _DLPACK_KINDS.get(tensor.kind, "V")
    dtype = np.dtype(f"{kind}{size}") if tensor.lanes == 1 else np.dtype(f"V{size}")
    shape = tuple(tensor.shape[d] for d in range(tensor.ndim))
    strides = tuple(tensor.strides[d] * size for d in range(tensor.ndim)) if tensor.strides else None
    address = (tensor.data or 0) + tensor.byte_offset
    return (value, capsule), address, shape, strides, dtype, tensor.device_id, tensor.kind == _BFLOAT16


_KINDS = {"numba": Numba(), "cupy": CuPy(), "torch": Torch(), "jax": Jax(), "jaxlib": Jax()}
_OTHER, _EXCHANGED = Kind(), Exchanged()


def kind_of(value):
    """The library that an array on a GPU belongs to."""
    named = _KINDS.get(type(value).__module__.partition(".")[0])
    if named is not None:
        return named
    return _OTHER if hasattr(value, "__cuda_array_interface__") else _EXCHANGED


def take(who, name, value):
    """The place and form of an array on a GPU."""
    if not arrays.on_device(value):
        raise TypeError(f"{who}: {name} must be a CUDA array, as the others are, got {type(value).__name__}")
    return kind_of(value).take(who, name, value)


def made(like, shape, code):
    """A new array of the library of `like`, beside it."""
    new = like.kind.empty(like, shape, code)
    return kind_of(new).take("", "", new)._replace(code=code)


def host(array, stream):
    """A NumPy array of the same numbers, rows one after the other; waits for the stream."""
    values = np.empty(array.shape, array.dtype)
    device.get(array.address, values, stream)
    return values


def number(value):
    """What a 0-d array holds; waits for its library's present stream."""
    array = take("", "", value)
    return host(array, array.kind.stream(array)).item()


def contiguous(shape):
    """The strides, in elements, of rows one after the other."""
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= max(1, n)
    return tuple(reversed(strides))


def broadcast(array, shape):
    """The array's strides as seen from a shape, None if it does not broadcast to it."""
    missing = len(shape) - len(array.shape)
    if missing < 0:
        return None
    strides = [0] * missing
    for n, step, wanted in zip(array.shape, array.strides, shape[missing:], strict=True):
        if n not in (1, wanted):
            return None
        strides.append(0 if n == 1 and wanted != 1 else step)
    return tuple(strides)


def collapsed(shape, several):
    """The shape without dimensions of one, neighbours joined that all strides run through alike."""
    dims = [(n, tuple(strides[d] for strides in several)) for d, n in enumerate(shape) if n != 1]
    joined = []
    for n, steps in dims:
        if joined and all(outer == inner * n for outer, inner in zip(joined[-1][1], steps, strict=True)):
            joined[-1] = (joined[-1][0] * n, steps)
        else:
            joined.append((n, steps))
    return [n for n, _ in joined], [[steps[k] for _, steps in joined] for k in range(len(several))]


@cache
def _torch_codes():
    import torch

    names = {"f32": "float32", "f64": "float64", "f16": "float16", "bf16": "bfloat16", "u8": "uint8"}
    names |= {f"i{bits}": f"int{bits}" for bits in (8, 16, 32, 64)}
    return {getattr(torch, name): code for code, name in names.items()} | {torch.bool: "u8"}


@cache
def _torch_empty():
    """PyTorch's maker of tensors, and its dtypes by code."""
    import torch

    return torch.empty, {code: dtype for dtype, code in _torch_codes().items() if dtype != torch.bool}
