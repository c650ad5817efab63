"""The machine that compiles emitted Python for this processor, by Numba. Imported on first use: Numba is an extra."""

from functools import cache

import numba
from numba import types
from numba.extending import intrinsic

from .llvm import operations
from .machines import Machine

# Divisions by 0 give infinity. LLVM keeps sums in their order and fuses nothing by itself.
OPTIONS = {"error_model": "numpy", "nogil": True}
# A call inside a user's loop would keep it from being vectorised.
INLINED = OPTIONS | {"forceinline": True}


@cache
def compiled(precision):
    """The machine of a precision."""
    # Nothing is fused here but what the text says, so what is returned is rounded.
    rounded = numba.njit(lambda x: x, **INLINED)
    of_precision = operations(intrinsic, types, precision) | {"rounded": rounded}
    return Machine(precision, of_precision, numba.njit(**INLINED))
