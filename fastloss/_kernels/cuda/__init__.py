"""The engine for CUDA arrays: the formulas' emitted Python, compiled by Numba at the first use of each kernel.

`device.py` alone knows Numba; `simulated.py` stands in for a GPU under Numba's simulator. `memory.py` takes arrays of every library
and makes results of the same kind. `pointwise.py`, `rows.py` and `updates.py` write kernels around the formulas' scalar functions and
plan their launches, for `calls.py` to make them; `linear.py` goes through blocks of rows, with the products of `products.py`;
`sums.py` is how all of them add up; `faults.py` what kernels report without being waited for.
"""
