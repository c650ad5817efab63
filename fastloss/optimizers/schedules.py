"""Schedules: how a hyperparameter, most often `lr`, changes from step to step.

A schedule is a small object that is called with the number of a step and gives a Python float. Steps count from 0: the first one
has `schedule(0)`. Every value comes straight from its formula, so step 10⁹ costs what step 0 does. Schedules compare equal by
what they were made of, cannot be changed, and may be pickled and copied; `ReduceOnPlateau` alone has a state. Any other function
of the step will do where a schedule is asked for.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields
from itertools import pairwise
from typing import Annotated, Any, NoReturn, SupportsIndex, dataclass_transform

from ..formula import Flag, Fraction, Interval, NonNegative, Optional, Positive, Real, Whole

__all__ = [
    "ReduceOnPlateau",
    "constant",
    "cosine",
    "exponential",
    "inverse_sqrt",
    "linear",
    "multi_step",
    "one_cycle",
    "polynomial",
    "sequential",
    "step_decay",
    "warm_restarts",
    "warmup",
    "warmup_stable_decay",
]


# --- what arguments may be ------------------------------------------------------------------------------------------------


class _OneOf:
    """One of a few words."""

    def __init__(self, *words):
        self.words = words

    def __str__(self):
        return " or ".join(map(repr, self.words))

    def check(self, who, name, value):
        if not isinstance(value, str) or value not in self.words:
            raise ValueError(f"{who}: {name} must be {self}, got {value!r}")
        return value


class _Function:
    """A schedule, or any function like it."""

    def __str__(self):
        return "a function of the step"

    def check(self, who, name, value):
        if not callable(value):
            raise TypeError(f"{who}: {name} must be {self}, got {value!r}")
        return value


class _Several:
    """A list of things of one domain, kept as a tuple."""

    def __init__(self, domain, what):
        self.domain, self.what = domain, what

    def __str__(self):
        return f"a list of {self.what}"

    def check(self, who, name, value):
        if not isinstance(value, tuple | list):
            raise TypeError(f"{who}: {name} must be {self}, got {value!r}")
        return tuple(self.domain.check(who, f"{name}[{k}]", each) for k, each in enumerate(value))


class _Rising(_Several):
    """Steps that do not fall."""

    def check(self, who, name, value):
        steps = super().check(who, name, value)
        if any(later < sooner for sooner, later in pairwise(steps)):
            raise ValueError(f"{who}: {name} must be {self}, got {value!r}")
        return steps


class _Metric(Interval):
    """Any number, NaN too, which a diverged training may report."""

    def contains(self, value):
        return True


_Number = Annotated[float, Real()]
_Unsigned = Annotated[float, NonNegative()]
_Scale = Annotated[float, Positive()]
_Steps = Annotated[int, Whole(1)]
_Phase = Annotated[int, Whole(0)]
_Schedule = Annotated[Callable[[int], float], _Function()]
_Milestones = Annotated[Sequence[int], _Rising(Whole(0), "whole numbers from 0 to 2**53 that do not fall")]

_STEP = Whole(0)


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
class Schedule:
    """What all schedules share: their arguments lie in the domains that their annotations name, and a call gives a number."""

    def __init_subclass__(cls):
        # `__init__` alone: frozen dataclasses, which have more to generate, made the import 5 ms longer.
        dataclass(eq=False, repr=False)(cls)
        cls._domains = {each.name: each.type.__metadata__[0] for each in fields(cls) if each.init}

    def __post_init__(self):
        for name, domain in self._domains.items():
            vars(self)[name] = domain.check(type(self).__name__, name, getattr(self, name))

    def __call__(self, step: SupportsIndex) -> float:
        """The number for a step: a whole number from 0 to 2**53, of Python or NumPy."""
        return self._at(_STEP.check(type(self).__name__, "step", step))

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), *vars(self).values()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"

    def __setattr__(self, name: str, value: Any) -> None:
        if name in vars(self) or name not in self._domains:  # `__init__` gives each argument its first value
            self._refuse(name)
        vars(self)[name] = value

    def __delattr__(self, name: str) -> NoReturn:
        self._refuse(name)

    def _refuse(self, name) -> NoReturn:
        raise AttributeError(f"{type(self).__name__}: {name} must stay what it is, make another schedule")

    def _at(self, step):
        raise NotImplementedError


# --- one formula ----------------------------------------------------------------------------------------------------------


def _between(first, last, weight):
    """`first` at weight 1, `last` at weight 0, both to the bit, and no number outside of them."""
    if weight > 0.5:
        return first + (last - first) * (1 - weight)
    return last + (first - last) * weight


# The weight that the first number still has when a part t of the way is done.
_ANNEAL = {
    "linear": lambda t: 1 - t,
    "cosine": lambda t: (1 + math.cos(math.pi * t)) / 2,
    "sqrt": lambda t: 1 - math.sqrt(t),
}


def _geometric(init, gamma, power):
    try:
        return init * gamma**power
    except OverflowError:
        return math.copysign(math.inf, init) if init else init


class constant(Schedule):
    r"""The same number at every step.

    .. math:: \eta_t = \mathit{value}

    Parameters
    ----------
    value : float
        A finite real number.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.schedules.constant(0.1)(1000)
    0.1
    """

    value: _Number

    def _at(self, step):
        return self.value


class linear(Schedule):
    r"""A straight line from `init` to `final`, up or down.

    .. math:: \eta_t = \mathit{init} + (\mathit{final} - \mathit{init}) \min(t / \mathit{steps}, 1)

    Parameters
    ----------
    init : float
        The number of step 0. A finite real number.
    steps : int
        The step that first has `final`. A whole number from 1 to 2**53.
    final : float, default 0.0
        The number of step `steps` and all later ones. A finite real number.

    Examples
    --------
    >>> import fastloss as fl
    >>> schedule = fl.schedules.linear(1.0, steps=4, final=0.5)
    >>> [schedule(step) for step in range(6)]
    [1.0, 0.875, 0.75, 0.625, 0.5, 0.5]

    References
    ----------
    .. [1] Devlin, Chang, Lee & Toutanova (2019), BERT: Pre-training of Deep Bidirectional Transformers, NAACL
    """

    init: _Number
    _: KW_ONLY
    steps: _Steps
    final: _Number = 0.0

    def _at(self, step):
        return _between(self.init, self.final, _ANNEAL["linear"](min(step, self.steps) / self.steps))


class cosine(Schedule):
    r"""Half a wave of a cosine from `init` to `final`, where it stays (PyTorch's rises again).

    .. math:: \eta_t = \mathit{final} + \tfrac12 (\mathit{init} - \mathit{final}) (1 + \cos(\pi \min(t / \mathit{steps}, 1)))

    Parameters
    ----------
    init : float
        The number of step 0. A finite real number.
    steps : int
        The step that first has `final`. A whole number from 1 to 2**53.
    final : float, default 0.0
        The number of step `steps` and all later ones. A finite real number.

    Examples
    --------
    >>> import fastloss as fl
    >>> schedule = fl.schedules.cosine(1e-3, steps=1000)
    >>> schedule(0), schedule(500), schedule(1000)
    (0.001, 0.0005, 0.0)

    References
    ----------
    .. [1] Loshchilov & Hutter (2017), SGDR: Stochastic Gradient Descent with Warm Restarts, ICLR
    """

    init: _Number
    _: KW_ONLY
    steps: _Steps
    final: _Number = 0.0

    def _at(self, step):
        return _between(self.init, self.final, _ANNEAL["cosine"](min(step, self.steps) / self.steps))


class polynomial(Schedule):
    r"""A power of the steps that are left, from `init` to `final`.

    .. math:: \eta_t = \mathit{final} + (\mathit{init} - \mathit{final}) (1 - \min(t / \mathit{steps}, 1))^{\mathit{power}}

    Parameters
    ----------
    init : float
        The number of step 0. A finite real number.
    steps : int
        The step that first has `final`. A whole number from 1 to 2**53.
    power : float, default 1.0
        1 is a straight line, more falls faster at first. > 0.
    final : float, default 0.0
        The number of step `steps` and all later ones. A finite real number.

    Examples
    --------
    >>> import fastloss as fl
    >>> schedule = fl.schedules.polynomial(1.0, steps=4, power=2.0)
    >>> [schedule(step) for step in range(6)]
    [1.0, 0.5625, 0.25, 0.0625, 0.0, 0.0]

    References
    ----------
    .. [1] Chen, Papandreou, Kokkinos, Murphy & Yuille (2018), DeepLab: Semantic Image Segmentation, IEEE TPAMI 40, 834
    """

    init: _Number
    _: KW_ONLY
    steps: _Steps
    power: _Scale = 1.0
    final: _Number = 0.0

    def _at(self, step):
        return _between(self.init, self.final, (1 - min(step, self.steps) / self.steps) ** self.power)


class exponential(Schedule):
    r"""A factor of `gamma` every `steps` steps, smoothly.

    .. math:: \eta_t = \mathit{init} \cdot \gamma^{t / \mathit{steps}}

    Parameters
    ----------
    init : float
        The number of step 0. >= 0.
    gamma : float
        Below 1 the numbers fall, above 1 they grow. > 0.
    steps : int, default 1
        In how many steps the whole factor comes about. A whole number from 1 to 2**53.
    final : float, optional
        Where the fall or the growth ends; without it never. None or >= 0.

    Examples
    --------
    >>> import fastloss as fl
    >>> schedule = fl.schedules.exponential(1.0, gamma=0.25, steps=2, final=0.1)
    >>> [schedule(step) for step in range(5)]
    [1.0, 0.5, 0.25, 0.125, 0.1]

    References
    ----------
    .. [1] Szegedy, Vanhoucke, Ioffe, Shlens & Wojna (2016), Rethinking the Inception Architecture for Computer Vision, CVPR
    """

    init: _Unsigned
    _: KW_ONLY
    gamma: _Scale
    steps: _Steps = 1
    final: Annotated[float | None, Optional(NonNegative())] = None

    def _at(self, step):
        value = _geometric(self.init, self.gamma, step / self.steps)
        if self.final is None:
            return value
        return max(value, self.final) if self.gamma < 1 else min(value, self.final)


class step_decay(Schedule):
    r"""A factor of `gamma` every `step_size` steps, at once.

    .. math:: \eta_t = \mathit{init} \cdot \gamma^{\lfloor t / \mathit{step\_size} \rfloor}

    Parameters
    ----------
    init : float
        The number of the first `step_size` steps. A finite real number.
    step_size : int
        How long each number stays. A whole number from 1 to 2**53.
    gamma : float, default 0.1
        The next number as a part of the one before. > 0.

    Examples
    --------
    >>> import fastloss as fl
    >>> schedule = fl.schedules.step_decay(1.0, step_size=2, gamma=0.5)
    >>> [schedule(step) for step in range(6)]
    [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]

    References
    ----------
    .. [1] Ge, Kakade, Kidambi & Netrapalli (2019), The Step Decay Schedule, NeurIPS
    """

    init: _Number
    _: KW_ONLY
    step_size: _Steps
    gamma: _Scale = 0.1

    def _at(self, step):
        return _geometric(self.init, self.gamma, step // self.step_size)


class multi_step(Schedule):
    r"""A factor of `gamma` at each of some steps.

    .. math:: \eta_t = \mathit{init} \cdot \gamma^{\#\{m \in \mathit{milestones} : m \le t\}}

    Parameters
    ----------
    init : float
        The number before the first milestone. A finite real number.
    milestones : list of int
        The steps from which one more factor holds. A list of whole numbers from 0 to 2**53 that do not fall.
    gamma : float, default 0.1
        The next number as a part of the one before. > 0.

    Examples
    --------
    >>> import fastloss as fl
    >>> schedule = fl.schedules.multi_step(1.0, milestones=[2, 3], gamma=0.5)
    >>> [schedule(step) for step in range(5)]
    [1.0, 1.0, 0.5, 0.25, 0.25]

    References
    ----------
    .. [1] He, Zhang, Ren & Sun (2016), Deep Residual Learning for Image Recognition, CVPR
    """

    init: _Number
    _: KW_ONLY
    milestones: _Milestones
    gamma: _Scale = 0.1

    def _at(self, step):
        return _geometric(self.init, self.gamma, bisect_right(self.milestones, step))


# --- several phases -------------------------------------------------------------------------------------------------------


class inverse_sqrt(Schedule):
    r"""A straight line up to `peak`, then down with the square root of the step: the schedule of the Transformer, and T5's.

    .. math::
        \eta_t = \begin{cases}
        \mathit{start} + (\mathit{peak} - \mathit{start})\, n / \mathit{warmup} & n \le \mathit{warmup} \\
        \mathit{peak} \sqrt{\mathit{warmup} / n} & \text{else}
        \end{cases} \qquad n = t + 1

    The papers count steps from 1, which is why the first one moves even from a `start` of 0. For the Transformer's
    ``d_model ** -0.5 * min(n ** -0.5, n * warmup ** -1.5)`` the `peak` is ``(d_model * warmup) ** -0.5``, for T5's
    ``1 / sqrt(max(n, warmup))`` both `peak` and `start` are ``warmup ** -0.5``.

    Parameters
    ----------
    peak : float
        The number at the end of the warmup. A finite real number.
    warmup : int
        How many steps rise. A whole number from 1 to 2**53.
    start : float, default 0.0
        What the line rises from, one step before the first. A finite real number.

    Examples
    --------
    >>> import fastloss as fl
    >>> schedule = fl.schedules.inverse_sqrt(1.0, warmup=4)
    >>> [schedule(step) for step in (0, 1, 2, 3, 15)]
    [0.25, 0.5, 0.75, 1.0, 0.5]

    References
    ----------
    .. [1] Vaswani et al. (2017), Attention Is All You Need, NeurIPS
    .. [2] Raffel et al. (2020), Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer, JMLR 21, 140
    """

    peak: _Number
    _: KW_ONLY
    warmup: _Steps
    start: _Number = 0.0

    def _at(self, step):
        count = step + 1
        if count <= self.warmup:
            return _between(self.start, self.peak, _ANNEAL["linear"](count / self.warmup))
        return self.peak * math.sqrt(self.warmup / count)


class one_cycle(Schedule):
    r"""Smith's one cycle: up to `peak`, down again and far below where it began.

    .. math::
        \frac{\mathit{peak}}{\mathit{div\_factor}} \nearrow \mathit{peak} \searrow
        \frac{\mathit{peak}}{\mathit{div\_factor} \cdot \mathit{final\_div\_factor}}

    The peak is at step ``pct_start * steps - 1``, the end at step ``steps - 1``, as in PyTorch, whose defaults these are; the
    paper has three phases and straight lines. Later steps stay at the end.

    Parameters
    ----------
    peak : float
        The largest number. A finite real number.
    steps : int
        The length of the cycle. A whole number from 1 to 2**53.
    pct_start : float, default 0.3
        The part of the cycle that rises. In [0, 1]; not above 0.5 in three phases.
    anneal : str, default 'cosine'
        The shape of each phase. 'cosine' or 'linear'.
    div_factor : float, default 25.0
        The cycle begins at ``peak / div_factor``. > 0.
    final_div_factor : float, default 10000.0
        It ends at ``peak / div_factor / final_div_factor``. > 0.
    three_phase : bool, default False
        Whether it falls as long as it has risen, to where it began, and to its end after that. True or False.

    Examples
    --------
    >>> import fastloss as fl
    >>> schedule = fl.schedules.one_cycle(1.0, steps=10, pct_start=0.5, anneal="linear", div_factor=5.0, final_div_factor=10.0)
    >>> [round(schedule(step), 3) for step in (0, 2, 4, 9, 10)]
    [0.2, 0.6, 1.0, 0.02, 0.02]

    References
    ----------
    .. [1] Smith & Topin (2019), Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates, SPIE 11006
    """

    peak: _Number
    _: KW_ONLY
    steps: _Steps
    pct_start: Annotated[float, Fraction()] = 0.3
    anneal: Annotated[str, _OneOf("cosine", "linear")] = "cosine"
    div_factor: _Scale = 25.0
    final_div_factor: _Scale = 1e4
    three_phase: Annotated[bool, Flag(False)] = False

    def __post_init__(self):
        super().__post_init__()
        if self.three_phase and self.pct_start > 0.5:
            raise ValueError(f"one_cycle: pct_start must be in [0, 0.5] in three phases, got {self.pct_start:g}")

    def _at(self, step):
        low = self.peak / self.div_factor
        final = low / self.final_div_factor
        top, end = self.pct_start * self.steps - 1, self.steps - 1
        step = min(step, end)
        # In a short cycle the first phases end before step 0, as PyTorch's do: no step sees them.
        phases = [(0, top, low, self.peak), (top, end, self.peak, final)]
        if self.three_phase:
            phases[1:] = [(top, 2 * top, self.peak, low), (2 * top, end, low, final)]
        begin, end, first, last = next(phase for phase in phases if step <= phase[1])
        done = (step - begin) / (end - begin) if begin != end else 1.0
        return _between(first, last, _ANNEAL[self.anneal](done))


class warm_restarts(Schedule):
    r"""SGDR: cosines from `init` to `eta_min`, one after the other, each `t_mult` times as long as the one before.

    .. math::
        \eta_t = \mathit{eta\_min} + \tfrac12 (\mathit{init} - \mathit{eta\_min}) (1 + \cos(\pi T_{cur} / T_i)),
        \qquad T_i = \mathit{t\_0} \cdot \mathit{t\_mult}^i

    The restarts never end.

    Parameters
    ----------
    init : float
        The number of step 0 and of each restart. A finite real number.
    t_0 : int
        The length of the first cosine. A whole number from 1 to 2**53.
    t_mult : int, default 1
        How much longer each next one is. A whole number from 1 to 2**53.
    eta_min : float, default 0.0
        What each cosine falls to; the restart comes before it is there. A finite real number.

    Examples
    --------
    >>> import fastloss as fl
    >>> schedule = fl.schedules.warm_restarts(1.0, t_0=2, t_mult=2)
    >>> [round(schedule(step), 3) for step in range(7)]
    [1.0, 0.5, 1.0, 0.854, 0.5, 0.146, 1.0]

    References
    ----------
    .. [1] Loshchilov & Hutter (2017), SGDR: Stochastic Gradient Descent with Warm Restarts, ICLR
    """

    init: _Number
    _: KW_ONLY
    t_0: _Steps
    t_mult: _Steps = 1
    eta_min: _Number = 0.0

    def _at(self, step):
        length, done = self.t_0, step % self.t_0
        if self.t_mult > 1:
            # Cycle i starts at t_0 (t_mult^i - 1) / (t_mult - 1). The logarithm may be off by one next to a restart.
            reached = step * (self.t_mult - 1) // self.t_0 + 1
            i = int(math.log(reached, self.t_mult))
            i += (self.t_mult ** (i + 1) <= reached) - (self.t_mult**i > reached)
            length = self.t_0 * self.t_mult**i
            done = step - (length - self.t_0) // (self.t_mult - 1)
        return _between(self.init, self.eta_min, _ANNEAL["cosine"](done / length))


class warmup_stable_decay(Schedule):
    r"""A straight line up to `peak`, a long time there, and a short fall to `final`.

    .. math::
        \eta_t = \begin{cases}
        \mathit{start} + (\mathit{peak} - \mathit{start})\, t / \mathit{warmup} & t < \mathit{warmup} \\
        \mathit{peak} & t < \mathit{warmup} + \mathit{stable} \\
        \mathit{final} + (\mathit{peak} - \mathit{final})\, w(\min((t - \mathit{warmup} - \mathit{stable}) / \mathit{decay}, 1))
        & \text{else}
        \end{cases}

    with :math:`w(x) = 1 - x` (linear), :math:`(1 + \cos \pi x) / 2` (cosine) or :math:`1 - \sqrt x` (sqrt).

    Parameters
    ----------
    peak : float
        The number between warmup and decay. A finite real number.
    warmup : int
        How many steps rise. A whole number from 0 to 2**53.
    stable : int
        How many steps stay. A whole number from 0 to 2**53.
    decay : int
        How many steps fall. A whole number from 0 to 2**53.
    anneal : str, default 'linear'
        The shape of the fall. 'linear' or 'cosine' or 'sqrt'.
    start : float, default 0.0
        The number of step 0. A finite real number.
    final : float, default 0.0
        The number after the fall and from there on. A finite real number.

    Examples
    --------
    >>> import fastloss as fl
    >>> schedule = fl.schedules.warmup_stable_decay(1.0, warmup=2, stable=2, decay=4, anneal="sqrt")
    >>> [round(schedule(step), 3) for step in range(10)]
    [0.0, 0.5, 1.0, 1.0, 1.0, 0.5, 0.293, 0.134, 0.0, 0.0]

    References
    ----------
    .. [1] Hu et al. (2024), MiniCPM: Unveiling the Potential of Small Language Models, COLM
    .. [2] Hägele et al. (2024), Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations, NeurIPS
    """

    peak: _Number
    _: KW_ONLY
    warmup: _Phase
    stable: _Phase
    decay: _Phase
    anneal: Annotated[str, _OneOf("linear", "cosine", "sqrt")] = "linear"
    start: _Number = 0.0
    final: _Number = 0.0

    def _at(self, step):
        if step < self.warmup:
            return _between(self.start, self.peak, _ANNEAL["linear"](step / self.warmup))
        falling = step - self.warmup - self.stable
        if falling < 0:
            return self.peak
        if falling >= self.decay:
            return self.final
        return _between(self.peak, self.final, _ANNEAL[self.anneal](falling / self.decay))


# --- of other schedules ---------------------------------------------------------------------------------------------------


def _ask(who, name, schedule, step):
    """What a schedule, which may be anyone's function, says of a step."""
    return Real().check(who, f"{name}({step})", schedule(step))


class warmup(Schedule):
    r"""A straight line from `start` to where another schedule begins, and then that schedule.

    .. math::
        \eta_t = \begin{cases}
        \mathit{start} + (s_0 - \mathit{start})\, t / \mathit{steps} & t < \mathit{steps} \\
        s_{t - \mathit{steps}} & \text{else}
        \end{cases}

    Parameters
    ----------
    schedule : callable
        What follows; its own steps count from 0. A function of the step.
    steps : int
        How many steps rise. A whole number from 0 to 2**53.
    start : float, default 0.0
        The number of step 0. A finite real number.

    Examples
    --------
    >>> import fastloss as fl
    >>> schedule = fl.schedules.warmup(fl.schedules.cosine(1.0, steps=4), steps=2)
    >>> [round(schedule(step), 3) for step in range(7)]
    [0.0, 0.5, 1.0, 0.854, 0.5, 0.146, 0.0]

    References
    ----------
    .. [1] Goyal et al. (2017), Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour, arXiv:1706.02677
    """

    schedule: _Schedule
    _: KW_ONLY
    steps: _Phase
    start: _Number = 0.0

    def _at(self, step):
        follows = _ask("warmup", "schedule", self.schedule, max(step - self.steps, 0))
        return follows if step >= self.steps else _between(self.start, follows, _ANNEAL["linear"](step / self.steps))


class sequential(Schedule):
    r"""One schedule after the other, each of which sees its own steps, from 0.

    .. math:: \eta_t = s^{(k)}_{t - m_k}, \qquad m_k \le t < m_{k+1}, \qquad m_0 = 0

    Parameters
    ----------
    schedules : list of callables
        What follows one another, at least one. A list of functions of the step.
    milestones : list of int
        The step at which each schedule but the first begins. A list of whole numbers from 0 to 2**53 that do not fall.

    Examples
    --------
    >>> import fastloss as fl
    >>> flat, falling = fl.schedules.constant(1.0), fl.schedules.linear(1.0, steps=2)
    >>> schedule = fl.schedules.sequential([flat, falling], [3])
    >>> [schedule(step) for step in range(7)]
    [1.0, 1.0, 1.0, 1.0, 0.5, 0.0, 0.0]
    """

    schedules: Annotated[Sequence[Callable[[int], float]], _Several(_Function(), "functions of the step")]
    milestones: _Milestones

    def __post_init__(self):
        super().__post_init__()
        if not self.schedules:
            raise ValueError("sequential: schedules must hold at least one, got none")
        if len(self.milestones) != len(self.schedules) - 1:
            expected = f"one less than there are schedules: {len(self.schedules) - 1}"
            raise ValueError(f"sequential: milestones must be {expected}, got {len(self.milestones)}")

    def _at(self, step):
        k = bisect_right(self.milestones, step)
        begin = self.milestones[k - 1] if k else 0
        return _ask("sequential", f"schedules[{k}]", self.schedules[k], step - begin)


# --- with a state ---------------------------------------------------------------------------------------------------------

_STATE = {"value": Real(), "best": Interval(), "num_bad": Whole(0), "cooldown_left": Whole(0)}


class ReduceOnPlateau(Schedule):
    r"""Falls by `factor` whenever a metric has not become better for a while; the one schedule that has a state.

    .. math:: \eta \leftarrow \max(\mathit{factor} \cdot \eta, \mathit{min\_lr})

    after more than `patience` calls of `update` in a row without a better metric than the best so far. All steps have the
    present number, `value`. The first metric is better than none, NaN better than nothing.

    Parameters
    ----------
    init : float
        The number to begin with. >= 0.
    mode : str, default 'min'
        Whether smaller or larger is better. 'min' or 'max'.
    factor : float, default 0.1
        The next number as a part of the one before. In [0, 1).
    patience : int, default 10
        How many updates in a row may bring nothing better. A whole number from 0 to 2**53.
    threshold : float, default 0.0001
        By how much the metric must beat the best one to be better. >= 0.
    threshold_mode : str, default 'rel'
        Whether `threshold` is a part of the best metric or a difference. 'rel' or 'abs'.
    cooldown : int, default 0
        How many updates after a fall do not count as bad. A whole number from 0 to 2**53.
    min_lr : float, default 0.0
        The number never falls below. >= 0.
    eps : float, default 1e-08
        A fall by no more than this is left out. >= 0.

    Attributes
    ----------
    value : float
        The present number.
    best : float
        The best metric so far.
    num_bad : int
        How many updates in a row have brought nothing better.
    cooldown_left : int
        How many updates are still left of the cooldown.

    Examples
    --------
    >>> import fastloss as fl
    >>> schedule = fl.schedules.ReduceOnPlateau(1.0, factor=0.5, patience=1)
    >>> [schedule.update(metric) for metric in (3.0, 2.0, 2.0, 2.0, 1.0)]
    [1.0, 1.0, 1.0, 0.5, 0.5]
    >>> schedule(5)
    0.5

    References
    ----------
    .. [1] He, Zhang, Ren & Sun (2016), Deep Residual Learning for Image Recognition, CVPR
    """

    init: _Unsigned
    _: KW_ONLY
    mode: Annotated[str, _OneOf("min", "max")] = "min"
    factor: Annotated[float, Fraction(open_high=True)] = 0.1
    patience: _Phase = 10
    threshold: _Unsigned = 1e-4
    threshold_mode: Annotated[str, _OneOf("rel", "abs")] = "rel"
    cooldown: _Phase = 0
    min_lr: _Unsigned = 0.0
    eps: _Unsigned = 1e-8
    value: float = field(init=False)
    best: float = field(init=False)
    num_bad: int = field(init=False)
    cooldown_left: int = field(init=False)

    # Two with a state are not the same one, even while their states agree.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __post_init__(self):
        super().__post_init__()
        vars(self).update(value=self.init, best=math.inf if self.mode == "min" else -math.inf, num_bad=0, cooldown_left=0)

    def update(self, metric: float) -> float:
        """Hear of a metric, NaN too, and return the number that now holds."""
        metric = _Metric().check("ReduceOnPlateau", "metric", metric)
        value, best, left = self.value, self.best, max(self.cooldown_left - 1, 0)
        better = self._is_better(metric)
        num_bad = 0 if better or self.cooldown_left else self.num_bad + 1
        if num_bad > self.patience:
            lower = max(value * self.factor, self.min_lr)
            value = lower if value - lower > self.eps else value
            num_bad, left = 0, self.cooldown
        vars(self).update(value=value, best=metric if better else best, num_bad=num_bad, cooldown_left=left)
        return value

    def state_dict(self) -> dict[str, Any]:
        """The state as plain numbers: value, best, num_bad, cooldown_left."""
        return {name: getattr(self, name) for name in _STATE}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` returned; all of it or, on an error, nothing."""
        who = "ReduceOnPlateau"
        if not isinstance(state_dict, dict) or set(state_dict) != set(_STATE):
            got = ", ".join(map(str, state_dict)) if isinstance(state_dict, dict) else type(state_dict).__name__
            raise ValueError(f"{who}: state_dict must be a dictionary of {', '.join(_STATE)}, got {got or 'nothing'}")
        vars(self).update({name: domain.check(who, name, state_dict[name]) for name, domain in _STATE.items()})

    def _at(self, step):
        return self.value

    def _is_better(self, metric):
        sign = -1 if self.mode == "min" else 1
        if math.isinf(self.best):  # nothing is known yet, and a part of it may be NaN
            edge = self.best
        elif self.threshold_mode == "rel":
            edge = self.best * (1 + sign * self.threshold)
        else:
            edge = self.best + sign * self.threshold
        return sign * metric > sign * edge
