"""The engines: `cpu` (Cython, C), `jit` (LLVM, Numba: users' own formulas) and `cuda` (Numba); `build` is what the build runs."""
