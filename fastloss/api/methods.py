"""What some optimizers can do besides a step: bases that their classes have where the rule's decorator asks for them."""

from functools import cache
from typing import Any

import numpy as np

from ..formula.registry import FORMULAS


class TakesHessian:
    """Of a rule with a state `hessian`: the moving average, at rate `betas[1]`, of estimates that come every few steps."""

    def update_hessian(self: Any, estimates: Any) -> None:
        """Take estimates of the Hessian's diagonal, in the structure of the gradients, into the state `hessian`.

        Raises
        ------
        ValueError, TypeError
            As `step` does, before anything is written.
        """
        with self._turn:
            bound = self._refresh()
            hessians = self._tree.unflatten_groups([held["hessian"] for held in bound.held])
            groups = [{"params": own, "beta": group["betas"][1]} for own, group in zip(hessians, bound.values, strict=True)]
            _mean(f"{type(self).__name__}.update_hessian")(groups).step(estimates if self._tree.is_grouped else [estimates])


class Averages:
    """Of a rule whose parameters y lie between its state z and x, the mean of all z."""

    def evaluation_params(self: Any) -> Any:
        """The mean x of the steps so far, in new arrays in the structure of `params`: what the training is for."""
        with self._turn:
            bound = self._refresh()
            return self._tree.unflatten([self._x(k, bound) for k in range(len(self._tree))])

    def _x(self: Any, k: int, bound: Any) -> Any:
        y, backend = self._tree.arrays[k], self._tree.backend
        if not self.steps:  # z is not there yet
            return backend.copied(y, y.dtype)
        z, group = backend.saved(bound.held[k]["z"]), bound.values[self._tree.groups[k]]
        beta = group["momentum"] if "momentum" in group else group["betas"][0]
        with np.errstate(all="ignore"):
            x = (z + (backend.saved(y).astype(z.dtype) - z) / beta).astype(y.dtype)
        return backend.copied(x, y.dtype, y)


@cache
def _mean(who):
    """The optimizer of the rule that makes the mean, under the name that errors give."""
    from .optimizer import optimizer_class

    return type(who, (optimizer_class(FORMULAS["RunningMean"]),), {})
