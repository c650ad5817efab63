"""What an optimizer keeps for each parameter: the states of its rule, an average, what rounding took, a copy in another dtype."""

import numpy as np

from .. import interop
from .._kernels import arrays, formats

# Seeds of the parameters' random numbers are far apart: 2^64 by the golden ratio.
_GOLDEN = 0x9E3779B97F4A7C15
# What is kept for a parameter besides the states of its rule, by the name that it is saved under, and the engine's name for it.
_EXTRAS = {"ema": "average", "remainder": "remainder"}


class StateStore:
    """How the states of an optimizer are kept, and what is kept with its parameters.

    The states themselves are dictionaries, one for each parameter, ``{name: array}``; methods return new ones and leave those
    that they are given as they were.

    Attributes
    ----------
    copies : list
        The parameters in `copy_dtype`, or None.
    """

    def __init__(self, who, tree, rule, state_dtype, rounding, seed, has_ema, copy_dtype):
        self._who, self._tree, self._known, self._has_ema = who, tree, rule.states, has_ema
        self._dtypes = _state_dtypes(who, rule.states, state_dtype)
        self._rounding = _check_rounding(who, rounding, tree)
        self._seed = _check_seed(who, seed)
        self._wide = None
        copy_dtype = None if copy_dtype is None else _floating_dtype(who, "copy_dtype", copy_dtype)
        self.copies = [None if copy_dtype is None else tree.backend.copied(array, copy_dtype) for array in tree.arrays]

    def initial(self):
        """What there is before the first step."""
        return [self._extra_states(array) for array in self._tree.arrays]

    def with_states(self, held, needed):
        """The states, with new ones at 0 for those needed that are missing: `needed` has the names for each group."""
        return [
            own | {name: self._tree.backend.zeros(array, self._dtype(name, array)) for name in needed[group] if name not in own}
            for group, array, own in zip(self._tree.groups, self._tree.arrays, held, strict=True)
        ]

    def tensors(self, held, needed, buckets):
        """What the engine takes of each parameter: (bucket, name, array, states, extras)."""
        tree = self._tree
        return [
            (buckets[k], name, tree.arrays[k], [held[k][state] for state in needed[tree.groups[k]]], self._extras(k, held[k]))
            for k, name in enumerate(tree.names)
        ]

    def saved(self, held):
        """The states by the names of their parameters, in copies."""
        return {
            name: {state: self._tree.backend.saved(array) for state, array in own.items()}
            for name, own in zip(self._tree.names, held, strict=True)
        }

    def loaded(self, saved, needed):
        """The states that were saved, checked, in arrays of their own."""
        saved = self._tree.backend.saved_states(saved)
        for group, name, array in zip(self._tree.groups, self._tree.names, self._tree.arrays, strict=True):
            self._check(name, saved[name], needed[group], array)
        return [
            {
                state: self._tree.backend.copied(values, self._dtype(state, array), array)
                for state, values in saved[name].items()
            }
            for name, array in zip(self._tree.names, self._tree.arrays, strict=True)
        ]

    def write(self, values, changes=None):
        """Rewrite the parameters, and their copies, and make the changes: as one act, which no signal handler interrupts."""
        copies = [(copy, value) for copy, value in zip(self.copies, values, strict=True) if copy is not None]
        targets = [*self._tree.arrays, *(copy for copy, _ in copies)]
        self._tree.backend.assign(targets, [*values, *(value for _, value in copies)], changes)

    def exact(self, held):
        """The parameters with what rounding took from them, in copies of the precision that averages are kept in."""
        wide = self._tree.backend.wide
        with np.errstate(all="ignore"):
            return [
                wide(array) + wide(own["remainder"]) if "remainder" in own else wide(array)
                for array, own in zip(self._tree.arrays, held, strict=True)
            ]

    def write_exact(self, held, values, changes):
        """As `write`, and what rounding takes from the parameters as well."""
        pairs = [(copy, value) for copy, value in zip(self.copies, values, strict=True) if copy is not None]
        with np.errstate(all="ignore"):
            for array, own, value in zip(self._tree.arrays, held, values, strict=True):
                rounded = value.astype(array.dtype)
                pairs.append((array, rounded))
                if "remainder" in own:
                    pairs.append((own["remainder"], value - self._tree.backend.wide(rounded)))
        self._tree.backend.assign([to for to, _ in pairs], [value for _, value in pairs], changes)

    def refresh_copies(self):
        """Let the copies be the parameters of now."""
        pairs = [(copy, array) for copy, array in zip(self.copies, self._tree.arrays, strict=True) if copy is not None]
        self._tree.backend.assign([copy for copy, _ in pairs], [array for _, array in pairs])

    def _extra_states(self, array):
        """What is kept, and saved, besides the rule's states."""
        held = {}
        if self._has_ema:
            held["ema"] = self._tree.backend.copied(array, self._dtype("ema", array))
        for name in self._companions(array):
            held[name] = self._tree.backend.zeros(array, array.dtype)
        return held

    def _companions(self, array):
        """What is kept beside a parameter because of the format that it is in."""
        return formats.of(array.dtype).companions if self._rounding == "compensated" else ()

    def _extras(self, k, held):
        """What goes with a parameter in a step besides the rule's states."""
        extras = {place: held[state] for state, place in _EXTRAS.items() if state in held}
        if self.copies[k] is not None:
            extras["copy"] = self.copies[k]
        if self._rounding == "stochastic" and arrays.is_bfloat16(self._tree.arrays[k].dtype):
            extras["seed"] = (self._seed + k * _GOLDEN) % 2**64
        if self._wide is not None and self._wide[k]:
            extras["wide"] = True
        return extras

    def compute_in_double(self, wide):
        """Which parameters are computed in double whatever their dtype; to be said before they are bound."""
        self._wide = wide

    def _dtype(self, state, param):
        """What a state is kept in."""
        if state == "remainder":
            return param.dtype
        return self._dtypes.get(state) or np.dtype(np.float64 if param.dtype == np.float64 else np.float32)

    def _check(self, name, own, needed, array):
        """The saved arrays of one parameter: all that its variant needs, none that the rule does not know."""
        extras = [*(["ema"] if self._has_ema else []), *self._companions(array)]
        needed = [*needed, *extras]
        if not isinstance(own, dict) or not set(needed) <= set(own) <= {*self._known, *extras}:
            got = sorted(map(str, own)) if isinstance(own, dict) else type(own).__name__
            raise ValueError(f"{self._who}: the state of {name} must hold {', '.join(needed) or 'nothing'}, got {got}")
        for state, values in own.items():
            if type(values) is not np.ndarray or values.shape != array.shape or not arrays.is_floating(values.dtype):
                got = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
                raise ValueError(f"{self._who}: {state} of {name} must be a floating array of shape {array.shape}, got {got}")


def _floating_dtype(who, name, given):
    """A floating dtype of two to eight bytes."""
    if given == "bfloat16":
        given = interop.bfloat16(who)
    try:
        dtype = np.dtype(given)
    except TypeError:
        dtype = None
    if dtype is None or dtype.name not in formats.FLOATING or dtype.byteorder == ">":
        first, last = ", ".join(formats.FLOATING[:-1]), formats.FLOATING[-1]
        raise TypeError(f"{who}: {name} must be {first} or {last}, got {given!r}")
    return dtype


def _state_dtypes(who, states, given):
    """{state: dtype} of what was asked for."""
    if given is None:
        return {}
    if not isinstance(given, dict):
        return dict.fromkeys(states, _floating_dtype(who, "state_dtype", given))
    unknown = [name for name in given if name not in (*states, "ema")]
    if unknown:
        raise ValueError(f"{who}: state_dtype must be for states among {', '.join((*states, 'ema'))}, got {unknown[0]!r}")
    return {name: _floating_dtype(who, f"state_dtype[{name!r}]", dtype) for name, dtype in given.items()}


def _check_rounding(who, rounding, tree):
    if rounding not in ("nearest", "stochastic", "compensated"):
        raise ValueError(f"{who}: rounding must be 'nearest', 'stochastic' or 'compensated', got {rounding!r}")
    for name, array in zip(tree.names, tree.arrays, strict=True):
        if rounding == "stochastic" and array.dtype == np.float16:
            raise TypeError(f"{who}: rounding must be 'nearest' or 'compensated' for {name} of float16, got 'stochastic'")
    return rounding


def _check_seed(who, seed):
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool) or not 0 <= seed < 2**64:
        raise ValueError(f"{who}: seed must be a whole number from 0 to 2**64, got {seed!r}")
    return int(seed)
