"""Code compiled at run time: kernels of users' own formulas, and every formula as functions for `@njit` code.

`kernels.py` gives the CPU engine the kernels of a user's formula, with the interface of the built-in ones. `native.py` compiles them with
LLVM (llvmlite), and `cache.py` stores the object code in a folder of the user's. `functions.py` writes the functions that Numba compiles
into a user's own code, with the operations of `machine.py`. llvmlite and Numba are extras, imported on first use.
"""
