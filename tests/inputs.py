"""Inputs for the tests: every loss in every variant, data from its domains, and arrays as awkward as callers have them."""

import itertools
import math
from dataclasses import dataclass

import numpy as np

import fastloss as fl
from fastloss.formula import Interval, Label, Optional

LOSSES = {name: getattr(fl, name) for name in fl.losses.POINTWISE}

# Exact in float16 already, so that a float32 kernel and the oracle are handed the same number.
CANDIDATES = (0.375, 2.75, -1.5, 0.625, 1.625, 4.5)
# How many numbers stand for "any other value" of a hyperparameter whose formula has several regimes.
REGIMES = {"barron": 4, "tweedie": 4}


@dataclass(frozen=True)
class Case:
    """A loss with hyperparameters: none at its default, none zero unless zero is a variant of its own."""

    name: str
    settings: tuple

    @property
    def loss(self):
        return LOSSES[self.name]

    @property
    def formula(self):
        return self.loss.formula

    @property
    def parameters(self):
        return dict(self.settings)

    @property
    def traced(self):
        return self.formula.trace(self.formula.choice(self.parameters))

    @property
    def vector(self):
        return self.formula.vector(self.parameters)

    def domains(self):
        """The inputs' domains under these hyperparameters."""
        return self.formula.domains_given(self.parameters)

    def __str__(self):
        return f"{self.name}({', '.join(f'{k}={v}' for k, v in self.settings)})" if self.settings else self.name


def away_from_default(domain, start):
    """Numbers inside the domain that are neither the default nor zero nor special, the list begun at `start`."""
    interval = domain.domain if isinstance(domain, Optional) else domain
    numbers = [CANDIDATES[(start + i) % len(CANDIDATES)] for i in range(len(CANDIDATES))]
    return [x for x in numbers if interval.contains(x) and x not in (domain.default, *interval.special)]


def variants(name):
    """The cases of one loss: each variant, twice where it has numbers to choose."""
    formula = LOSSES[name].formula
    found = {}
    for choice, nth in itertools.product(formula.choices(), range(REGIMES.get(name, 2))):
        settings = []
        for start, ((parameter, domain), chosen) in enumerate(zip(formula.parameters.items(), choice, strict=True)):
            value = chosen
            if chosen is None:
                numbers = away_from_default(domain, start)
                value = numbers[nth % len(numbers)]
            settings.append((parameter, None if chosen == "none" else value))
        found[tuple(settings)] = Case(name, tuple(settings))
    return list(found.values())


CASES = [case for name in LOSSES for case in variants(name)]
# One case per loss, with numbers for its hyperparameters: what the driver does is the same for all variants.
ONE_EACH = [next((c for c in variants(n) if all(v not in (None, 0) for _, v in c.settings)), variants(n)[0]) for n in LOSSES]


def roles(formula, want="vgh"):
    return formula.roles(want)


def draw(domain, count, rng):
    """Numbers of a domain: half of them multiples of 1/8, where ties and kinks lie, half over several magnitudes."""
    if isinstance(domain, Label):
        return rng.choice([-1.0, 0.0, 1.0, 0.25, 2.0], count)
    grid, magnitude = rng.integers(1, 49, count) / 8, np.exp(rng.uniform(math.log(1e-3), math.log(30), count))
    if domain.low == 0 and domain.high == 1:
        spread = np.where(rng.random(count) < 0.5, magnitude / 32, 1 - magnitude / 32)
        found = np.where(rng.random(count) < 0.5, rng.integers(1, 16, count) / 16, spread)
        ends = [end for end, opened in ((0.0, domain.open_low), (1.0, domain.open_high)) if not opened]
        return np.where(rng.random(count) < 0.15, rng.choice(ends or [0.5], count), found)
    found = np.where(rng.random(count) < 0.5, grid, magnitude)
    if domain.low == -math.inf:
        return found * rng.choice([-1.0, 1.0], count)
    assert isinstance(domain, Interval) and domain.high == math.inf, domain
    return domain.low + np.where((rng.random(count) < 0.1) & (not domain.open_low), 0, found)


def columns(case, count, dtype=np.float64, seed=0):
    """`count` numbers for each input, by name, all inside their domains in this dtype, and some on the loss's kinks."""
    rng = np.random.default_rng(seed)
    domains = case.domains()
    found = {name: draw(domain, count, rng) for name, domain in domains.items()}
    first, second = list(found)[:2]
    on_kink = found[second] + rng.choice([0.0, *_numbers(case)], count) * rng.choice([-1.0, 1.0], count)
    if not isinstance(domains[second], Label):
        allowed = np.array([domains[first].contains(x) for x in on_kink], dtype=bool)
        found[first] = np.where((np.arange(count) % 4 == 1) & allowed, on_kink, found[first])
    return {name: inside(domains[name], array.astype(dtype)) for name, array in found.items()}


def inside(domain, array):
    """The array with what lies outside the domain replaced: rounding may have moved a number onto an open end."""
    if not domain.is_checked:
        return array
    return np.where([domain.contains(float(x)) for x in array], array, array.dtype.type(domain.low + 0.5)).astype(array.dtype)


def _numbers(case):
    return [v for _, v in case.settings if isinstance(v, float) and math.isfinite(v)]


def blocks(case, shape, dtype=np.float64, seed=0):
    """`columns` in a shape."""
    count = math.prod(shape)
    return {name: array.reshape(shape) for name, array in columns(case, count, dtype, seed).items()}


def weights(shape, dtype=np.float64, seed=7):
    """Sample weights, some of them zero."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(shape) < 0.2, 0, rng.integers(1, 33, shape) / 8).astype(dtype)


# --- awkward arrays: each function copies the values into memory of one shape of trouble --------------------------------------


def _into(array, big, view):
    view[...] = array
    return view


def fortran(array):
    return array.copy(order="F")


def strided(array):
    big = np.zeros([3 * n for n in array.shape], array.dtype)
    return _into(array, big, big[(slice(1, None, 3),) * array.ndim + (...,)])


def every_second_row(array):
    big = np.zeros([2 * n for n in array.shape[:1]] + list(array.shape[1:]), array.dtype)
    return _into(array, big, big[(slice(None, None, 2),) * min(1, array.ndim) + (...,)])


def columns_of_wider(array):
    big = np.zeros(list(array.shape[:-1]) + [n + 5 for n in array.shape[-1:]], array.dtype)
    return _into(array, big, big[(..., slice(2, -3))] if array.ndim else big)


def negative(array):
    backwards = (slice(None, None, -1),) * array.ndim + (...,)
    return np.ascontiguousarray(array[backwards])[backwards] if array.ndim else array.copy()


def negative_strided(array):
    big = np.zeros([2 * n for n in array.shape], array.dtype)
    return _into(array, big, big[(slice(None, None, -2),) * array.ndim + (...,)])


def rolled_axes(array):
    """The first axis varies fastest, the others stay in order: neither C nor Fortran for three axes."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 0, -1)), -1, 0) if array.ndim else array.copy()


def byte_swapped(array):
    return array.astype(array.dtype.newbyteorder("S"))


def unaligned(array):
    memory = np.zeros(array.nbytes + 1, np.uint8)[1:]
    return _into(array, memory, memory.view(array.dtype).reshape(array.shape))


def unaligned_strides(array):
    """A field of a packed record: aligned nowhere, and a stride that is no multiple of the item."""
    record = np.zeros(array.shape, np.dtype([("gap", np.uint8), ("x", array.dtype)]))
    return _into(array, record, record["x"])


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def extra_axes(array):
    """Lengths of one with strides that mean nothing."""
    strides = [8 * 1001 if n == 1 else s for n, s in zip(array.shape, array.strides, strict=True)]
    return np.lib.stride_tricks.as_strided(array, array.shape, strides)


AWKWARD = {
    f.__name__: f
    for f in (
        fortran,
        strided,
        every_second_row,
        columns_of_wider,
        negative,
        negative_strided,
        rolled_axes,
        byte_swapped,
        unaligned,
        unaligned_strides,
        read_only,
        extra_axes,
    )
}
NO_OUTPUTS = ("byte_swapped", "unaligned", "unaligned_strides", "read_only")
WRITEABLE = {name: f for name, f in AWKWARD.items() if name not in NO_OUTPUTS}


def bits(array):
    """The array's bytes as integers: what "bitwise equal" compares, every NaN alike."""
    array = np.ascontiguousarray(array)
    kind = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}[array.dtype.itemsize]
    found = array.view(kind) if array.ndim else array.reshape(1).view(kind).reshape(())
    return np.where(np.isnan(array), kind(1) << kind(8 * array.dtype.itemsize - 1) | kind(1), found)


def flatten(results):
    """The arrays and numbers of a call's result, tuples of gradients taken apart."""
    if not isinstance(results, tuple):
        return [results]
    return [leaf for result in results for leaf in flatten(result)]


def assert_same(results, expected):
    """Bitwise the same results, element by element."""
    results, expected = flatten(results), flatten(expected)
    assert len(results) == len(expected)
    for result, wanted in zip(map(np.asarray, results), map(np.asarray, expected), strict=True):
        assert result.dtype == wanted.dtype
        assert result.shape == wanted.shape
        np.testing.assert_array_equal(bits(result), bits(wanted))
