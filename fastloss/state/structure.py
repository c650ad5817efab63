"""What saving and exchange ask of an optimizer: its tensors in order, and plain values of what its groups hold."""

import numpy as np

from ..face import Optimizer


def check_optimizer(who, opt):
    if not isinstance(opt, Optimizer):
        raise TypeError(f"{who}: opt must be an optimizer of fastloss, got {type(opt).__name__}")


def check_steps(who, steps):
    """A number of steps as an int, out of whatever holds one."""
    number = np.asarray(steps)
    if number.size != 1 or number.dtype.kind not in "iuf" or not number.item() >= 0 or number.item() != number.item() // 1:
        raise ValueError(f"{who}: steps must be a whole number, not negative, got {steps!r}")
    return int(number.item())


def named_groups(state_dict, opt):
    """For every group, (name, parameter) of its tensors, named as in the state dictionary."""
    names = iter(state_dict["state"])
    return [[(next(names), array) for array in leaves(group["params"])] for group in opt.param_groups]


def leaves(params):
    """The arrays of one group, in order."""
    if isinstance(params, dict):
        return list(params.values())
    return list(params) if isinstance(params, list | tuple) else [params]


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
