"""The engine for CUDA arrays: the formulas' emitted Python, compiled by Numba at the first use of each kernel.

`device.py` alone knows Numba; `simulated.py` stands in for a GPU under Numba's simulator. `memory.py` takes arrays of every library
and makes results of the same kind, `plan.py` looks at a call and lays its launches out, `calls.py` makes them. `pointwise.py`, `rows.py`
(`row_kernels.py`, `row_passes.py`, `predictions.py`) and `updates.py` write kernels around the formulas' scalar functions; `linear.py`
goes through blocks of rows, with the products of `products.py`; `kept.py` and `sweep.py` are an optimizer's arrays and steps. `sums.py`
and `folds.py` are how threads add up, `functions.py` what kernels of users call, `walk.py` how kernels find elements by strides,
`storage.py` how numbers lie in memory, `faults.py` what kernels report without being waited for.
"""
