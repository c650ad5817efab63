"""Arrays in a GPU's memory, of any library: where their elements lie, and how a result of the same kind is made.

Each library is a `Kind`; which one an array belongs to its type's module says, so none is imported that is not there.
"""

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

from ... import interop
from .. import arrays
from . import device
from .storage import CODES, NAMES, STORAGES


class Array(NamedTuple):
    """An array that kernels can reach; `strides` count elements, `owner` is what the caller gave."""

    owner: object
    library: interop.ArrayLibrary
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
        return interop.bfloat16(self.library.name) if self.code == "bf16" else STORAGES[self.code].dtype

    @property
    def itemsize(self):
        return STORAGES[self.code].itemsize

    def form(self):
        """All that kernels are chosen by: what is left is where it lies."""
        return self.library, self.shape, self.strides, self.code, self.device, self.address & 15

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

    def overlaps_itself(self):
        """Whether two elements may share memory."""
        return self.size > 0 and arrays.overlaps_itself(self._described())

    def _described(self):
        """The same addresses as an array of NumPy's, of bytes that nobody reads."""
        strides = tuple(self.itemsize * s for s in self.strides)
        interface = {"data": (self.address, False), "shape": self.shape, "strides": strides, "version": 3}
        return np.asarray(SimpleNamespace(__array_interface__=interface | {"typestr": f"|V{self.itemsize}"}))


def take(who, name, value):
    """The place and form of an array on a GPU."""
    if not interop.on_device(value):
        raise TypeError(f"{who}: {name} must be a CUDA array, as the others are, got {type(value).__name__}")
    library = interop.library_of(value)
    address, shape, strides, dtype, number = library.place(who, name, value)
    code = CODES.get(dtype)
    if code is None:
        raise TypeError(
            f"{who}: {name} must hold real numbers (float16 to float64, bfloat16, integers or bool), got dtype {dtype}"
        )
    shape, size = tuple(shape), STORAGES[code].itemsize
    steps = contiguous(shape) if strides is None else tuple([s // size for s in strides])
    # A GPU reads nothing from elsewhere than multiples of what it reads.
    if 0 not in shape and (address % size or any(s % size for s in strides or ())):
        raise ValueError(f"{who}: {name} must be aligned to its elements, got address {address} and strides {strides}")
    return Array(value, library, address or 0, shape, steps, code, device.current() if number is None else number)


def made(like, shape, code):
    """A new array of the library of `like`, on the same GPU; Numba's if that library cannot make one."""
    new = like.library.empty(like.owner, shape, NAMES[code])
    if new is None:
        new = device.empty(shape, STORAGES[code].dtype)
    return take("", "", new)._replace(code=code)


def host(array, stream):
    """A NumPy array of the same numbers, rows one after the other; waits for the stream."""
    values = np.empty(array.shape, array.dtype)
    device.get(array.address, values, stream)
    return values


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
