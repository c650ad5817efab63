"""The engine for CUDA arrays: the formulas' emitted Python, compiled by Numba at the first use of each kernel.

`device.py` alone knows Numba; `simulated.py` stands in for a GPU under Numba's simulator. `memory.py` takes arrays of every library
and makes results of the same library. A call goes from its plan (`plan.py`, `pointwise.py`, `rows.py`), which checks it, to a key, all that
a kernel depends on; from the key to the kernel's text around the formula's scalar function (`pointwise_kernel`, `row_kernel`), which Numba
compiles when it is first launched; and to the launches (`calls.py`). `row_access.py`, `row_passes.py` and `predictions.py` are parts of
the rows' kernels, `updates.py` writes those of update rules (`squares.py` and `step_numbers.py` the
small ones that go before, `update_table.py` what all of these share); `pairs.py`
goes through blocks of rows, with the products of `products.py`; `kept.py` and `sweep.py` are an optimizer's arrays and steps. `sums.py`
and `folds.py` are how threads add up, `functions.py` what kernels of users call, `walk.py` how kernels find elements by strides,
`storage.py` how numbers lie in memory, `async_errors.py` what kernels report without being waited for.
"""

import sys
from functools import cache

import numpy as np


def require(who):
    """ImportError, naming the extra, unless Numba's CUDA package is there.

    To be asked before a module that imports it: one that fails half way is compiled again, and leaks, at each attempt.
    """
    try:
        import numba_cuda  # type: ignore[import-not-found]
    except ImportError as missing:
        raise ImportError(f"{who}: CUDA arrays need numba-cuda: pip install 'fastloss[cuda]' ({missing})") from missing
    if not hasattr(np, "row_stack"):
        raise ImportError(
            f"{who}: CUDA arrays need NumPy below 2.5, with which numba-cuda can compile: pip install 'fastloss[cuda]', "
            f"got NumPy {np.__version__}"
        )


@cache
def load(who):
    """This package with all that calls need of it; ImportError that names what is missing."""
    require(who)
    try:
        from . import async_errors, kept, memory, pairs, plan, pointwise, rows
    except ImportError as missing:
        raise ImportError(f"{who}: CUDA arrays need numba-cuda: pip install 'fastloss[cuda]' ({missing})") from missing
    return sys.modules[__name__]
