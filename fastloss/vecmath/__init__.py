"""The vector math: exp, log and their kin as branch-free formulas over numbers and their bits.

The same text serves the Cython kernels and Numba. Every function names its method and its proven bound; `docs/vector-math.md`
holds the table.
"""

from . import elementary, exponential, gamma, logarithmic, powers, trigonometric
