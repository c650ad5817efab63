"""The engine for CUDA arrays: the formulas' emitted Python, compiled by Numba at the first use of each kernel.

`device.py` alone knows Numba; `simulated.py` stands in for a GPU under Numba's simulator. `memory.py` takes arrays of every library
and makes results of the same kind, `plan.py` lays out a call's launches. `pointwise.py` and `rows.py` (`row_kernels.py`, `row_passes.py`)
write kernels around the formulas' scalar functions; `sums.py` and `folds.py` are how threads add up, `walk.py` how they find elements
by strides, `storage.py` how numbers lie in memory, `faults.py` what kernels report without being waited for.
"""
