"""The formula compiler: from a plain Python function to a graph, its derivatives, and the text of its kernels.

`graph` holds the symbols, `primitives` the functions a formula may call, `domains` what its arguments may be, `definition` the
tracing, `pairs` row formulas of the similarities between rows and shared columns, `derive` the derivatives (`rows` those of folds over a
row), `contract`, `emit` and `c` the text of kernels and of the C header, `oracle` the value to 50 digits. Nothing here imports
anything else of fastloss, nor anything beyond the standard library (the oracle: mpmath).
"""

from .definition import (
    F32,
    F64,
    MEMBERS,
    PRECISIONS,
    PROBABILITIES,
    VECTOR_FUNCTIONS,
    WANTS,
    Formula,
    Precision,
    RowFormula,
    Traced,
    UpdateRule,
    vector_function,
)
from .domains import (
    Class,
    Classes,
    ClassWeight,
    Decay,
    Each,
    Flag,
    Fraction,
    Interval,
    Label,
    NonNegative,
    Optional,
    PerRow,
    Positive,
    Real,
    Shaped,
    Whole,
)
from .graph import FormulaError, Symbol
from .pairs import ColumnIndex, Group, Nearest, Own, PairFormula, RowIndex, Same
from .primitives import *
from .primitives import TABLE, bits, fma, from_bits, to_float
