"""Arrays of other libraries, on the CPU and on GPUs: taken without a copy where possible, results returned as the caller's kind.

`library.py` says what a library must tell, `libraries.py` holds a class for each, `calls.py` converts what goes in and comes out of a
call on the CPU. The CUDA engine takes arrays through the same classes.
"""

from . import libraries
from .calls import as_numpy, evaluate, holds_foreign, in_kind, is_foreign, number, on_device, writable
from .library import ArrayLibrary, Place, array_library, bfloat16, library_of
