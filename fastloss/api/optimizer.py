"""The public object of an update rule."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import interop
from .._kernels.cpu import atomic
from .._kernels.cpu.engine import StepOptions
from ..formula import Fraction, Positive, Real, UpdateRule
from ..formula.document import optimizer_docstring
from . import methods
from .backends import CPU
from .groups import Bucket, GroupRules, number_at
from .jit import Jit
from .parameters import ParameterTree, check_keys, decay_flags, holds_groups, row_options
from .states import StateStore

if TYPE_CHECKING:
    from .._kernels.cpu.engine import Library


class _Found(NamedTuple):
    norm: Any
    skipped: Any


class StepResult(_Found):
    """What a step found: the pair ``(norm, skipped)``, and `overflowed` besides.

    Attributes
    ----------
    norm : float or None
        The norm of all gradients, unscaled and not yet clipped, if it was asked for; infinity where it is beyond float64.
    skipped : bool
        Whether the step was left out.
    overflowed : bool or None
        Whether a parameter or state left its dtype's range, or would have in a step that was skipped. Such as the mean square of a
        float32 parameter's gradients once one of these is 1e20: it is infinite from then on, and the element stands still.
        None for CUDA arrays: it is not looked for.

    Of CUDA arrays `norm` and `skipped` are 0-d arrays in the GPU's memory (`skipped` only under `skip_nonfinite`): a step does not
    wait for them.
    """

    overflowed: Any

    def __new__(cls, norm: Any, skipped: Any, overflowed: Any = False) -> "StepResult":
        result = super().__new__(cls, norm, skipped)
        result.overflowed = overflowed
        return result

    def __getnewargs__(self) -> tuple[Any, Any, Any]:  # type: ignore[override]
        return (*self, self.overflowed)

    def __repr__(self) -> str:
        shown = super().__repr__()
        return f"{shown[:-1]}, overflowed=True)" if self.overflowed else shown


class Binding(NamedTuple):
    """What a step needs that depends on the hyperparameters: made whole when they change, and put in place by one assignment."""

    seen: list[list[Any]]  # the hyperparameters that it was made of
    given: list[Any]  # by group, names and objects that say without a closer look that nothing changed, or None
    values: list[dict[str, Any]]  # by group, as the rule takes them
    buckets: list[Bucket]
    variants: list[Any]  # by bucket, as the engine takes them
    signs: list[float]
    held: list[dict[str, Any]]  # by array, its states
    needed: list[list[str]]  # by group, the states that its variant has
    sweep: Any  # the arrays, as the engine holds them


class Optimizer:
    """Parameters, their state, and a rule that rewrites both in place.

    Parameters
    ----------
    params : numpy.ndarray, list, dict, or list of groups
        The arrays to train: one, several, several by name, or a list of dictionaries that hold ``"params"`` and hyperparameters
        of their own. float32 and float64 keep their precision; float16 and bfloat16 are computed in float32 and rounded once per
        step. No array may be there twice, be read-only, or share memory with another. PyTorch tensors on the processor are taken
        for the memory that they hold. Or all of them are contiguous CUDA arrays on one GPU (of CuPy, PyTorch, Numba); states and
        gradients are then too. The list or dictionary is copied: what the caller does to it later changes nothing. The memory of
        an array is rewritten even if the array is made read-only, or given another shape, after that.
    state_dtype : dtype or dict, optional
        What the states are kept in: float64, float32, float16 or bfloat16, for all or by the state's name. By default float64 for
        parameters of float64, else float32.
    rounding : {"nearest", "stochastic", "compensated"}
        How parameters in half precision are rounded: to the nearest; bfloat16 at random, so that small steps are not lost on
        average; or with what was rounded off kept beside them in an array of their own dtype.
    seed : int
        Of the random rounding. Its numbers depend on the seed, the step, the parameter and the element alone.
    ema_decay : float, optional
        Keep the exponential moving average of the parameters in `ema`: it goes the part ``1 - ema_decay`` of the way in each step.
    copy_dtype : dtype, optional
        Keep a copy of the parameters in this dtype in `copies`, such as bfloat16 beside float32.
    decay_mask : bool, function, or structure of `params`, optional
        Which parameters `weight_decay` is for: for each True or False, or a function of the array that says so.
    **hyperparameters
        The rule's, the same for all groups that do not have their own. A number may be a function of the steps taken, such as a
        schedule. They may be changed between steps in `param_groups`.

    Attributes
    ----------
    param_groups : list of dict
        For each group its ``"params"``, a tuple, read-only dictionary or array that stays as it is, and its hyperparameters.
    steps : int
        How many steps were taken. Of CUDA arrays the GPU counts; to read it waits for the stream.
    ema_decay : float or None
        May be changed between steps, not to or from None.
    """

    jit: Any = Jit(
        """The rule as a function for `@njit` code: `jit.step(param, grad, *states, step, *hyperparameters)`, of one element.

        It returns the new parameter and states, in a tuple if there are any. Flags, and what else decides which states there are, are
        fixed at their defaults; ``fl.SGD.jit(momentum=0.9)`` has the function for others. Numba is imported when this is first used.
        """
    )
    rule: UpdateRule
    library: "Library | None" = None  # where the kernels come from if they are not built in
    _what = "params"  # what errors call them
    _backend: Any = None  # where arrays must be, None for wherever they are
    param_groups: list[dict[str, Any]]
    ema_decay: float | None

    def __init__(
        self,
        params: Any,
        *,
        state_dtype: Any = None,
        rounding: str = "nearest",
        seed: int = 0,
        ema_decay: float | None = None,
        copy_dtype: Any = None,
        decay_mask: Any = None,
        **hyperparameters: Any,
    ) -> None:
        who = type(self).__name__
        self._rules = GroupRules(who, self.rule)
        defaults = self._rules.defaults(hyperparameters)
        self._steps: int | None = 0  # None where only the GPU knows
        self._tree = ParameterTree(who, params, self._what, self._backend)
        self.param_groups = [
            self._rules.group(index, group, structure, defaults)
            for index, (group, structure) in enumerate(
                zip(params if holds_groups(params) else [{}], self._tree.structures, strict=True)
            )
        ]
        self.ema_decay = ema_decay
        self._check_ema_decay()
        self._store = StateStore(who, self._tree, self.rule, state_dtype, rounding, seed, ema_decay is not None, copy_dtype)
        self._decays = decay_flags(who, self._tree, decay_mask, "weight_decay" in self._rules.domains)
        self._scalars = [{name: first for name, (first, _) in self.rule.carried.items()} for _ in self.param_groups]
        self._start(self._store.initial())

    def _start(self, held):
        """What is made anew for a copy: locks and kernels do not travel."""
        self._turn = atomic.Turn(type(self).__name__)
        self._rules = GroupRules(type(self).__name__, self.rule)
        self._variants: dict[Any, Any] = {}
        # Arrays of one bucket have one kernel and the same numbers: a group's, with or without weight decay.
        self._kinds = sorted(set(zip(self._tree.groups, self._decays, strict=True)))
        self._bound: Binding | None = None
        self._bound = self._binding(self._steps_of_schedules(), self.param_groups, held)

    def step(
        self,
        grads: Any,
        *,
        grad_scale: float | None = None,
        max_norm: float | None = None,
        clip_value: float | None = None,
        skip_nonfinite: bool = False,
        row_lr: Any = None,
        row_mask: Any = None,
    ) -> StepResult:
        """Rewrite every parameter and its state in place: one compiled call, whole or not at all.

        It goes over memory once, and before that over the gradients if their norm is wanted or they must be finite, and over
        what a rule looks at as a whole, such as a tensor's norm. In this order: unscale, clip by norm, clip by value, decay, the
        rule, average, round, copy.

        Parameters
        ----------
        grads : numpy.ndarray, list or dict
            Gradients in the structure of `params`: an array, a list, a dictionary; for groups a list with one such entry for
            each group. Any floating dtype, any layout, of the parameters' shapes. An entry may be `SparseRows`.
        grad_scale : float, optional
            The gradients are so many times too large, as those of a scaled loss; they are divided by it.
        max_norm : float, optional
            Where the norm of all gradients together is larger they are multiplied by ``max_norm / norm``.
        clip_value : float, optional
            No element of a gradient is taken for larger than this, nor for smaller than its negative.
        skip_nonfinite : bool
            Leave the step out, the step count too, if a gradient holds NaN or infinity, or a finite gradient is so large that a
            parameter or state would become infinite (a float32 mean of squares does for 1e20). Otherwise these go into the
            parameter and its state, and an element whose state is infinite stands still from then on.
        row_lr : array of shape (k,), optional
            For parameters that hold k independent problems in their rows: a learning rate for each row, in the place of `lr`.
        row_mask : array of bool of shape (k,), optional
            Of such parameters: rows that are False stay as they are, and their states too.

        A rule that looks at whole tensors (`cautious`, `LAMB`) looks at each row by itself where there is `row_lr` or `row_mask`,
        and of `SparseRows` at the rows that move, all together. What it sums there makes NaN of all that goes by the sum.

        Threads that step one optimizer take turns. A process that is forked meanwhile has the arrays as they were at that moment,
        perhaps with a part of the step; it can go on with them. Ctrl-C is heard before a step or after it. A signal handler that
        interrupts a step must not step the same optimizer. Denormal numbers count as 0 within a step.

        Returns
        -------
        StepResult
            ``norm``, None unless `max_norm` or `skip_nonfinite` needed it, ``skipped``, and `overflowed`.

        Raises
        ------
        ValueError, TypeError
            For a gradient of another shape or not floating, one that shares memory with a parameter or state, a
            hyperparameter outside its domain, or `param_groups` that are not those of the beginning; before anything is written.
        RuntimeError
            From within a step of the same optimizer, by a signal handler or a schedule.
        """
        options = StepOptions()
        if grad_scale is not None:
            options.grad_scale = self._positive("grad_scale", grad_scale)
        if max_norm is not None:
            options.max_norm, options.measures = self._positive("max_norm", max_norm), True
        if clip_value is not None:
            options.clip_value = self._positive("clip_value", clip_value)
        if skip_nonfinite:
            options.skips = options.measures = True
        if row_lr is not None or row_mask is not None:
            options.row_lr, options.row_mask = row_lr, row_mask
        return self._take(grads, options)

    def _take(self, grads, options):
        """Take a step with these options: `options.counts` are replaced with it, as one act."""
        with self._turn:
            bound = self._refresh()
            step, scalars = self._next_counts(bound)
            options.step = step
            options.counts += [(self, "_steps", step), (self, "_scalars", scalars)]
            options.grads = self._tree.flatten(grads)
            options.sparse = self._tree.extract_rows(options.grads)
            if options.row_lr is not None or options.row_mask is not None:
                has_lr = "lr" in self._rules.domains
                options.row_lr, options.row_mask = row_options(
                    type(self).__name__, self._tree, options.row_lr, options.row_mask, options.sparse, has_lr
                )
            options.variants, options.signs = bound.variants, bound.signs
            options.vectors = [[step or 0.0, *scalars[group].values(), *numbers] for group, _, numbers, _ in bound.buckets]
            if self.ema_decay is not None:
                options.ema_weight = 1.0 - self.ema_decay
            options.result, options.usual, options.unusual = StepResult, _DONE, _OVERFLOWED
            result = bound.sweep.step(options)
            return result if self._tree.backend is CPU else self._counted_on_gpu(options, result)

    @property
    def steps(self) -> int:
        """How many steps were taken."""
        # A captured step is replayed without a call.
        steps: int = self._tree.backend.steps(self._steps)
        self._steps = steps
        return steps

    @property
    def ema(self) -> Any:
        """The averages of the parameters, in the structure of `params`."""
        if self.ema_decay is None:
            raise AttributeError(f"{type(self).__name__}: ema must be asked for with ema_decay")
        return self._tree.unflatten([held["ema"] for held in self._bound.held])

    @property
    def copies(self) -> Any:
        """The parameters in `copy_dtype`, in the structure of `params`."""
        if any(copy is None for copy in self._store.copies):
            raise AttributeError(f"{type(self).__name__}: copies must be asked for with copy_dtype")
        return self._tree.unflatten(self._store.copies)

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state as plain arrays and numbers, copied: rule, steps, groups of hyperparameters, states by name.

        Of a hyperparameter that is a function of the steps it holds the number now. It waits for a step that another thread takes;
        a signal handler that interrupts a step gets the state from before that step or after it.
        """
        if self._turn.is_mine:
            return self._saved()
        with self._turn:
            return self._saved()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` returned, for parameters of the same names and shapes; all of it or, on an error, nothing.

        States of another floating dtype are converted. A hyperparameter that is a function of the steps stays one.
        """
        with self._turn:
            steps, values, scalars = self._check_saved(state_dict)
            needed = self._needed(values)
            held = self._store.loaded(state_dict["state"], needed)
            groups = [
                {name: value for name, value in saved.items() if not callable(group[name])}
                for saved, group in zip(values, self.param_groups, strict=True)
            ]
            merged = [group | own for group, own in zip(self.param_groups, groups, strict=True)]
            changes = [(group, name, own[name]) for group, own in zip(self.param_groups, groups, strict=True) for name in own]
            bound = self._binding(steps, merged, held)
            self._store.refresh_copies()
            atomic.replace([*changes, (self, "_bound", bound), (self, "_steps", steps), (self, "_scalars", scalars)])
            self._tree.backend.recount()

    def __getstate__(self) -> dict[str, Any]:
        kept = {name: value for name, value in vars(self).items() if name not in _REMADE}
        groups = [{name: value for name, value in group.items() if name != "params"} for group in self.param_groups]
        return kept | {"param_groups": groups, "held": self._bound.held}

    def __setstate__(self, state: dict[str, Any]) -> None:
        held = state.pop("held")
        vars(self).update(state)
        self.param_groups = [
            {"params": structure, **group} for structure, group in zip(self._tree.structures, self.param_groups, strict=True)
        ]
        self._start(held)

    def __repr__(self) -> str:
        groups = "; ".join(", ".join(f"{name}={group[name]!r}" for name in self._rules.domains) for group in self.param_groups)
        return f"{type(self).__name__}({len(self._tree)} arrays, {groups})"

    def _saved(self):
        steps = self.steps
        groups = [{name: number_at(group[name], steps) for name in self._rules.domains} for group in self.param_groups]
        if self.rule.carried:
            groups = [group | {"carried": dict(scalars)} for group, scalars in zip(groups, self._scalars, strict=True)]
        return {"rule": type(self).__name__, "steps": steps, "groups": groups, "state": self._store.saved(self._bound.held)}

    def _check_saved(self, state_dict):
        """Steps, hyperparameters and scalar state of a state dictionary; whatever the next step would refuse is found here."""
        who, domains = type(self).__name__, self._rules.domains
        check_keys(who, "state_dict", state_dict, ["rule", "steps", "groups", "state"])
        if state_dict["rule"] != who:
            raise ValueError(f"{who}: state_dict must be of rule {who!r}, got {state_dict['rule']!r}")
        steps, groups = state_dict["steps"], state_dict["groups"]
        if not isinstance(steps, int | np.integer) or isinstance(steps, bool) or not 0 <= steps < _MOST_STEPS:
            raise ValueError(f"{who}: steps must be a whole number from 0 to 2**53, got {steps!r}")
        if not isinstance(groups, list | tuple) or len(groups) != len(self._tree.structures):
            raise ValueError(f"{who}: groups must be a list of {len(self._tree.structures)} dictionaries, got {groups!r}")
        for index, group in enumerate(groups):
            check_keys(who, f"groups[{index}]", group, [*domains, *(["carried"] if self.rule.carried else [])])
        scalars = [self._check_scalars(group) for group in groups]
        self._check_ema_decay()
        self._rules.check_shape(self.param_groups, self._tree.structures)
        values = [self._rules.check(group) for group in groups]
        for group, saved in zip(self.param_groups, values, strict=True):
            self._rules.check(saved | {name: value(int(steps)) for name, value in group.items() if callable(value)})
        check_keys(who, "state", state_dict["state"], self._tree.names)
        return int(steps), values, scalars

    def _check_scalars(self, group):
        """The scalar state of a saved group."""
        if not self.rule.carried:
            return {}
        check_keys(self._rules.who, "carried", group["carried"], list(self.rule.carried))
        return {name: Real().check(self._rules.who, name, group["carried"][name]) for name in self.rule.carried}

    def _positive(self, name, value):
        """An option of a step."""
        return _POSITIVE.check(type(self).__name__, name, value)

    def _check_ema_decay(self):
        if self.ema_decay is not None:
            Fraction(0.0).check(type(self).__name__, "ema_decay", self.ema_decay)

    def _refresh(self):
        """The binding for the hyperparameters as they are now."""
        bound = self._bound
        if self.ema_decay is not None:
            self._check_ema_decay()
        if self._rules.are_same(self.param_groups, bound.given):
            return bound
        self._rules.check_shape(self.param_groups, self._tree.structures)
        steps = self._steps_of_schedules()
        if self._rules.snapshot(self.param_groups, steps) != bound.seen:
            self._bound = bound = self._binding(steps, self.param_groups)
        return bound

    def _binding(self, steps, param_groups, held=None):
        """Check the hyperparameters and bind the arrays that they need; with states `held` in the place of those there are."""
        old = self._bound
        now = self._rules.snapshot(param_groups, steps)
        values = self._rules.values(param_groups, steps, now, old and old.seen, old and old.values)
        choices = self._rules.choices(values)
        needed = self._needed(values)
        buckets = [self._rules.bucket(group, decays, self._variant(choices[group]), values) for group, decays in self._kinds]
        variants, signs = [bucket.variant for bucket in buckets], [bucket.sign for bucket in buckets]
        given = self._rules.given(param_groups)
        if held is None and needed == old.needed:
            return Binding(now, given, values, buckets, variants, signs, old.held, needed, old.sweep)
        held = self._store.with_states(old.held if held is None else held, needed)
        places = [self._kinds.index(kind) for kind in zip(self._tree.groups, self._decays, strict=True)]
        sweep = self._tree.backend.sweep(type(self).__name__, self._store.tensors(held, needed, places))
        return Binding(now, given, values, buckets, variants, signs, held, needed, sweep)

    def _compute_in_double(self, wide):
        """Compute those arrays in double, whatever their dtype, that are True in `wide`."""
        self._store.compute_in_double(wide)
        self._bound = self._binding(self._steps, self.param_groups, self._bound.held)

    def _needed(self, values):
        """The states that each group's variant has."""
        return [self.rule.states_of(choice) for choice in self._rules.choices(values)]

    def _variant(self, choice):
        if choice not in self._variants:
            self._variants[choice] = self._tree.backend.variant(self.rule, choice, self.library)
        return self._variants[choice]

    def _next_counts(self, bound):
        """The number of the step that comes next, None if only the GPU knows it and nobody asks, and the scalar state in it."""
        if not self.rule.carried:
            return None if self._steps is None else self._steps + 1, self._scalars
        step = self.steps + 1
        return step, [self.rule.carry(scalars, step, group) for scalars, group in zip(self._scalars, bound.values, strict=True)]

    def _steps_of_schedules(self):
        """The count of steps, if a hyperparameter is a function of it: the rest is the GPU's, which need not be waited for."""
        if self._steps is not None:
            return self._steps
        has = any(callable(group[name]) for group in self.param_groups for name in self._rules.domains)
        return self.steps if has else None

    def _counted_on_gpu(self, options, result):
        """Replace the counts as far as the host knows them; left out is None for a step that was captured, and not taken."""
        skipped = result.skipped
        if skipped is False:
            atomic.replace(options.counts)
            return result if options.measures else _DONE_ON_GPU
        if skipped is not None and self.rule.carried:
            skipped = bool(interop.number(skipped))
            if not skipped:
                atomic.replace(options.counts)
        self._steps = None
        return StepResult(result.norm, False if skipped is None else skipped, None) if options.measures else _DONE_ON_GPU


# What is made anew for a copy.
_REMADE = {"_turn", "_rules", "_variants", "_kinds", "_bound"}
# Steps are counted in the doubles of the kernels' numbers.
_MOST_STEPS = 2**53
_POSITIVE = Positive(1.0)
_DONE, _OVERFLOWED, _DONE_ON_GPU = StepResult(None, False), StepResult(None, False, True), StepResult(None, False, None)


def optimizer_class(rule: UpdateRule, library: "Library | None" = None) -> type[Optimizer]:
    """The optimizer of a rule."""
    members = {"rule": rule, "library": library, "__doc__": optimizer_docstring(rule), "__module__": rule.module}
    return type(rule.name, (*(getattr(methods, name) for name in rule.abilities), Optimizer), members)
