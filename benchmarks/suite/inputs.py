"""Arrays to measure with, drawn from the domains that the formulas declare."""

import numpy as np

from fastloss import Loss
from fastloss.formula import Class, Classes, Label, PerRow, Shaped

ROW = 100  # the elements of a row, for losses of rows


def draw(domain, shape, rng):
    """Float32 numbers inside the domain: neither at its ends nor far out, where other branches would be timed."""
    if isinstance(domain, Label):
        return rng.integers(0, 2, shape).astype(np.float32)
    if domain.low > -np.inf and domain.high < np.inf:
        return np.float32(domain.low) + np.float32(domain.high - domain.low) * rng.uniform(0.02, 0.98, shape).astype(np.float32)
    if domain.low > -np.inf:
        return np.float32(domain.low) + rng.standard_gamma(2.0, shape, dtype=np.float32)
    if domain.high < np.inf:
        return np.float32(domain.high) - rng.standard_gamma(2.0, shape, dtype=np.float32)
    return 2 * rng.standard_normal(shape, dtype=np.float32)


def inputs(loss, size, dtype="float32", seed=0):
    """One array for each input of the loss, in its order. All dtypes get the same numbers, but for their rounding.

    A loss of rows gets as many elements in rows of 100, and no optional inputs; what its rows share has 100 rows, too.
    """
    rng = np.random.default_rng(seed)
    rows = None if type(loss) is Loss else (max(1, size // ROW), min(size, ROW))
    arrays = []
    for name, domain in loss.formula.input_domains.items():
        if name in loss.formula.optional:
            continue
        if isinstance(domain, Shaped):
            shape = rows if "..." in domain.dimensions else (min(size, ROW),) * len(domain.dimensions)
            arrays.append(rng.standard_normal(shape, dtype=np.float32).astype(dtype, copy=False))
        elif isinstance(domain, Classes):
            listed = rng.integers(0, rows[1], rows)
            listed[:, min(3, rows[1] - 1)] = -1  # three labels, few rows have one twice
            arrays.append(listed)
        elif isinstance(domain, Class):
            arrays.append(rng.integers(0, rows[1], rows[0]))
        elif isinstance(domain, PerRow):
            arrays.append(draw(domain.domain, rows[0], rng).astype(dtype, copy=False))
        else:
            arrays.append(draw(domain, rows or size, rng).astype(dtype, copy=False))
    return arrays


def outputs(loss, given):
    """Touched memory for `grad_out` or `hess_out` of these inputs: an array, or a tuple where several have gradients."""
    names = [name for name in loss.formula.inputs if name not in loss.formula.optional]
    pairs = zip(names, given, strict=True)
    arrays = tuple(np.zeros_like(array) for name, array in pairs if name in loss.formula.differentiable)
    return arrays if len(arrays) > 1 else arrays[0]
