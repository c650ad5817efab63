"""What a call of a loss may ask for, whatever the engine: reductions, divisors, shared memory. Called off the fast path alone."""

import sys
import warnings

import numpy as np

from . import arrays

REDUCTIONS = ("mean", "sum", "none")


def check_reduction(who, reduction, normalizer=None, known=REDUCTIONS, where=""):
    """The reduction as a plain string, if there is one of that name and it goes with the normalizer."""
    if not isinstance(reduction, str) or reduction not in known:
        names = ", ".join(map(repr, known[:-1])) + f" or {known[-1]!r}"
        raise ValueError(f"{who}: reduction must be {names}{where}, got {reduction!r}")
    if normalizer is not None and reduction != "mean":
        raise ValueError(f"{who}: normalizer goes with reduction='mean', got reduction={reduction!r}")
    return str(reduction)


def normalizer_of(who, normalizer, count):
    """The divisor that the caller names."""
    return count if isinstance(normalizer, str) and normalizer == "samples" else arrays.check_normalizer(who, normalizer)


def warn_empty_mean(who):
    """Warn the first caller outside this package."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == __name__.partition(".")[0]:
        frame, level = frame.f_back, level + 1
    said = "the mean of nothing is nan (no elements, or all weights are zero)"
    warnings.warn(f"{who}: {said}", RuntimeWarning, stacklevel=level)


def check_single(who, numbers):
    """Refuse uniform numbers that float32 cannot hold: a kernel would compute with 0 or infinity instead."""
    for number in numbers:
        with np.errstate(all="ignore"):
            held = float(np.float32(number))
        if (held == 0) != (number == 0) or (held - held != 0) != (number - number != 0):
            raise ValueError(
                f"{who}: hyperparameters, and what the formula makes of them, must be within float32's range "
                f"for a float32 input, got {number:g}"
            )
