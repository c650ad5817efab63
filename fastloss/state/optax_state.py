"""The states of Optax's transformations, as plain arrays in the structure of the parameters."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..api import Optimizer
from ..api.parameters import match
from .structure import check_optimizer, check_steps, named_groups

_MOST_INT32 = 2**31 - 1


@dataclass(frozen=True)
class Counterpart:
    """The fields of Optax's state of the optimizer of that name."""

    fields: dict[str, str]  # our name of a state: Optax's
    count: str | None = "count"
    # What Optax multiplies a state by, of the group's hyperparameters.
    scales: dict[str, Callable[[dict[str, Any]], float]] = field(default_factory=dict)


_MOMENTS = {"exp_avg": "mu", "exp_avg_sq": "nu"}

# By the name of the rule; only what is the same quantity in both. (Not amsgrad: its maximum is of corrected moments in Optax. Not
# NAdam: Optax follows another schedule of momentum.)
COUNTERPARTS = {
    "SGD": Counterpart({"momentum_buffer": "trace"}, count=None),
    "Adam": Counterpart(_MOMENTS),
    "AdamW": Counterpart(_MOMENTS),
    "RAdam": Counterpart(_MOMENTS),
    "Adamax": Counterpart({"exp_avg": "mu", "exp_inf": "nu"}),
    "LAMB": Counterpart(_MOMENTS),
    "Lion": Counterpart({"exp_avg": "mu"}),
    "RMSprop": Counterpart(
        {"square_avg": "nu", "grad_avg": "mu", "momentum_buffer": "trace"},
        count=None,
        # Optax's momentum comes after the learning rate.
        scales={"momentum_buffer": lambda group: -group["lr"]},
    ),
    "Adagrad": Counterpart({"sum": "sum_of_squares"}, count=None),
    "Adadelta": Counterpart({"square_avg": "e_g", "acc_delta": "e_x"}, count=None),
}


def to_optax_state(opt: Optimizer) -> dict[str, Any]:
    """The state by the names of Optax's fields, each in the structure of the parameters.

    Optax's states hold no hyperparameters: pass those to Optax yourself.

    Parameters
    ----------
    opt : Optimizer
        Of a rule that Optax has as well.

    Returns
    -------
    dict
        ``{"count": …, "mu": …, "nu": …}`` for `Adam`; the moments are arrays, lists or dictionaries as the parameters are, and
        for several groups a list with one such entry for each.

    Raises
    ------
    ValueError
        If Optax does not have the rule, or not one of its states.

    Examples
    --------
    >>> import fastloss as fl
    >>> optimizer = fl.Adam({"w": np.zeros(3)}, betas=(0.5, 0.75))
    >>> _ = optimizer.step({"w": np.ones(3)})
    >>> fl.to_optax_state(optimizer)["mu"]
    {'w': array([0.5, 0.5, 0.5])}

    Into a state of Optax::

        state = optax.tree_utils.tree_set(transformation.init(params), **fl.to_optax_state(optimizer))
    """
    who = "to_optax_state"
    check_optimizer(who, opt)
    counterpart = _counterpart(who, opt)
    saved = opt.state_dict()
    tensors = named_groups(opt)
    held = {state: None for states in saved["state"].values() for state in states}
    unknown = [state for state in held if state not in counterpart.fields]
    if unknown:
        raise ValueError(f"{who}: {type(opt).__name__} must have states that Optax has, got {unknown[0]}")
    found: dict[str, Any] = {}
    if counterpart.count:
        found[counterpart.count] = np.array(min(saved["steps"], _MOST_INT32), np.int32)
    for state in held:
        trees = []
        for group, own, named in zip(opt.param_groups, saved["groups"], tensors, strict=True):
            scale = counterpart.scales.get(state, lambda _: 1)(own)
            arrays = [_scaled(saved["state"][name][state], scale) for name, _ in named]
            trees.append(_like(group["params"], arrays))
        found[counterpart.fields[state]] = trees if len(trees) > 1 else trees[0]
    return found


def from_optax_state(opt: Optimizer, optax_state: Any, steps: int | None = None) -> None:
    """Take over the state of an Optax transformation: all of it or, on an error, nothing.

    Fields are found by their names, however deep in chains they lie. Hyperparameters stay as they are. Optax itself is not
    needed: what `to_optax_state` returned does as well.

    Parameters
    ----------
    opt : Optimizer
        Of the same rule, for parameters of the same structure; several groups are a list of parameters for Optax.
    optax_state : tuple or dict
        What Optax's `init` and `update` return.
    steps : int, optional
        For rules of whose steps Optax keeps no count: how many there were; by default 1.

    Raises
    ------
    ValueError, TypeError
        If it does not fit `opt`, or a field is there more than once.

    Examples
    --------
    >>> import fastloss as fl
    >>> optimizer = fl.SGD([np.zeros(2), np.zeros(3)], momentum=0.9)
    >>> fl.from_optax_state(optimizer, {"trace": [np.full(2, 0.5), np.full(3, 0.25)]})
    >>> optimizer.state_dict()["state"]["params[1]"]["momentum_buffer"]
    array([0.25, 0.25, 0.25])
    """
    who = "from_optax_state"
    check_optimizer(who, opt)
    counterpart = _counterpart(who, opt)
    saved = opt.state_dict()
    tensors = named_groups(opt)
    count = counterpart.count or "count"
    found: dict[str, list[Any]] = {name: [] for name in (*counterpart.fields.values(), count)}
    _collect(optax_state, found)
    counts = {check_steps(who, value) for value in found.pop(count)}
    if len(counts) > 1 or (counterpart.count and not counts):
        raise ValueError(f"{who}: {count} must be there, and the same throughout, got {sorted(counts) or 'none'}")
    taken = counts.pop() if counts else 1 if steps is None else check_steps(who, steps)
    state: dict[str, dict[str, np.ndarray]] = {name: {} for named in tensors for name, _ in named}
    for ours, theirs in counterpart.fields.items():
        trees = found[theirs]
        if not trees:
            continue
        if len(trees) > 1:
            raise ValueError(f"{who}: {theirs} must be there once, got {len(trees)} of them")
        if len(tensors) > 1 and (not isinstance(trees[0], list | tuple) or len(trees[0]) != len(tensors)):
            raise ValueError(f"{who}: {theirs} must be a list of {len(tensors)} entries, one for each group")
        by_group = trees[0] if len(tensors) > 1 else trees
        for group, own, named, tree in zip(opt.param_groups, saved["groups"], tensors, by_group, strict=True):
            scale = counterpart.scales.get(ours, lambda _: 1)(own)
            if scale == 0:
                raise ValueError(f"{who}: lr must not be 0 to take over {theirs}, which Optax multiplies by it")
            for (name, _), array in zip(named, match(who, theirs, group["params"], tree), strict=True):
                state[name][ours] = _scaled(np.asarray(array), 1 / scale)
    opt.load_state_dict(saved | {"steps": taken, "state": state})


def _counterpart(who, opt):
    rule = type(opt).__name__
    if rule not in COUNTERPARTS:
        raise ValueError(f"{who}: opt must be one of {', '.join(COUNTERPARTS)}, whose states Optax has too, got {rule}")
    return COUNTERPARTS[rule]


def _scaled(array, scale):
    with np.errstate(all="ignore"):
        return array if scale == 1 else np.asarray(array * array.dtype.type(scale))


def _like(params, arrays):
    """The arrays of one group in its structure."""
    if isinstance(params, Mapping):
        return dict(zip(params, arrays, strict=True))
    return arrays if isinstance(params, list | tuple) else arrays[0]


def _collect(node, found):
    """Into the lists of `found`, what the fields of these names hold; other fields are searched, what was found is not."""
    if hasattr(node, "_fields"):
        node = {name: getattr(node, name) for name in node._fields}
    if isinstance(node, Mapping):
        for name, value in node.items():
            if name in found:
                found[name].append(value)
            else:
                _collect(value, found)
    elif isinstance(node, list | tuple):
        for value in node:
            _collect(value, found)
