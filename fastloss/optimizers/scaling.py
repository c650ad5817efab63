"""The scale of a loss whose gradients are in half precision."""

from typing import Any

from .. import interop
from ..api.optimizer import StepResult
from ..api.parameters import check_keys
from ..formula import Fraction, Interval, Whole

# Between them it and its inverse are normal numbers of float32, in which most gradients are computed.
_SMALLEST, _LARGEST = 2.0**-126, 2.0**126

_STATE = {
    "scale": Interval(_SMALLEST, _LARGEST),
    "growth_factor": Interval(1.0, open_low=True, open_high=True),
    "backoff_factor": Fraction(open_low=True, open_high=True),
    "growth_interval": Whole(1),
    "good_steps": Whole(0),
}


class LossScaler:
    r"""The scale of a loss, as large as its gradients allow: it grows while they are finite and backs off when they are not.

    Multiply the loss, or the gradient that goes into the backward pass, by `scale`, and hand the gradients to `step`. After a step
    that was left out the scale is multiplied by `backoff_factor`, after `growth_interval` good steps in a row by `growth_factor`. It
    stays between 2⁻¹²⁶ and 2¹²⁶, where it and its inverse are normal numbers of float32.

    Parameters
    ----------
    init_scale : float, default 65536.0
        The scale to begin with. From 2⁻¹²⁶ to 2¹²⁶.
    growth_factor : float, default 2.0
        By what it grows. > 1.
    backoff_factor : float, default 0.5
        By what it backs off. In (0, 1).
    growth_interval : int, default 2000
        After how many good steps in a row it grows. A whole number from 1 to 2**53.

    Attributes
    ----------
    scale : float
        What the loss is to be multiplied by.
    good_steps : int
        How many steps in a row were good since the scale changed.

    Raises
    ------
    ValueError, TypeError
        For an argument outside its domain.

    Examples
    --------
    >>> import numpy as np, fastloss as fl
    >>> weights = np.array([1.0], np.float32)
    >>> optimizer, scaler = fl.SGD(weights, lr=0.5), fl.LossScaler(1024.0)
    >>> scaler.step(optimizer, scaler.scale * np.array([1.0], np.float16))
    StepResult(norm=1.0, skipped=False)
    >>> scaler.step(optimizer, np.array([np.inf], np.float16)).skipped
    True
    >>> weights, scaler.scale
    (array([0.5], dtype=float32), 512.0)

    References
    ----------
    .. [1] Micikevicius et al. (2018), Mixed Precision Training, ICLR
    """

    def __init__(
        self,
        init_scale: float = 65536.0,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
    ) -> None:
        who = "LossScaler"
        self.scale: float = _STATE["scale"].check(who, "init_scale", init_scale)
        self.growth_factor: float = _STATE["growth_factor"].check(who, "growth_factor", growth_factor)
        self.backoff_factor: float = _STATE["backoff_factor"].check(who, "backoff_factor", backoff_factor)
        self.growth_interval: int = _STATE["growth_interval"].check(who, "growth_interval", growth_interval)
        self.good_steps = 0

    def step(self, optimizer: Any, grads: Any, **options: Any) -> StepResult:
        """Step an optimizer with the gradients of the scaled loss, leave it out if they are not finite, and adapt the scale.

        Further options go to the optimizer's `step`. A step that raises leaves the scale as it is. Of CUDA arrays it waits for the
        GPU, whose finding decides the next scale.
        """
        result: StepResult = optimizer.step(grads, grad_scale=self.scale, skip_nonfinite=True, **options)
        if interop.number(result.skipped):
            self.scale, self.good_steps = max(self.scale * self.backoff_factor, _SMALLEST), 0
        elif self.good_steps + 1 < self.growth_interval:
            self.good_steps += 1
        else:
            self.scale, self.good_steps = min(self.scale * self.growth_factor, _LARGEST), 0
        return result

    def state_dict(self) -> dict[str, Any]:
        """The state as plain numbers: scale, growth_factor, backoff_factor, growth_interval, good_steps."""
        return {name: getattr(self, name) for name in _STATE}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` returned; all of it or, on an error, nothing."""
        check_keys("LossScaler", "state_dict", state_dict, _STATE)
        vars(self).update({name: domain.check("LossScaler", name, state_dict[name]) for name, domain in _STATE.items()})
