"""Arrays to measure with, drawn from the domains that the formulas declare."""

import numpy as np

from fastloss.formula import Label


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


def inputs(loss, shape, dtype="float32", seed=0):
    """One array for each input of the loss, in its order. All dtypes get the same numbers, but for their rounding."""
    rng = np.random.default_rng(seed)
    return [draw(domain, shape, rng).astype(dtype, copy=False) for domain in loss.formula.input_domains.values()]


def outputs(loss, first):
    """Touched memory for `grad_out` or `hess_out`: an array, or a tuple where several inputs have gradients."""
    arrays = tuple(np.zeros_like(first) for _ in loss.formula.differentiable)
    return arrays if len(arrays) > 1 else arrays[0]
