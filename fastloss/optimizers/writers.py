"""Optimizers of the rules in `arithmetic`, over the arrays that a training utility rewrites."""

from ..api.backends import CPU

_NAMED: dict = {}


def named(rule, who, what):
    """The rule's class for NumPy arrays, under the names that errors give: whose arrays are written, and what these are called."""
    key = rule, who, what
    if key not in _NAMED:
        _NAMED[key] = type(who, (rule,), {"_what": what, "_backend": CPU, "__doc__": rule.__doc__})
    return _NAMED[key]


def over(rule, who, what, written, **hyperparameters):
    """The rule over an array, a list, a dictionary, or a list of these, one for each group."""
    if isinstance(written, list | tuple) and any(isinstance(each, list | tuple | dict) for each in written):
        written = [{"params": each} for each in written]
    return named(rule, who, what)(written, **hyperparameters)
