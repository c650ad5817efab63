"""What stands in for a GPU's memory and instructions under Numba's simulator: the host's memory, and NumPy's scalars."""

import ctypes
import sys
import threading

import numpy as np

from ..jit.interpreted import interpreted
from .storage import STORAGES

_BY_RAW = {storage.raw: storage for storage in STORAGES.values()}


class Pointer:
    """A C pointer: an address, read and written as elements of one type."""

    def __init__(self, address, raw):
        self.address, self.raw = int(address), raw
        self._c_type, self._scalar = _BY_RAW[raw].c_type, getattr(np, raw)
        self._size = ctypes.sizeof(self._c_type)

    def _at(self, index):
        return self._c_type.from_address(self.address + int(index) * self._size)

    def __getitem__(self, index):
        return self._scalar(self._at(index).value)

    def __setitem__(self, index, value):
        self._at(index).value = value.item() if hasattr(value, "item") else value


def argument(kind, value):
    """What a kernel is handed for an argument of a kind: a pointer for an address, a scalar of its width for a number."""
    if kind[-1] == "*":
        return Pointer(value, STORAGES[kind[:-1]].raw)
    return getattr(np, STORAGES[kind].raw)(value)


def shared_array(original):
    """The simulator's `cuda.shared.array`, made sure that threads which come to it at once get one array, not one each."""
    lock = threading.Lock()

    def array(self, shape, dtype, alignment=None):
        if shape == 0:  # memory that the launch has asked for
            return original(self, shape, dtype, alignment)
        caller = sys._getframe(1)
        key = caller.f_code.co_filename, caller.f_lineno
        with lock:
            if key not in self._allocations:
                self._allocations[key] = np.empty(shape, dtype)
            return self._allocations[key]

    return array


def operations(precision):
    """Memory, conversions and folds across threads, beside the machine's arithmetic."""
    single = np.float32

    def vector(width):
        return lambda pointer, i: tuple(pointer[i + k] for k in range(width))

    def put(width):
        def write(pointer, i, *values):
            for k, value in enumerate(values):
                pointer[i + k] = value

        return write

    integers = {name: getattr(np, name) for name in ("int32", "int64", "uint16")}
    # Python's own numbers: NumPy's warn where they wrap.
    integers |= {f"uint{bits}": (lambda i, mask=(1 << bits) - 1: int(i) & mask) for bits in (32, 64)}
    return dict(interpreted(precision).operations) | {
        **{f"vector{width}": vector(width) for width in (2, 4, 8)},
        **{f"put{width}": put(width) for width in (2, 4, 8)},
        **integers,
        "float32": single,
        "float64": np.float64,
        **{f"pointer_{code}": (lambda address, raw=storage.raw: Pointer(address, raw)) for code, storage in STORAGES.items()},
        "half_from": lambda h: np.uint16(h).view(np.float16),
        "half_to": lambda x: np.float16(x).view(np.uint16),
        "float_of_bits": lambda i: np.int32(i).view(single),
        "bits_of_float": lambda x: single(x).view(np.int32),
    }
