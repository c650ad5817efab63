"""The CPU engine's kernels by Numba, at run time: users' own formulas, and every formula as a function for `@njit` code."""
