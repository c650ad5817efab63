"""What fastloss needs to know of a library of arrays, and the table of those that are known.

A library is found by the module of a type, so none is imported here: whoever holds its arrays has imported it. To add one is to add a
class to `libraries.py`.
"""

import functools
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np

from . import dlpack

_LIBRARIES: dict[str, "ArrayLibrary"] = {}


class Place(NamedTuple):
    """Where an array lies in a GPU's memory: `strides` in bytes, None for C order; `device` None for the current GPU."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    dtype: str
    device: int | None = None


class ArrayLibrary:
    """Arrays that follow a protocol: NumPy's, and any with `__array__`, DLPack or `__cuda_array_interface__`.

    Subclasses are libraries whose arrays results are converted to. On a GPU, results for arrays without such a class are Numba's.
    """

    name = "CUDA"
    # Whether its arrays are converted on the way in and out.
    is_foreign = False
    # Whether an array's elements may be changed in place.
    is_mutable = True
    # Whether work on a GPU is queued on streams of the library; if not, results are waited for.
    has_streams = True

    # --- in the host's memory ---------------------------------------------------------------------------------------------

    def to_numpy(self, who, name, value):
        """The value as a NumPy array, over the same memory where NumPy can see it."""
        if hasattr(value, "__array__") or not hasattr(value, "__dlpack__"):
            return np.asarray(value)
        try:
            return np.from_dlpack(value)
        except (RuntimeError, BufferError, TypeError) as refused:
            raise TypeError(
                f"{who}: {name} must be an array that DLPack shares with NumPy, got {named(value)} ({refused})"
            ) from None

    def from_numpy(self, array, like):
        """A NumPy array as one of this library, labelled as `like` where it has its rows."""
        return array

    # --- on a GPU ---------------------------------------------------------------------------------------------------------

    def on_device(self, value):
        """Whether an array lies in a GPU's memory."""
        # `__cuda_ndarray__`: Numba's simulator.
        if hasattr(value, "__cuda_array_interface__") or hasattr(value, "__cuda_ndarray__"):
            return True
        device = getattr(value, "__dlpack_device__", None)
        return device is not None and device()[0] in dlpack.CUDA

    def place(self, who, name, value):
        """Where the array lies."""
        if not hasattr(value, "__cuda_array_interface__"):
            return Place(*dlpack.place(value))
        interface = value.__cuda_array_interface__
        dtype = np.dtype(interface["typestr"])
        if interface.get("mask") is not None:
            raise TypeError(f"{who}: {name} must be a plain array, got one with a mask")
        if not dtype.isnative:
            raise TypeError(f"{who}: {name} must be in native byte order, got dtype {dtype}")
        return Place(interface["data"][0], interface["shape"], interface.get("strides"), dtype.name)

    def check_writeable(self, who, name, value):
        """Whether kernels may write into the array."""
        if not self.is_mutable:
            raise TypeError(f"{who}: {name} must be an array that may change, got a {self.name} array: use what is returned")
        if getattr(value, "__cuda_array_interface__", {"data": (0, False)})["data"][1]:
            raise ValueError(f"{who}: {name} must be writeable, got a read-only array")

    def has_moved(self, value, address, shape):
        """Whether an array that was taken is no longer where it was."""
        return False

    def empty(self, like, shape, dtype):
        """A new array on the GPU of `like`; None where the library cannot be asked for one."""
        return None

    def stream(self, device):
        """The current stream of a GPU, as an address."""
        return 0

    def on(self, device, stream):
        """Within, a stream is the current one: memory that is freed while it is in use is not given away before."""
        return nullcontext()

    def number(self, value):
        """What a 0-d array on a GPU holds; waits for the current stream."""
        return value.item()


def array_library(*modules):
    """Register a class for the arrays whose types come from these modules."""

    def register(library):
        _LIBRARIES.update(dict.fromkeys(modules, library()))
        return library

    return register


_PLAIN = ArrayLibrary()


def library_of(value):
    """The library of an array; of anything else, as of NumPy's arrays, the one for protocols."""
    return _of_type(type(value))


@functools.lru_cache(256)
def _of_type(kind):
    if issubclass(kind, float | int | list | tuple | dict | str):
        return _PLAIN
    roots = (base.__module__.partition(".")[0] for base in kind.__mro__)
    return next((_LIBRARIES[root] for root in roots if root in _LIBRARIES), _PLAIN)


def named(value):
    return f"{type(value).__module__.partition('.')[0]}.{type(value).__name__}"


def bfloat16(who):
    """The dtype, which NumPy lacks."""
    try:
        from ml_dtypes import bfloat16 as dtype
    except ImportError:
        raise ImportError(f"{who}: bfloat16 needs ml_dtypes: pip install 'fastloss[state]'") from None
    return np.dtype(dtype)
