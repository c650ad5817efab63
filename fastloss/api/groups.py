"""The hyperparameters of an optimizer's groups: checked whenever they changed, and as the engine takes them."""

from operator import is_
from types import NoneType
from typing import Any, NamedTuple


class Bucket(NamedTuple):
    """The arrays of one group that decay, or those that do not: they have one kernel and the same numbers."""

    group: int
    variant: Any  # its kernels
    numbers: list[float]  # what these take, after the number of the step and the group's scalar state
    sign: float  # -1 where the gradients' sign is turned


class GroupRules:
    """What an update rule says of its groups of hyperparameters."""

    def __init__(self, who, rule):
        self.who, self.rule, self.domains = who, rule, rule.hyperparameters
        self._names = rule.hyperparameters.keys()

    def defaults(self, given):
        """The hyperparameters of groups that do not have their own."""
        unknown = [name for name in given if name not in self.domains]
        if unknown:
            raise TypeError(f"{self.who}: hyperparameters must be among {', '.join(self.domains)}, got {unknown[0]!r}")
        return {name: domain.default for name, domain in self.domains.items()} | given

    def group(self, index, given, structure, defaults):
        """A group as the caller sees and changes it."""
        own = {name: value for name, value in given.items() if name != "params"}
        unknown = [name for name in own if name not in defaults]
        if unknown:
            raise TypeError(f"{self.who}: params[{index}] must hold 'params' and {', '.join(defaults)}, got {unknown[0]!r}")
        return {"params": structure, **defaults, **own}

    def check_shape(self, param_groups, structures):
        """That the groups have all hyperparameters, and the arrays that they were made with."""
        if len(param_groups) != len(structures):
            raise ValueError(
                f"{self.who}: param_groups must stay {len(structures)} groups, got {len(param_groups)}: "
                "make a new optimizer to train other arrays"
            )
        count = len(self.domains) + 1
        for group, structure in zip(param_groups, structures, strict=True):
            if len(group) == count and group.get("params") is structure and group.keys() >= self._names:
                continue
            index = next(k for k, own in enumerate(param_groups) if own is group)
            if len(group) != count or not group.keys() >= {"params", *self._names}:
                raise ValueError(
                    f"{self.who}: param_groups[{index}] must hold 'params' and {', '.join(self.domains)}, got {', '.join(group)}"
                )
            raise ValueError(
                f"{self.who}: the params of param_groups[{index}] must stay those that the optimizer was made with: "
                "make a new optimizer to train other arrays"
            )

    def check(self, group, changed=None):
        """A group's hyperparameters as the rule takes them; those of `changed` are to be looked at, by default all."""
        names = self.domains if changed is None else changed
        checked = {name: self.domains[name].check(self.who, name, group[name]) for name in names}
        values = {name: checked[name] if name in checked else group[name] for name in self.domains}
        for holds, message in self.rule.requires:
            if not holds(**values):
                raise ValueError(f"{self.who}: {message}")
        return values

    def given(self, param_groups):
        """For each group its names and objects, None if one of these can change in place or with the steps."""
        return [
            (list(group), list(group.values())) if all(map(_is_constant, group.values(), group)) else None
            for group in param_groups
        ]

    def are_same(self, param_groups, given):
        """Whether the groups are, object for object, those that were `given`."""
        if len(param_groups) != len(given):
            return False
        for group, own in zip(param_groups, given, strict=True):
            if own is None or list(group) != own[0] or not all(map(is_, group.values(), own[1])):
                return False
        return True

    def snapshot(self, param_groups, steps):
        """The hyperparameters as they are now, told apart from later ones even if they are changed in place."""
        return [[_snapshot(group[name], steps) for name in self.domains] for group in param_groups]

    def values(self, param_groups, steps, now, seen, known):
        """The values of a snapshot `now`: checked where they differ from the one last seen, whose values are known."""
        # A schedule changes one number at each step: the others were looked at before.
        found = []
        for k, group in enumerate(param_groups):
            changed = [
                name for i, name in enumerate(self.domains) if seen is None or seen[k][i] is None or now[k][i] != seen[k][i]
            ]
            given = {name: number_at(group[name], steps) for name in changed}
            old = known[k] if seen else {}
            found.append(self.check({name: old.get(name) for name in self.domains} | given, changed))
        return found

    def choices(self, values):
        """Which variant of the rule each group's hyperparameters ask for."""
        filled_in = {"step": None, **dict.fromkeys(self.rule.carried)}
        return [self.rule.choice({**filled_in, **group}) for group in values]

    def bucket(self, group, decays, variant, values):
        """The bucket of those arrays of a group that decay, or do not."""
        filled_in = {"step": 0.0, **dict.fromkeys(self.rule.carried, 0.0)}
        own = values[group] if decays else {**values[group], "weight_decay": 0.0}
        numbers = self.rule.vector({**filled_in, **own})[len(filled_in) :]
        return Bucket(group, variant, numbers, -1.0 if own["maximize"] else 1.0)


def number_at(value, steps):
    """A hyperparameter's number after so many steps."""
    return value(steps) if callable(value) else value


def _is_constant(value, name):
    if name == "params" or type(value) in (float, int, bool, str, NoneType):
        return True
    return type(value) is tuple and all(type(each) in (float, int) for each in value)


def _snapshot(value, steps):
    if type(value) is float:
        return value
    if callable(value):
        return float(value(steps))
    value = tuple(value) if isinstance(value, list) else value.item() if getattr(value, "shape", None) == () else value
    return type(value), value
