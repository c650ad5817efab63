"""What some optimizers can do beside a step: bases that their classes have besides, where the rule's decorator asks for them."""

from functools import cache
from typing import Any

import numpy as np

from ..formula.registry import FORMULAS


class TakesHessian:
    """Of a rule with a state `hessian`: the fading mean, at rate `betas[1]`, of estimates that come every few steps."""

    def update_hessian(self: Any, estimates: Any) -> None:
        """Take estimates of the Hessian's diagonal, in the structure of the gradients, into the state `hessian`.

        Raises
        ------
        ValueError, TypeError
            As `step` does, before anything is written.
        """
        with self._lock:
            self._check_groups()
            hessians = self._structured([held["hessian"] for held in self._states])
            hessians = hessians if self._is_grouped else [hessians]
            groups = [{"params": own, "beta": group["betas"][1]} for own, group in zip(hessians, self._values, strict=True)]
            _mean(f"{type(self).__name__}.update_hessian")(groups).step(estimates if self._is_grouped else [estimates])


class Averages:
    """Of a rule whose parameters y lie between its state z and x, the mean of all z."""

    def evaluation_params(self: Any) -> Any:
        """The mean x of the steps so far, in new arrays in the structure of `params`: what the training is for."""
        with self._lock:
            self._check_groups()
            return self._structured([self._x(k) for k in range(len(self._tensors))])

    def _x(self: Any, k: int) -> Any:
        index, _, y = self._tensors[k]
        if not self.steps:  # z is not there yet
            return self._engine.copied(y, y.dtype)
        z, group = self._engine.saved(self._states[k]["z"]), self._values[index]
        beta = group["momentum"] if "momentum" in group else group["betas"][0]
        with np.errstate(all="ignore"):
            x = (z + (self._engine.saved(y).astype(z.dtype) - z) / beta).astype(y.dtype)
        return self._engine.copied(x, y.dtype, y)


@cache
def _mean(who):
    """The optimizer of the rule that makes the mean, under the name that errors give."""
    from .optimizer import optimizer_class

    return type(who, (optimizer_class(FORMULAS["RunningMean"]),), {})
