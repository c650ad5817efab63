"""Inputs and hyperparameters to test a loss with, drawn from the domains that its formula declares."""

import itertools
import math

import numpy as np

from ..formula import Class, Classes, ClassWeight, Each, Label, PerRow, RowFormula

COUNT, LENGTH = 16, 7  # elements or rows; elements of a row
# Exact in half precision, so that every dtype is handed the same numbers.
_CANDIDATES = (0.375, 2.75, -1.5, 0.625, 1.625, 4.5)
_MOST_VARIANTS = 8
_LARGE = {"float32": 1e18, "float64": 1e150}  # whose square is finite


def settings(formula, given):
    """Hyperparameters for every variant, those that are not special inside their domains and away from their defaults."""
    checked = {name: formula.parameters[name].check(formula.name, name, value) for name, value in given.items()}
    choices = itertools.product(
        *((None,) if name in checked else domain.choices for name, domain in formula.parameters.items())
    )
    for choice in itertools.islice(choices, _MOST_VARIANTS):
        values = dict(checked)
        for start, ((name, domain), chosen) in enumerate(zip(formula.parameters.items(), choice, strict=True)):
            if name not in checked:
                values[name] = _value(domain, chosen, start)
        yield values


def _value(domain, chosen, start):
    if chosen is not None:
        return None if chosen == "none" else chosen
    if isinstance(domain, Each):
        return domain.default
    inner = getattr(domain, "domain", domain)
    for k in range(len(_CANDIDATES)):
        number = _CANDIDATES[(start + k) % len(_CANDIDATES)]
        if inner.contains(number) and number not in (domain.default, *inner.special):
            return number
    return domain.default


def drawn(formula, rng, count=COUNT):
    """An array for each input that must be there, by name: `count` elements, or rows."""
    is_row = isinstance(formula, RowFormula)
    arrays = {}
    for name, domain in formula.input_domains.items():
        if name in formula.optional or isinstance(domain, ClassWeight):
            continue
        if isinstance(domain, Classes):
            arrays[name] = np.where(np.arange(LENGTH) < 1, rng.integers(0, LENGTH, (count, 1)), -1)
        elif isinstance(domain, Class):
            arrays[name] = rng.integers(0, LENGTH, count)
        else:
            per_row = isinstance(domain, PerRow)
            shape = count if per_row or not is_row else (count, LENGTH)
            arrays[name] = _numbers(domain.domain if per_row else domain, shape, rng)
    return arrays


def _numbers(domain, shape, rng):
    """Numbers of a domain, of several magnitudes, that half precision holds."""
    if isinstance(domain, Label):
        return rng.choice([-1.0, 0.0, 1.0], shape)
    size = np.exp(rng.uniform(math.log(1e-2), math.log(10), shape)).astype(np.float16).astype(float)
    if domain.low == -math.inf:
        return size * rng.choice([-1.0, 1.0], shape) if domain.high == math.inf else domain.high - size
    if domain.high == math.inf:
        return domain.low + size
    part = (2 * rng.integers(0, 1024, shape) + 1) / 2048
    return domain.low + (domain.high - domain.low) * part


def extremes(formula, rng, dtype):
    """Elements of which one input is large or small, as far as its domain goes."""
    large = _LARGE[np.dtype(dtype).name]
    first, *_ = formula.inputs
    domain = formula.input_domains[first]
    numbers = [number for size in (1 / large, 1e-4, 50.0, 1e4, large) for number in (size, -size)]
    numbers = [number for number in numbers if isinstance(domain, Label) or domain.contains(float(dtype(number)))]
    given = {name: array.astype(dtype) for name, array in drawn(formula, rng, count=len(numbers)).items()}
    return given | {first: np.array(numbers, dtype)}
