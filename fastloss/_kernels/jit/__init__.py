"""Kernels at run time: those of users' own formulas, and every formula as functions for `@njit` code.

`kernels.py` answers the engine as the built-in kernels do, `native.py` compiles with LLVM (llvmlite), `cache.py` keeps what was compiled.
`functions.py` writes what Numba compiles into a user's own code, on the machine of `machine.py`. Both libraries are extras,
imported on first use.
"""
