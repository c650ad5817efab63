"""Where tests of CUDA arrays run: on a GPU, or without one in a process of their own, under Numba's simulator.

`test_simulator.py` starts that process for every `test_cuda*.py`; a single one is run by hand with NUMBA_ENABLE_CUDASIM=1.
"""

import ctypes
import importlib.util
import os

import pytest

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
HAS_NUMBA = importlib.util.find_spec("numba_cuda") is not None


def _has_gpu():
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


HAS_GPU = _has_gpu()
on_gpu = pytest.mark.skipif(not HAS_NUMBA or not (SIMULATED or HAS_GPU), reason="without a GPU test_simulator.py runs it")


def cuda():
    """Numba's CUDA package, whose arrays the tests make."""
    from numba import cuda as package

    return package


def to_gpu(array):
    """The array in a GPU's memory, as Numba has it."""
    return cuda().to_device(array)


def to_host(array):
    return array.copy_to_host()
