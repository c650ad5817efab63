"""The state dictionaries of torch.optim, as plain arrays: names and values are PyTorch's wherever an optimizer of ours is."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..api import Optimizer
from .structure import check_optimizer, check_steps, named_groups

# Beyond it float32, PyTorch's dtype of a step count, skips numbers.
_MOST_FLOAT32 = 2**24


@dataclass(frozen=True)
class Counterpart:
    """Where PyTorch's optimizer of that name differs from ours in what it saves."""

    renamed: dict[str, str] = field(default_factory=dict)  # our name of a state, hyperparameter or carried number: PyTorch's
    fixed: dict[str, Any] = field(default_factory=dict)  # options of PyTorch's that make it another rule if they are not this
    # Numbers that PyTorch keeps for each tensor and that follow from the steps and the group.
    derived: dict[str, Callable[[int, dict[str, Any]], float]] = field(default_factory=dict)
    counts_steps: bool = True
    # What states are before the first step, of rules that PyTorch gives theirs at once; ours make up for it in the first step.
    first: dict[str, Callable[[dict[str, Any]], float]] = field(default_factory=dict)


# By the name of the rule. One that is not here has PyTorch's names throughout.
COUNTERPARTS = {
    "SGD": Counterpart(counts_steps=False),
    "AdamW": Counterpart(fixed={"decoupled_weight_decay": True}),
    "Adagrad": Counterpart(first={"sum": lambda group: group["initial_accumulator_value"]}),
    "ASGD": Counterpart(
        derived={
            "eta": lambda steps, group: group["lr"] / (1 + group["lambd"] * group["lr"] * steps) ** group["alpha"],
            "mu": lambda steps, group: 1 / max(1, steps - group["t0"]),
        }
    ),
}


def to_torch_state(opt: Optimizer) -> dict[str, Any]:
    """The state in the form of ``torch.optim.Optimizer.state_dict()``, with NumPy arrays for tensors.

    Tensors are numbered in the order of `opt`'s parameters, those of a dictionary in its order. Rules that PyTorch does not have
    keep their names. PyTorch's `load_state_dict` converts states to their parameter's dtype.

    Parameters
    ----------
    opt : Optimizer
        Any optimizer of fastloss.

    Returns
    -------
    dict
        ``{"state": {0: {"step": …, "exp_avg": …}, …}, "param_groups": [{"lr": …, "params": [0, …]}, …]}``

    Raises
    ------
    TypeError
        If `opt` is no optimizer of fastloss.

    Examples
    --------
    >>> import fastloss as fl
    >>> optimizer = fl.Adam(np.zeros(3), betas=(0.5, 0.75))
    >>> _ = optimizer.step(np.ones(3))
    >>> state = fl.to_torch_state(optimizer)
    >>> state["state"][0]["exp_avg"]
    array([0.5, 0.5, 0.5])

    For PyTorch, make tensors of the arrays::

        state["state"] = {
            index: {name: torch.from_numpy(array) for name, array in held.items()} for index, held in state["state"].items()
        }
        torch_optimizer.load_state_dict(state)
    """
    check_optimizer("to_torch_state", opt)
    counterpart = _counterpart(opt)
    saved = opt.state_dict()
    steps = saved["steps"]
    state: dict[int, dict[str, np.ndarray]] = {}
    groups: list[dict[str, Any]] = []
    first = 0
    for group, tensors in zip(saved["groups"], named_groups(opt), strict=True):
        own = {key: value for key, value in group.items() if key != "carried"}
        scalars = {name: follows(steps, own) for name, follows in counterpart.derived.items()}
        scalars |= {counterpart.renamed.get(name, name): value for name, value in group.get("carried", {}).items()}
        indices = range(first, first := first + len(tensors))
        groups.append({counterpart.renamed.get(key, key): value for key, value in own.items()} | {"params": list(indices)})
        # PyTorch makes states at the first step, and sees by their absence that it is the first.
        if steps == 0 and not counterpart.first:
            continue
        for index, (name, _) in zip(indices, tensors, strict=True):
            held = {counterpart.renamed.get(key, key): array for key, array in saved["state"][name].items()}
            if steps == 0:
                held |= {key: np.full_like(held[key], value(own)) for key, value in counterpart.first.items()}
            held |= {key: np.array(value, np.float64) for key, value in scalars.items()}
            if counterpart.counts_steps:
                held["step"] = np.array(steps, np.float32 if steps <= _MOST_FLOAT32 else np.float64)
            if held:
                state[index] = held
    return {"state": state, "param_groups": groups}


def from_torch_state(opt: Optimizer, torch_state: Mapping[str, Any], steps: int | None = None) -> None:
    """Take over what ``torch.optim.Optimizer.state_dict()`` returned, hyperparameters included: all of it or, on an error, nothing.

    PyTorch itself is needed only for the tensors in it; arrays do as well. Every tensor must have taken the same steps:
    PyTorch leaves out those without a gradient, fastloss does not.

    Parameters
    ----------
    opt : Optimizer
        Of the same rule, for parameters of the same shapes in the same order and groups.
    torch_state : dict
        The state dictionary, on any device.
    steps : int, optional
        For `SGD`, of whose steps PyTorch keeps no count: how many there were; by default 1 if there is momentum, else 0.

    Raises
    ------
    ValueError, TypeError
        If it does not fit `opt`.

    Examples
    --------
    >>> import fastloss as fl
    >>> torch_state = {
    ...     "state": {0: {"step": 7, "exp_avg": np.full(3, 0.25), "exp_avg_sq": np.ones(3)}},
    ...     "param_groups": [{"lr": 0.5, "betas": (0.9, 0.99), "params": [0]}],
    ... }
    >>> optimizer = fl.AdamW(np.zeros(3))
    >>> fl.from_torch_state(optimizer, torch_state)
    >>> optimizer.steps, optimizer.param_groups[0]["lr"]
    (7, 0.5)
    """
    who = "from_torch_state"
    check_optimizer(who, opt)
    counterpart = _counterpart(opt)
    saved = opt.state_dict()
    ours = named_groups(opt)
    theirs, states = _parts(who, torch_state, ours)
    counts: set[int] = set()
    state: dict[str, dict[str, np.ndarray]] = {}
    groups: list[dict[str, Any]] = []
    for k, (group, their_group, tensors) in enumerate(zip(saved["groups"], theirs, ours, strict=True)):
        _check_fixed(who, type(opt).__name__, counterpart, their_group)
        groups.append(group | _hyperparameters(counterpart, group, their_group))
        carried: dict[str, set[float]] = {name: set() for name in group.get("carried", {})}
        for (name, _), index in zip(tensors, their_group["params"], strict=True):
            held = _named_in_our_way(who, counterpart, name, states.get(index))
            if "step" in held:
                counts.add(check_steps(who, _number(held.pop("step"))))
            for number in carried.keys() & held.keys():
                carried[number].add(float(held.pop(number)))
            state[name] = held
        if carried and states:
            groups[-1]["carried"] = {number: _only(who, f"{number} of group {k}", found) for number, found in carried.items()}
    if states and counterpart.counts_steps:
        taken = _only(who, "step", counts)
    else:
        taken = int(any(state.values())) if steps is None else check_steps(who, steps)
    if not any(state.values()):
        # PyTorch has not stepped, or the rule has no state: what `opt` had before its first step is still what it has.
        if opt.steps and any(saved["state"].values()):
            raise ValueError(f"{who}: opt must be new to take over a state without arrays, got one after {opt.steps} steps")
        state = saved["state"]
    elif not all(state.values()):
        missing = next(name for name, held in state.items() if not held)
        raise ValueError(
            f"{who}: every tensor must have a state (PyTorch skips those without a gradient), got none for {missing}"
        )
    if taken == 0:
        for held in state.values():
            held.update({key: np.zeros_like(held[key]) for key in counterpart.first})
    opt.load_state_dict(saved | {"steps": taken, "groups": groups, "state": state})


def _counterpart(opt):
    return COUNTERPARTS.get(type(opt).__name__, Counterpart())


def _parts(who, torch_state, ours):
    """PyTorch's groups and states, of as many tensors as ours."""
    if not isinstance(torch_state, Mapping) or not {"state", "param_groups"} <= set(torch_state):
        got = ", ".join(map(str, torch_state)) if isinstance(torch_state, Mapping) else type(torch_state).__name__
        raise ValueError(f"{who}: torch_state must be a dictionary of state and param_groups, got {got or 'nothing'}")
    states, groups = torch_state["state"], torch_state["param_groups"]
    if not isinstance(states, Mapping) or not all(isinstance(held, Mapping) for held in states.values()):
        raise ValueError(f"{who}: state must be a dictionary of dictionaries, got {type(states).__name__}")
    wanted = [len(tensors) for tensors in ours]
    if not isinstance(groups, list | tuple) or not all(isinstance(g, Mapping) and "params" in g for g in groups):
        raise ValueError(f"{who}: param_groups must be a list of dictionaries with params, got {type(groups).__name__}")
    if [len(group["params"]) for group in groups] != wanted:
        got = [len(group["params"]) for group in groups]
        raise ValueError(f"{who}: param_groups must be groups of {wanted} tensors, got {got}")
    unknown = set(states) - {index for group in groups for index in group["params"]}
    if unknown:
        raise ValueError(f"{who}: state must be of the tensors in param_groups, got {min(unknown, key=str)!r}")
    return groups, states


def _check_fixed(who, rule, counterpart, group):
    for option, value in counterpart.fixed.items():
        if group.get(option, value) != value:
            raise ValueError(f"{who}: {option} must be {value} for {rule}, got {group[option]!r}")


def _hyperparameters(counterpart, group, their_group):
    """Those of ours that PyTorch's group has; numbers may be tensors there."""
    theirs = {key: counterpart.renamed.get(key, key) for key in group}
    return {key: _number(their_group[name]) for key, name in theirs.items() if key != "carried" and name in their_group}


def _number(value):
    if isinstance(value, list | tuple):
        return tuple(_number(v) for v in value)
    return value.item() if hasattr(value, "item") else value


def _named_in_our_way(who, counterpart, name, held):
    back = {theirs: ours for ours, theirs in counterpart.renamed.items()}
    return {
        back.get(key, key): value if key == "step" else _array(who, f"{key} of {name}", value)
        for key, value in (held or {}).items()
        if value is not None and key not in counterpart.derived
    }


def _array(who, name, value):
    torch = sys.modules.get("torch")  # there if the value is a tensor of its
    if torch is not None and isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        if value.dtype == torch.bfloat16:
            # NumPy has no such dtype; these are the upper halves of float32.
            return (value.contiguous().view(torch.int16).numpy().astype(np.uint32) << 16).view(np.float32)
        try:
            return value.numpy()
        except (TypeError, RuntimeError) as error:
            raise TypeError(f"{who}: {name} must be a dense tensor of a dtype that NumPy has, got {error}") from error
    return np.asarray(value)


def _only(who, name, found):
    if len(found) != 1:
        raise ValueError(f"{who}: {name} must be one number, the same for every tensor, got {sorted(found) or 'none'}")
    return next(iter(found))
