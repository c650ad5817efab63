"""The engines. `engine` (Cython) walks arrays in tiles on the CPU and drives the kernels that the build wrote from the formulas.

`generate.py` writes `tiles.pyx` at build time; it is compiled once per level of the processor, and `levels.py` picks one at
import. `tilework.pxi` is the part of a tile's work that no formula knows: loading, scaling, storing, summing. `pool.c` are the
threads.
"""
