"""Averages of parameters over the steps of a training."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .._kernels import arrays
from .._kernels.cpu import atomic
from .._kernels.cpu.engine import StepOptions
from ..api.backends import CPU
from ..api.parameters import check_keys, holds_groups
from ..formula import Fraction, Optional, Whole
from .arithmetic import Blend
from .writers import named, over

_DECAY = Optional(Fraction(open_high=True))


class WeightAverage:
    r"""Averages of parameters: with `decay` the exponential moving average, without one the average in which all updates weigh the same.

    .. math:: a \leftarrow d\, a + (1 - d)\, w \qquad\text{or}\qquad a \leftarrow a + \frac{w - a}{n + 1}

    where n counts the updates before. The first update takes the parameters as they are. Averages are kept in float64 for
    parameters of float64, else in float32. (`ema_decay` of an optimizer averages while it steps, from the first parameters on.)

    Parameters
    ----------
    params : numpy.ndarray, list, dict, or list of groups
        The parameters, as an optimizer takes them.
    decay : float, optional
        d, the part of the average that an update keeps. None or in [0, 1).

    Attributes
    ----------
    averages : numpy.ndarray, list, dict, or list of these
        The averages in the structure of `params`; before the first update the parameters of the beginning.
    updates : int
        How many updates there were.
    decay : float or None
        May be changed between updates.

    Raises
    ------
    ValueError, TypeError
        For arrays that cannot be parameters, or a `decay` outside its domain.

    Examples
    --------
    >>> import numpy as np, fastloss as fl
    >>> weights = np.array([1.0, 2.0])
    >>> average = fl.WeightAverage(weights)
    >>> for weights[0] in (1.0, 4.0):
    ...     average.update()
    >>> average.averages
    array([2.5, 2. ])
    >>> with average.swap():
    ...     print(weights)
    [2.5 2. ]
    >>> weights
    array([4., 2.])

    References
    ----------
    .. [1] Izmailov, Podoprikhin, Garipov, Vetrov & Wilson (2018), Averaging Weights Leads to Wider Optima and Better Generalization,
       UAI; exponential: Polyak & Juditsky (1992), SIAM J. Control Optim. 30, 838, with weights that fade
    """

    def __init__(self, params: Any, decay: float | None = None) -> None:
        who = "WeightAverage"
        self.decay: float | None = _DECAY.check(who, "decay", decay)
        self.updates = 0
        own = over(Blend, who, "params", [group["params"] for group in params] if holds_groups(params) else params)
        self._names, self._params = own._tree.names, own._tree.arrays
        self._averages = [CPU.wide(param) for param in self._params]
        self.averages: Any = own._tree.unflatten(self._averages)
        self._held: Any = None  # the parameters while the averages are in their place
        self._writer: Any = None

    def update(self) -> None:
        """Take the parameters into the averages.

        Raises
        ------
        RuntimeError
            Within `swap`.
        ValueError, TypeError
            For a `decay` outside its domain.
        """
        if self._held is not None:
            raise RuntimeError("WeightAverage: update must be called when the parameters are back, got one within swap")
        decay = _DECAY.check("WeightAverage", "decay", self.decay)
        if self.updates == 0:
            CPU.assign(self._averages, self._params, [(self, "updates", 1)])
        else:
            self._writer = self._writer or named(Blend, "WeightAverage", "averages")(self._averages)
            self._writer.param_groups[0]["weight"] = 1 / (self.updates + 1) if decay is None else 1 - decay
            self._writer._take(self._params, StepOptions((self, "updates", self.updates + 1)))

    @contextmanager
    def swap(self) -> Iterator[None]:
        """The averages, rounded to the parameters' dtypes, in the parameters' place; in the end the parameters are back bit for bit.

        What is written into the parameters meanwhile is lost.

        Raises
        ------
        RuntimeError
            Within another `swap`.
        """
        if self._held is not None:
            raise RuntimeError("WeightAverage: swap must be called when the parameters are back, got one within another")
        held = [param.copy() for param in self._params]
        try:
            CPU.assign(self._params, self._averages, [(self, "_held", held)])
            yield
        finally:
            atomic.assign(self._params, held, [(self, "_held", None)])

    def state_dict(self) -> dict[str, Any]:
        """The state as plain arrays and numbers, copied: decay, updates, averages by name."""
        averages = {name: average.copy() for name, average in zip(self._names, self._averages, strict=True)}
        return {"decay": self.decay, "updates": self.updates, "averages": averages}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` returned, for parameters of the same names and shapes; all of it or, on an error, nothing."""
        who = "WeightAverage"
        check_keys(who, "state_dict", state_dict, ["decay", "updates", "averages"])
        decay = _DECAY.check(who, "decay", state_dict["decay"])
        updates = Whole().check(who, "updates", state_dict["updates"])
        averages = check_arrays(who, "averages", self._names, self._averages, state_dict["averages"])
        CPU.assign(self._averages, averages, [(self, "decay", decay), (self, "updates", updates)])

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_writer": None}


def check_arrays(who, what, names, like, given):
    """Saved arrays, by name, as the ones that they are to replace, or an error."""
    check_keys(who, what, given, names)
    for name, own in zip(names, like, strict=True):
        array = given[name]
        if not hasattr(array, "dtype") or array.shape != own.shape or not arrays.is_floating(array.dtype):
            got = f"{array.dtype} {array.shape}" if hasattr(array, "dtype") else type(array).__name__
            raise ValueError(f"{who}: {what} of {name} must be a floating array of shape {own.shape}, got {got}")
    return [CPU.copied(given[name], own.dtype) for name, own in zip(names, like, strict=True)]
