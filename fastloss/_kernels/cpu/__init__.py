"""The CPU engine. `engine` (Cython) walks arrays in tiles and drives the kernels that the build wrote from the formulas.

`build/generate.py` writes the kernels at build time, a C file for each family of losses, compiled once for each level of the
processor into the module `tiles.c`; `levels.py` picks a level at import. `tilework.c` is the part of a tile's work that no formula
knows: loading, scaling, storing, summing. `driver.pxi` walks,
`rows.pxi` walks whole rows (`row_calls.pxi`: what a call gives it and gets), `sweep.pxi` steps the tensors of an optimizer,
`line.pxi` goes along a direction, `c_calls.pxi` is the engine for C, `pool.c` are the threads. `pairs.py` computes pair losses:
`blocks.py` reads and checks their rows block by block, `similarities.py` compares these with all columns, `picked.py` with one each.
"""

import os
import sys
from importlib.util import find_spec

if find_spec(f"{__name__}.engine") is None:
    # Run from a checkout, Python finds this folder first; the compiled modules are in the installed package.
    _places = [os.path.join(entry, *__name__.split(".")) for entry in sys.path]
    __path__ += [place for place in _places if os.path.isdir(place) and place not in __path__]
    if find_spec(f"{__name__}.engine") is None:
        raise ImportError("fastloss: the compiled core must be installed (pip install .), got the source folder alone")
