"""What saving and exchange ask of an optimizer and of what stands around one: tensors in order, state dictionaries in parts."""

import numpy as np

from ..api import Optimizer
from ..optimizers import LossScaler, WeightAverage
from ..optimizers.wrapping import Wrapper
from .tensors import FormatError

# What state dictionaries hold by tensor beside the states of an optimizer: one array for each.
_BESIDE = ("slow", "averages")
_INNER = "optimizer."  # before the names of what an optimizer inside another holds


def check_optimizer(who, opt):
    if not isinstance(opt, Optimizer):
        raise TypeError(f"{who}: opt must be an optimizer of fastloss, got {type(opt).__name__}")


def check_saveable(who, opt):
    if not isinstance(opt, Optimizer | Wrapper | WeightAverage | LossScaler):
        raise TypeError(
            f"{who}: opt must be an optimizer of fastloss, a WeightAverage or a LossScaler, got {type(opt).__name__}"
        )


def kind(state_dict):
    """What a state dictionary with a rule is of, such as `SAM(Adam)`."""
    rules = []
    while isinstance(state_dict, dict):
        rules.append(str(state_dict.get("rule")))
        state_dict = state_dict.get("optimizer")
    return "(".join(rules) + ")" * (len(rules) - 1)


def like_of(opt, state_dict):
    """{name: array} of the parameters, or averages, that the arrays in a state dictionary belong to."""
    while "optimizer" in state_dict:
        opt, state_dict = opt.optimizer, state_dict["optimizer"]
    if isinstance(opt, Optimizer):
        return dict(zip(state_dict["state"], opt._tree.arrays, strict=True))
    return state_dict.get("averages", {})


def apart(state_dict):
    """A state dictionary's plain values, and its arrays by tensor and name."""
    plain_values = {key: value for key, value in state_dict.items() if key not in ("state", *_BESIDE)}
    arrays = {name: dict(states) for name, states in state_dict.get("state", {}).items()}
    for place in _BESIDE:
        for name, array in state_dict.get(place, {}).items():
            arrays.setdefault(name, {})[place] = array
    if "optimizer" in state_dict:
        plain_values["optimizer"], inner = apart(state_dict["optimizer"])
        for name, states in inner.items():
            arrays.setdefault(name, {}).update({_INNER + state: array for state, array in states.items()})
    return plain_values, arrays


def together(plain_values, arrays, like):
    """The state dictionary that `apart` took apart, of the kind of `like`."""
    state_dict = dict(plain_values)
    if "state" in like:
        return state_dict | {"state": arrays}
    beside = [place for place in _BESIDE if place in like]
    for name, states in arrays.items():
        for state in states:
            if state not in beside and not ("optimizer" in like and state.startswith(_INNER)):
                raise FormatError(f"an unknown state {state:.200} of {name:.200}")
    if "optimizer" in like:
        inner = {
            name: {state.removeprefix(_INNER): array for state, array in states.items() if state.startswith(_INNER)}
            for name, states in arrays.items()
        }
        state_dict["optimizer"] = together(plain_values["optimizer"], inner, like["optimizer"])
    for place in beside:
        state_dict[place] = {name: states[place] for name, states in arrays.items() if place in states}
    return state_dict


def check_steps(who, steps):
    """A number of steps as an int, out of whatever holds one."""
    number = np.asarray(steps)
    if number.size != 1 or number.dtype.kind not in "iuf" or not number.item() >= 0 or number.item() != number.item() // 1:
        raise ValueError(f"{who}: steps must be a whole number, not negative, got {steps!r}")
    return int(number.item())


def named_groups(opt):
    """For every group, (name, parameter) of its arrays, named as in the state dictionary."""
    return opt._tree.named_groups()


def plain(who, name, value):
    """The value in Python's own types, as JSON has them: NumPy's scalars and tuples are there no more."""
    if isinstance(value, dict):
        wrong = [key for key in value if not isinstance(key, str)]
        if wrong:
            raise TypeError(f"{who}: {name} must have names that are texts, got {wrong[0]!r}")
        return {key: plain(who, f"{name}[{key!r}]", held) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [plain(who, f"{name}[{k}]", held) for k, held in enumerate(value)]
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        raise ValueError(f"{who}: {name} must be finite, got {value!r}")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"{who}: {name} must be a number, a text, None, or a list or dictionary of them, got {type(value).__name__}"
    )
