"""What an optimizer is given: arrays in a structure, and gradients in the same structure; checked, and put in order."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from .backends import backend_of


class SparseRows(NamedTuple):
    """A gradient that is 0 but for some rows: row numbers of shape (n,), and values of shape (n, ...) like the parameter's rows.

    The other rows stay as they are, and their states too; a row that is there several times has the sum of its values. A rule that
    looks at whole tensors looks at the rows that move, all together.
    """

    rows: Any
    values: Any


class ParameterTree:
    """The arrays of an optimizer: in the structure that they were given in, by name, and in one order.

    The structures are copies that cannot be changed, so that neither the caller's list nor the order of the caller's dictionary
    matters later on. The arrays are those that the engine works with, over the memory of those given.

    Attributes
    ----------
    structures : list
        For each group its array, tuple of arrays, or read-only dictionary of them.
    is_grouped : bool
        Whether it was given as a list of groups.
    names, arrays, groups : list
        For each array its name in errors and saved states, the array, and the index of its group.
    backend : object
        What makes, copies and steps arrays where these are.
    """

    def __init__(self, who, params, what="params", backend=None):
        self.who, self.what, self.backend = who, what, backend
        self.is_grouped = holds_groups(params)
        self.structures = [frozen(group["params"]) for group in params] if self.is_grouped else [frozen(params)]
        self._bind()

    def _bind(self):
        self.names, self.arrays, self.groups = [], [], []
        for index, structure in enumerate(self.structures):
            prefix = f"{self.what}[{index}]" if self.is_grouped else self.what
            for name, given in _named(prefix, structure):
                self.backend = self.backend or backend_of(self.who, given)
                self.names.append(name)
                self.arrays.append(self.backend.parameter(self.who, name, given))
                self.groups.append(index)
        self.backend = self.backend or backend_of(self.who, None)

    def __getstate__(self):
        return vars(self) | {"structures": [thawed(structure) for structure in self.structures], "arrays": None}

    def __setstate__(self, state):
        vars(self).update(state)
        self.structures = [frozen(structure) for structure in self.structures]
        self._bind()  # an array's memory is another one now

    def __len__(self):
        return len(self.arrays)

    def flatten(self, given, what="grads"):
        """What was given in the structure of the parameters, in the order of the arrays, in a new list."""
        if not self.is_grouped:
            return match(self.who, what, self.structures[0], given)
        if not isinstance(given, list | tuple) or len(given) != len(self.structures):
            raise ValueError(f"{self.who}: {what} must be a list of {len(self.structures)} entries, one for each group")
        flat = []
        for index, (structure, own) in enumerate(zip(self.structures, given, strict=True)):
            flat += match(self.who, f"{what}[{index}]", structure, own)
        return flat

    def unflatten(self, flat):
        """Arrays in order, in the structure of the parameters."""
        groups = self.unflatten_groups(flat)
        return groups if self.is_grouped else groups[0]

    def unflatten_groups(self, flat):
        """Arrays in order, in a list with the structure of each group."""
        rest = map(self.backend.shown, flat)

        def like(structure):
            if isinstance(structure, Mapping):
                return {key: next(rest) for key in structure}
            return [next(rest) for _ in structure] if isinstance(structure, tuple) else next(rest)

        return [like(structure) for structure in self.structures]

    def extract_rows(self, flat):
        """Take the rows out of sparse gradients: {index: rows} or None, their values left in the list."""
        found = None
        for k, grad in enumerate(flat):
            if type(grad) is SparseRows:
                found = found or {}
                found[k], flat[k] = self.backend.row_gradient(self.who, self.names[k], self.arrays[k], grad)
        return found

    def named_groups(self):
        """For each group (name, array) of its arrays."""
        found = [[] for _ in self.structures]
        for index, name, array in zip(self.groups, self.names, self.arrays, strict=True):
            found[index].append((name, array))
        return found


def frozen(params):
    """A copy of one group's structure that cannot be changed."""
    if isinstance(params, dict | MappingProxyType):
        return MappingProxyType(dict(params))
    return tuple(params) if isinstance(params, list | tuple) else params


def thawed(structure):
    """The structure as what can be copied and pickled."""
    return dict(structure) if isinstance(structure, MappingProxyType) else structure


def is_group(value):
    return isinstance(value, dict) and "params" in value


def holds_groups(params):
    """Whether it is a list of groups, not of arrays."""
    return isinstance(params, list | tuple) and len(params) > 0 and all(is_group(p) for p in params)


def _named(prefix, structure):
    """(name, array) for every array of one group."""
    if isinstance(structure, Mapping):
        return [(f"{prefix}[{key!r}]", array) for key, array in structure.items()]
    if isinstance(structure, tuple):
        return [(f"{prefix}[{k}]", array) for k, array in enumerate(structure)]
    return [(prefix, structure)]


def match(who, name, params, grads):
    """One group's gradients, or what else comes in its structure, in the order of its parameters."""
    if isinstance(params, MappingProxyType | dict):
        # Whether something is a `Mapping` takes longer to say than whether it is a dictionary, and every step asks.
        is_mapping = type(grads) is dict or isinstance(grads, Mapping)
        if not is_mapping or set(grads) != set(params):
            got = sorted(map(str, grads)) if is_mapping else type(grads).__name__
            raise ValueError(f"{who}: {name} must be a dictionary of {sorted(map(str, params))}, got {got}")
        return [grads[key] for key in params]
    if isinstance(params, list | tuple):
        if not isinstance(grads, list | tuple) or len(grads) != len(params):
            got = f"{len(grads)}" if isinstance(grads, list | tuple) else type(grads).__name__
            raise ValueError(f"{who}: {name} must be a list of {len(params)} arrays, got {got}")
        return list(grads)
    return [grads]


def row_options(who, tree, row_lr, row_mask, sparse, has_lr):
    """Learning rates and mask of the rows, as the engine takes them, in copies."""
    tree.backend.check_rows(who)
    if sparse:
        raise ValueError(f"{who}: row_lr and row_mask must go with whole gradients, got SparseRows")
    counts = {array.shape[0] if array.ndim else None for array in tree.arrays}
    if len(counts) != 1 or None in counts:
        raise ValueError(
            f"{who}: row_lr and row_mask must go with parameters of one number of rows, got {sorted(map(str, counts))}"
        )
    (count,) = counts
    if row_lr is not None:
        if not has_lr:
            raise TypeError(f"{who}: row_lr must go with a rule that has lr")
        with np.errstate(all="ignore"):
            row_lr = np.array(_of_rows(who, "row_lr", row_lr, count, "fiu"), np.float64, order="C")
        if not (np.isfinite(row_lr).all() and (row_lr >= 0).all()):
            raise ValueError(f"{who}: row_lr must be >= 0 and finite, got {row_lr[~(np.isfinite(row_lr) & (row_lr >= 0))][0]}")
    if row_mask is not None:
        row_mask = np.array(_of_rows(who, "row_mask", row_mask, count, "b"), np.uint8, order="C")
    return row_lr, row_mask


def _of_rows(who, name, given, count, kinds):
    given = np.asarray(given)
    if given.shape != (count,) or given.dtype.kind not in kinds:
        what = "True or False" if kinds == "b" else "a number"
        raise ValueError(f"{who}: {name} must hold {what} for each of {count} rows, got {given.dtype} {given.shape}")
    return given


def decay_flags(who, tree, mask, has_decay):
    """Whether each array decays."""
    if mask is not None and not has_decay:
        raise TypeError(f"{who}: decay_mask must go with a rule that has weight_decay")
    if mask is None or isinstance(mask, bool):
        return [mask is not False] * len(tree)
    decays = [mask(tree.backend.shown(array)) for array in tree.arrays] if callable(mask) else tree.flatten(mask, "decay_mask")
    for name, decay in zip(tree.names, decays, strict=True):
        if not isinstance(decay, bool | np.bool_):
            raise TypeError(f"{who}: decay_mask must be True or False for {name}, got {decay!r}")
    return [bool(decay) for decay in decays]


def check_keys(who, name, given, keys):
    if not isinstance(given, dict) or set(given) != set(keys):
        got = ", ".join(map(str, given)) if isinstance(given, dict) else type(given).__name__
        raise ValueError(f"{who}: {name} must be a dictionary of {', '.join(keys)}, got {got or 'nothing'}")
