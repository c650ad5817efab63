"""Weights that follow an optimizer slowly."""

from typing import Any, ClassVar

from ..api.backends import CPU
from ..api.optimizer import StepResult
from ..formula import Fraction, Whole
from .arithmetic import Blend
from .averaging import check_arrays
from .wrapping import Wrapper
from .writers import named


class Lookahead(Wrapper):
    r"""k steps forward, one step back: every `k` steps slow weights go a part of the way to the parameters, which start anew there.

    .. math:: \phi \leftarrow \phi + \alpha (w - \phi) \qquad w \leftarrow \phi

    The slow weights begin as the parameters are. They are kept in float64 for parameters of float64, else in float32. The state of
    the optimizer inside goes on as it is. A step that is left out does not count.

    Parameters
    ----------
    optimizer : Optimizer
        What takes the steps.
    k : int, default 5
        How many steps go before the slow weights follow. A whole number from 1 to 2**53.
    alpha : float, default 0.5
        The part of the way that they go. In (0, 1].

    Attributes
    ----------
    since : int
        How many steps were taken since the slow weights followed.

    Raises
    ------
    ValueError, TypeError
        For an argument outside its domain.

    Examples
    --------
    >>> import numpy as np, fastloss as fl
    >>> weights = np.array([1.0, 2.0])
    >>> optimizer = fl.Lookahead(fl.SGD(weights, lr=0.25), k=2, alpha=0.5)
    >>> for _ in range(2):
    ...     result = optimizer.step(np.array([2.0, 0.0]))
    >>> weights  # half way back from [0, 2]
    array([0.5, 2. ])

    References
    ----------
    .. [1] Zhang, Lucas, Hinton & Ba (2019), Lookahead Optimizer: k steps forward, 1 step back, NeurIPS
    """

    k: int
    alpha: float
    _domains: ClassVar[dict[str, Any]] = {"k": Whole(1), "alpha": Fraction(0.5, open_low=True)}

    def __init__(self, optimizer: Any, k: int = 5, alpha: float = 0.5) -> None:
        super().__init__(optimizer, k=k, alpha=alpha)
        self.since = 0
        self._slow = [CPU.wide(param) for param in self._innermost._tree.arrays]

    def step(self, grads: Any, **options: Any) -> StepResult:
        """Step the optimizer, and after every `k` steps let the slow weights follow.

        The options are those of the optimizer's `step`, and so are result and errors.
        """
        vars(self).update(self._checked(vars(self)))
        result: StepResult = self.optimizer.step(grads, **options)
        if not result.skipped:
            self.since += 1
            if self.since >= self.k:
                self._follow()
        return result

    def _follow(self):
        """All that changes is made in copies, and put in its place as one act."""
        inner = self._innermost
        slow = [values.copy() for values in self._slow]
        writer = named(Blend, "Lookahead", "slow weights")(slow, weight=self.alpha)
        writer.step(inner._store.exact(inner._bound.held))
        inner._store.write_exact(inner._bound.held, slow, [(self, "_slow", slow), (self, "since", 0)])

    def _state(self):
        slow = {name: slow.copy() for name, slow in zip(self._innermost._tree.names, self._slow, strict=True)}
        return {"since": self.since, "slow": slow}

    def _checked_state(self, state_dict):
        return {
            "since": Whole().check("Lookahead", "since", state_dict["since"]),
            "_slow": check_arrays("Lookahead", "slow", self._innermost._tree.names, self._slow, state_dict["slow"]),
        }
