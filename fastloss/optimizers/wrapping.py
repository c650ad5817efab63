"""Optimizers that have another one inside."""

from typing import Any, ClassVar

from ..api.backends import CPU
from ..api.optimizer import Optimizer
from ..api.parameters import check_keys
from .writers import named


class Wrapper:
    """An optimizer inside another: its `param_groups` and `steps` are those of the inner one.

    Attributes
    ----------
    optimizer : Optimizer or Wrapper
        The inner one.
    """

    optimizer: Any
    _domains: ClassVar[dict[str, Any]] = {}  # of the attributes that are hyperparameters

    def __init__(self, optimizer: Any, **hyperparameters: Any) -> None:
        if not isinstance(optimizer, Optimizer | Wrapper):
            raise TypeError(f"{type(self).__name__}: optimizer must be an optimizer, got {type(optimizer).__name__}")
        self.optimizer = optimizer
        if self._innermost._tree.backend is not CPU:
            raise TypeError(f"{type(self).__name__}: optimizer must be one of NumPy arrays, got one of CUDA arrays")
        self._writer: Any = None  # made on use, and anew for a copy
        vars(self).update(self._checked(hyperparameters))

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """For each group its ``"params"`` and hyperparameters."""
        groups: list[dict[str, Any]] = self.optimizer.param_groups
        return groups

    @property
    def steps(self) -> int:
        """How many steps were taken."""
        steps: int = self.optimizer.steps
        return steps

    def state_dict(self) -> dict[str, Any]:
        """The state as plain arrays and numbers, copied: rule, own hyperparameters and state, and the inner optimizer's."""
        own = {name: getattr(self, name) for name in self._domains}
        return {"rule": type(self).__name__, **own, **self._state(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` returned, for parameters of the same names and shapes; all of it or, on an error, nothing."""
        who = type(self).__name__
        check_keys(who, "state_dict", state_dict, ["rule", *self._domains, *self._state(), "optimizer"])
        if state_dict["rule"] != who:
            raise ValueError(f"{who}: state_dict must be of rule {who!r}, got {state_dict['rule']!r}")
        own = self._checked(state_dict) | self._checked_state(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])
        vars(self).update(own)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_writer": None}

    def __repr__(self) -> str:
        own = "".join(f", {name}={getattr(self, name)!r}" for name in self._domains)
        return f"{type(self).__name__}({self.optimizer!r}{own})"

    def _checked(self, values):
        return {name: domain.check(type(self).__name__, name, values[name]) for name, domain in self._domains.items()}

    def _state(self):
        """What it has to save beside its hyperparameters."""
        return {}

    def _checked_state(self, state_dict):
        """The attributes that saved state stands for, or an error."""
        return {}

    @property
    def _innermost(self):
        return self.optimizer._innermost if isinstance(self.optimizer, Wrapper) else self.optimizer

    def _over_parameters(self, rule):
        """A rule that writes the parameters, and takes others in the structure that gradients have."""
        tree = self._innermost._tree
        params = [{"params": structure} for structure in tree.structures]
        return named(rule, type(self).__name__, "params")(params if tree.is_grouped else tree.structures[0])
