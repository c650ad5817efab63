"""The public object of an update rule."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from .._kernels import arrays
from .._kernels.engine import RuleVariant, Sweep
from ..formula import UpdateRule
from ..formula.document import optimizer_docstring


class Optimizer:
    """Parameters, their state, and a rule that rewrites both in place.

    Parameters
    ----------
    params : numpy.ndarray, list, dict, or list of groups
        The arrays to train: one, several, several by name, or a list of dictionaries that hold ``"params"`` and hyperparameters
        of their own. float32 and float64 keep their precision; float16 and bfloat16 keep float32 state and are rounded once per
        step. No array may be there twice, be read-only, or share memory with another.
    **hyperparameters
        The rule's, the same for all groups that do not have their own. They may be changed between steps in `param_groups`.

    Attributes
    ----------
    param_groups : list of dict
        For each group its ``"params"`` and hyperparameters.
    steps : int
        How many steps were taken.
    """

    rule: UpdateRule
    steps: int
    param_groups: list[dict[str, Any]]

    def __init__(self, params: Any, **hyperparameters: Any) -> None:
        who = type(self).__name__
        unknown = [name for name in hyperparameters if name not in self._hyperparameters()]
        if unknown:
            raise TypeError(f"{who}: hyperparameters must be among {', '.join(self._hyperparameters())}, got {unknown[0]!r}")
        defaults = {name: domain.default for name, domain in self._hyperparameters().items()} | hyperparameters
        self.steps = 0
        self._is_grouped = isinstance(params, list | tuple) and len(params) > 0 and all(_is_group(p) for p in params)
        self.param_groups = []
        self._tensors = []
        for index, group in enumerate(params if self._is_grouped else [{"params": params}]):
            own = {name: value for name, value in group.items() if name != "params"}
            unknown = [name for name in own if name not in defaults]
            if unknown:
                raise TypeError(f"{who}: params[{index}] must hold 'params' and {', '.join(defaults)}, got {unknown[0]!r}")
            self.param_groups.append({"params": group["params"], **defaults, **own})
            prefix = f"params[{index}]" if self._is_grouped else "params"
            for name, array in _named(who, prefix, group["params"]):
                _check_parameter(who, name, array)
                self._tensors.append((index, name, array))
        self._states = [{} for _ in self._tensors]
        self._carried = [{name: first for name, (first, _) in self.rule.carried.items()} for _ in self.param_groups]
        self._lock = threading.Lock()
        self._variants = {}
        self._seen = self._needed = None
        self._check_groups()

    def step(self, grads: Any) -> None:
        """Rewrite every parameter and its state in place: one compiled call, whole or not at all.

        Parameters
        ----------
        grads : numpy.ndarray, list or dict
            Gradients in the structure of `params`: an array, a list, a dictionary; for groups a list with one such entry for
            each group. Any floating dtype, any layout, of the parameters' shapes.

        Threads that step one optimizer take turns. NaN and infinity in a gradient go into the parameter and its state.

        Raises
        ------
        ValueError, TypeError
            For a gradient of another shape or not floating, one that shares memory with a parameter or state, or a
            hyperparameter outside its domain; before anything is written.
        """
        with self._lock:
            self._check_groups()
            step = self.steps + 1
            carried = [self.rule.carry(now, step, group) for now, group in zip(self._carried, self._values, strict=True)]
            vectors = [self.rule.vector({"step": step, **now, **group}) for now, group in zip(carried, self._values, strict=True)]
            self._sweep.step(self._kernels, vectors, self._flat(grads))
            self.steps, self._carried = step, carried

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state as plain arrays and numbers, copied: rule, steps, groups of hyperparameters, states by name."""
        return {
            "rule": type(self).__name__,
            "steps": self.steps,
            "groups": [{name: group[name] for name in self._hyperparameters()} for group in self.param_groups],
            "state": {
                name: {state: array.copy() for state, array in held.items()}
                for (_, name, _), held in zip(self._tensors, self._states, strict=True)
            },
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` returned, for parameters of the same names and shapes; all of it or, on an error, nothing.

        States of another floating dtype are converted.
        """
        who = type(self).__name__
        _check_keys(who, "state_dict", state_dict, ["rule", "steps", "groups", "state"])
        if state_dict["rule"] != who:
            raise ValueError(f"{who}: state_dict must be of rule {who!r}, got {state_dict['rule']!r}")
        steps, groups, states = state_dict["steps"], state_dict["groups"], state_dict["state"]
        if not isinstance(steps, int | np.integer) or isinstance(steps, bool) or not 0 <= steps < _MOST_STEPS:
            raise ValueError(f"{who}: steps must be a whole number from 0 to 2**53, got {steps!r}")
        if not isinstance(groups, list | tuple) or len(groups) != len(self.param_groups):
            raise ValueError(f"{who}: groups must be a list of {len(self.param_groups)} dictionaries, got {groups!r}")
        for index, group in enumerate(groups):
            _check_keys(who, f"groups[{index}]", group, list(self._hyperparameters()))
        values = [self._check_group(group) for group in groups]
        choices = self._choices(values)
        _check_keys(who, "state", states, [name for _, name, _ in self._tensors])
        for index, name, array in self._tensors:
            self._check_state(who, name, states[name], choices[index], array)
        with self._lock:
            # Held states that were not saved are forgotten with all else.
            self._states = [
                {state: np.array(array, _state_dtype(param), order="C") for state, array in states[name].items()}
                for _, name, param in self._tensors
            ]
            for group, checked in zip(self.param_groups, values, strict=True):
                group.update(checked)
            self.steps = int(steps)
            self._seen = self._needed = None
            self._check_groups()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in _BOUND}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._lock = threading.Lock()
        self._variants = {}
        self._seen = self._needed = None
        self._check_groups()

    def __repr__(self) -> str:
        groups = "; ".join(
            ", ".join(f"{name}={group[name]!r}" for name in self._hyperparameters()) for group in self.param_groups
        )
        return f"{type(self).__name__}({len(self._tensors)} arrays, {groups})"

    @classmethod
    def _hyperparameters(cls):
        return cls.rule.hyperparameters

    def _check_group(self, group):
        who = type(self).__name__
        values = {name: domain.check(who, name, group[name]) for name, domain in self._hyperparameters().items()}
        for holds, message in self.rule.requires:
            if not holds(**values):
                raise ValueError(f"{who}: {message}")
        return values

    def _check_groups(self):
        """Look at the hyperparameters again if they were changed since the last step."""
        names = self._hyperparameters()
        for index, group in enumerate(self.param_groups):
            if len(group) != len(names) + 1 or not group.keys() >= names.keys():
                raise ValueError(
                    f"{type(self).__name__}: param_groups[{index}] must hold 'params' and {', '.join(names)}, got {', '.join(group)}"
                )
        now = [[_snapshot(group[name]) for name in names] for group in self.param_groups]
        if now != self._seen:
            values = [self._check_group(group) for group in self.param_groups]
            self._bind(self._choices(values))
            self._values = values
            self._seen = now

    def _choices(self, values):
        return [self.rule.choice({"step": None, **dict.fromkeys(self.rule.carried), **group}) for group in values]

    def _flat(self, grads):
        """The gradients in the order of the tensors."""
        who = type(self).__name__
        if not self._is_grouped:
            return _match(who, "grads", self.param_groups[0]["params"], grads)
        if not isinstance(grads, list | tuple) or len(grads) != len(self.param_groups):
            raise ValueError(f"{who}: grads must be a list of {len(self.param_groups)} entries, one for each group")
        flat = []
        for index, (group, own) in enumerate(zip(self.param_groups, grads, strict=True)):
            flat += _match(who, f"grads[{index}]", group["params"], own)
        return flat

    def _bind(self, choices):
        """Make the states that these variants need, and hand all arrays to the engine."""
        self._kernels = [self._variant(choice) for choice in choices]
        needed = [self.rule.states_of(choice) for choice in choices]
        if needed == self._needed:
            return
        tensors = []
        for (index, name, array), held in zip(self._tensors, self._states, strict=True):
            for state in needed[index]:
                if state not in held:
                    held[state] = np.zeros(array.shape, _state_dtype(array))
            tensors.append((index, name, array, [held[state] for state in needed[index]]))
        self._sweep = Sweep(type(self).__name__, tensors)
        self._needed = needed

    def _variant(self, choice):
        if choice not in self._variants:
            self._variants[choice] = RuleVariant(self.rule.variant_name(choice))
        return self._variants[choice]

    def _check_state(self, who, name, own, choice, array):
        """The arrays of one parameter: all that its variant needs, none that the rule does not know."""
        needed = self.rule.states_of(choice)
        if not isinstance(own, dict) or not set(needed) <= set(own) <= set(self.rule.states):
            got = sorted(map(str, own)) if isinstance(own, dict) else type(own).__name__
            raise ValueError(f"{who}: the state of {name} must hold {', '.join(needed) or 'nothing'}, got {got}")
        for state, values in own.items():
            if type(values) is not np.ndarray or values.shape != array.shape or not arrays.is_floating(values.dtype):
                got = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
                raise ValueError(f"{who}: {state} of {name} must be a floating array of shape {array.shape}, got {got}")


# What is made anew for a copy: threads and kernels do not travel.
_BOUND = {"_lock", "_sweep", "_kernels", "_variants", "_values", "_seen", "_needed"}
# Steps are counted in the doubles of the kernels' numbers.
_MOST_STEPS = 2**53


def _state_dtype(param):
    return np.float64 if param.dtype == np.float64 else np.float32


def _check_keys(who, name, given, keys):
    if not isinstance(given, dict) or set(given) != set(keys):
        got = ", ".join(map(str, given)) if isinstance(given, dict) else type(given).__name__
        raise ValueError(f"{who}: {name} must be a dictionary of {', '.join(keys)}, got {got or 'nothing'}")


def _snapshot(value):
    """The value as it is now, told apart from later ones even if it is changed in place."""
    if type(value) is float:
        return value
    value = tuple(value) if isinstance(value, list) else value.item() if getattr(value, "shape", None) == () else value
    return type(value), value


def _is_group(value):
    return isinstance(value, dict) and "params" in value


def _named(who, prefix, params):
    """(name, array) for every array of one group."""
    if isinstance(params, dict):
        return [(f"{prefix}[{key!r}]", array) for key, array in params.items()]
    if isinstance(params, list | tuple):
        return [(f"{prefix}[{k}]", array) for k, array in enumerate(params)]
    return [(prefix, params)]


def _check_parameter(who, name, array):
    if type(array) is not np.ndarray:
        raise TypeError(f"{who}: {name} must be a NumPy array, for it is rewritten in place, got {type(array).__name__}")
    arrays.check_floating(who, name, array)
    arrays.check_output(who, name, array, array.shape, array.dtype.newbyteorder("="))


def _match(who, name, params, grads):
    """One group's gradients in the order of its parameters."""
    if isinstance(params, dict):
        if not isinstance(grads, dict) or set(grads) != set(params):
            got = sorted(map(str, grads)) if isinstance(grads, dict) else type(grads).__name__
            raise ValueError(f"{who}: {name} must be a dict of {sorted(map(str, params))}, got {got}")
        return [grads[key] for key in params]
    if isinstance(params, list | tuple):
        if not isinstance(grads, list | tuple) or len(grads) != len(params):
            got = f"{len(grads)}" if isinstance(grads, list | tuple) else type(grads).__name__
            raise ValueError(f"{who}: {name} must be a list of {len(params)} arrays, got {got}")
        return list(grads)
    return [grads]


def update_rule(**options: Any) -> Callable[[Callable], type[Optimizer]]:
    """Make an optimizer class of an update rule: see `fastloss.optimizers` for what one looks like."""

    def define(function):
        rule = UpdateRule.define(function, **options)
        members = {"rule": rule, "__doc__": optimizer_docstring(rule), "__module__": function.__module__}
        return type(function.__name__, (Optimizer,), members)

    return define
