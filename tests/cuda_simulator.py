"""Tests of CUDA code, with a GPU or without: which modules run where, and arrays for them.

A module ``test_cuda*.py`` says ``pytestmark = cuda_simulator.needed`` to run on a GPU where there is one, and under Numba's simulator,
which is chosen before Numba is imported: `test_simulator.py` starts pytest once more for each of them.
"""

import ctypes
import importlib.util
import os

import numpy as np
import pytest

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
INSTALLED = importlib.util.find_spec("numba_cuda") is not None


def _lacking():
    """Why tests of CUDA code cannot run in this process; None if they can."""
    if not INSTALLED:
        return "needs numba-cuda: pip install 'fastloss[cuda]'"
    from numba import cuda

    return None if SIMULATED or cuda.is_available() else "no GPU: test_simulator.py runs it under Numba's simulator"


_REASON = _lacking()
needed = pytest.mark.skipif(_REASON is not None, reason=str(_REASON))
# Of tests whose arrays stand in for other libraries', in the host's memory.
simulated = pytest.mark.skipif(not (INSTALLED and SIMULATED), reason="test_simulator.py runs it under Numba's simulator")


def thinned(values, every):
    """Every so many of a test's values; the others are for the slow tests, but on a GPU, where they take no time."""
    if not SIMULATED and INSTALLED and _REASON is None:
        return list(values)
    return [value if k % every == 0 else pytest.param(value, marks=pytest.mark.slow) for k, value in enumerate(values)]


class Lent:
    """A NumPy array's memory on the GPU, strides, alignment and all, as a library lends it that fastloss does not know.

    Under the simulator it is the host's memory. What kernels wrote is there in `copy_to_host`.
    """

    def __init__(self, array):
        low, high = np.lib.array_utils.byte_bounds(array) if array.size else (array.ctypes.data,) * 2
        memory = _lines(low % _LINE + high - low)
        # With what lies between the elements.
        memory[low % _LINE :] = np.frombuffer(ctypes.string_at(low, high - low), np.uint8)
        self._memory, start = (memory, memory.ctypes.data) if SIMULATED else _on_gpu(memory)
        self._offset, self._strides = low % _LINE + array.ctypes.data - low, array.strides
        self.shape, self.dtype = array.shape, array.dtype
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (start + self._offset, False),
            "strides": array.strides,
            "version": 3,
        }

    def copy_to_host(self):
        memory = self._memory if SIMULATED else self._memory.copy_to_host()
        return np.ndarray(self.shape, self.dtype, memory.data, self._offset, self._strides).copy()


_LINE = 64


def _lines(size):
    """So many bytes, the first at a multiple of 64."""
    memory = np.zeros(size + _LINE, np.uint8)
    start = -memory.ctypes.data % _LINE
    return memory[start : start + size]


def _on_gpu(memory):
    from numba import cuda

    # No less than a byte: an empty array has no address.
    memory = cuda.to_device(memory if memory.size else np.zeros(1, np.uint8))
    return memory, memory.device_ctypes_pointer.value


def lent(*arrays):
    return tuple(Lent(np.asarray(array)) for array in arrays)


def host(results):
    """A call's results as NumPy arrays: those of a tuple or dictionary each."""
    if isinstance(results, dict):
        return {name: host(result) for name, result in results.items()}
    return tuple(map(host, results)) if isinstance(results, tuple) else results.copy_to_host()


def cuda():
    """Numba's CUDA package, whose arrays the tests make."""
    from numba import cuda as package

    return package


def to_gpu(array):
    """The array in a GPU's memory, as Numba has it."""
    return cuda().to_device(array)


def to_host(array):
    return array.copy_to_host()
