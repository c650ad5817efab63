"""The public object of an update rule."""

import math
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import interop
from .._kernels import arrays
from ..formula import Fraction, Positive, Real, UpdateRule
from ..formula.document import optimizer_docstring
from . import methods
from .engines import HOST, engine_of
from .jit import Jit
from .parameters import (
    SparseRows,
    check_keys,
    check_rounding,
    check_seed,
    floating_dtype,
    is_group,
    match,
    named,
    of_rows,
    state_dtypes,
)

if TYPE_CHECKING:
    from .._kernels.cpu.engine import Library


class StepResult(NamedTuple):
    """What a step found: the norm of all gradients, unscaled and not yet clipped, if it was asked for; whether it was left out.

    Of CUDA arrays both are 0-d arrays in the GPU's memory (`skipped` only under `skip_nonfinite`): nobody waits for them.
    """

    norm: Any
    skipped: Any


class Optimizer:
    """Parameters, their state, and a rule that rewrites both in place.

    Parameters
    ----------
    params : numpy.ndarray, list, dict, or list of groups
        The arrays to train: one, several, several by name, or a list of dictionaries that hold ``"params"`` and hyperparameters
        of their own. float32 and float64 keep their precision; float16 and bfloat16 are computed in float32 and rounded once per
        step. No array may be there twice, be read-only, or share memory with another. PyTorch tensors on the processor are taken
        for the memory that they hold. Or all of them are contiguous CUDA arrays on one GPU (of CuPy, PyTorch, Numba); states and
        gradients are then too.
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
        For each group its ``"params"`` and hyperparameters.
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
    _on_gpu = True  # whether they may be CUDA arrays
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
        unknown = [name for name in hyperparameters if name not in self._hyperparameters()]
        if unknown:
            raise TypeError(f"{who}: hyperparameters must be among {', '.join(self._hyperparameters())}, got {unknown[0]!r}")
        defaults = {name: domain.default for name, domain in self._hyperparameters().items()} | hyperparameters
        self._steps = 0  # None where only the GPU knows
        self._engine = None
        self._is_grouped = isinstance(params, list | tuple) and len(params) > 0 and all(is_group(p) for p in params)
        self.param_groups = []
        for index, group in enumerate(params if self._is_grouped else [{"params": params}]):
            own = {name: value for name, value in group.items() if name != "params"}
            unknown = [name for name in own if name not in defaults]
            if unknown:
                raise TypeError(f"{who}: params[{index}] must hold 'params' and {', '.join(defaults)}, got {unknown[0]!r}")
            self.param_groups.append({"params": group["params"], **defaults, **own})
        self._tensors = self._over_params()
        self._engine = self._engine or HOST
        self.ema_decay = ema_decay
        self._check_ema_decay()
        self._dtypes = state_dtypes(who, self.rule.states, state_dtype)
        self._rounding = check_rounding(who, rounding, self._tensors)
        self._seed = check_seed(who, seed)
        self._decays = self._masked(decay_mask)
        # Tensors of one lane have one kernel and the same numbers: a group's, with or without weight decay.
        self._lanes = sorted({(index, decays) for (index, _, _), decays in zip(self._tensors, self._decays, strict=True)})
        self._copies = [self._copy(array, copy_dtype) for _, _, array in self._tensors]
        self._states = [self._beside(array) for _, _, array in self._tensors]
        self._carried = [{name: first for name, (first, _) in self.rule.carried.items()} for _ in self.param_groups]
        self._lock = threading.Lock()
        self._variants = {}
        self._seen = self._needed = None
        self._check_groups()

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
            Leave the step out, the step count too, if a gradient holds NaN or infinity. Otherwise these go into the parameter
            and its state.
        row_lr : array of shape (k,), optional
            For parameters that hold k independent problems in their rows: a learning rate for each row, in the place of `lr`.
        row_mask : array of bool of shape (k,), optional
            Of such parameters: rows that are False stay as they are, and their states too.

        A rule that looks at whole tensors (`cautious`, `LAMB`) looks at each row by itself where there is `row_lr` or `row_mask`,
        and of `SparseRows` at the rows that move, all together. What it sums there makes NaN of all that goes by the sum.

        Threads that step one optimizer take turns. Denormal numbers count as 0 within a step.

        Returns
        -------
        StepResult
            ``norm``, None unless `max_norm` or `skip_nonfinite` needed it, and ``skipped``.

        Raises
        ------
        ValueError, TypeError
            For a gradient of another shape or not floating, one that shares memory with a parameter or state, or a
            hyperparameter outside its domain; before anything is written.
        """
        with self._lock:
            self._check_groups()
            factors = self._signs
            if grad_scale is not None:
                scale = self._positive("grad_scale", grad_scale)
                factors = [sign / scale for sign in factors]
            step, carried = self._steps, self._carried
            if step is not None or self.rule.carried:
                step = 1 + (self.steps if step is None else step)
                for vector in self._vectors:
                    vector[0] = step
            if self.rule.carried:
                carried = [self.rule.carry(now, step, group) for now, group in zip(carried, self._values, strict=True)]
                for vector, (index, _) in zip(self._vectors, self._lanes, strict=True):
                    vector[1 : 1 + len(carried[index])] = carried[index].values()
            flat = self._flat(grads)
            sparse = self._sparse(flat)
            if row_lr is not None or row_mask is not None:
                row_lr, row_mask = self._rows(row_lr, row_mask, sparse)
            measures = max_norm is not None or skip_nonfinite
            approach = 0.0 if self.ema_decay is None else 1.0 - self.ema_decay
            norm, skipped = self._sweep.step(
                self._kernels,
                self._vectors,
                flat,
                factors,
                math.inf if clip_value is None else self._positive("clip_value", clip_value),
                math.inf if max_norm is None else self._positive("max_norm", max_norm),
                measures,
                skip_nonfinite,
                approach,
                step,
                sparse,
                row_lr,
                self._lr_slot,
                row_mask,
            )
            if skipped is False:
                self._steps, self._carried = step, carried
            elif skipped is not True:
                skipped = self._left_open(step, carried, skipped)
        return StepResult(norm, skipped) if measures else _DONE

    @property
    def steps(self) -> int:
        """How many steps were taken."""
        # A captured step is replayed without a call.
        steps: int = self._engine.steps(self._steps)
        self._steps = steps
        return steps

    @property
    def ema(self) -> Any:
        """The averages of the parameters, in the structure of `params`."""
        if self.ema_decay is None:
            raise AttributeError(f"{type(self).__name__}: ema must be asked for with ema_decay")
        return self._structured([held["ema"] for held in self._states])

    @property
    def copies(self) -> Any:
        """The parameters in `copy_dtype`, in the structure of `params`."""
        if any(copy is None for copy in self._copies):
            raise AttributeError(f"{type(self).__name__}: copies must be asked for with copy_dtype")
        return self._structured(self._copies)

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state as plain arrays and numbers, copied: rule, steps, groups of hyperparameters, states by name.

        Of a hyperparameter that is a function of the steps it holds the number now.
        """
        steps = self.steps
        groups = [{name: _at(group[name], steps) for name in self._hyperparameters()} for group in self.param_groups]
        if self.rule.carried:
            groups = [group | {"carried": dict(carried)} for group, carried in zip(groups, self._carried, strict=True)]
        return {
            "rule": type(self).__name__,
            "steps": steps,
            "groups": groups,
            "state": {
                name: {state: self._engine.saved(array) for state, array in held.items()}
                for (_, name, _), held in zip(self._tensors, self._states, strict=True)
            },
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` returned, for parameters of the same names and shapes; all of it or, on an error, nothing.

        States of another floating dtype are converted. A hyperparameter that is a function of the steps stays one.
        """
        who = type(self).__name__
        check_keys(who, "state_dict", state_dict, ["rule", "steps", "groups", "state"])
        if state_dict["rule"] != who:
            raise ValueError(f"{who}: state_dict must be of rule {who!r}, got {state_dict['rule']!r}")
        steps, groups, states = state_dict["steps"], state_dict["groups"], state_dict["state"]
        if not isinstance(steps, int | np.integer) or isinstance(steps, bool) or not 0 <= steps < _MOST_STEPS:
            raise ValueError(f"{who}: steps must be a whole number from 0 to 2**53, got {steps!r}")
        if not isinstance(groups, list | tuple) or len(groups) != len(self.param_groups):
            raise ValueError(f"{who}: groups must be a list of {len(self.param_groups)} dictionaries, got {groups!r}")
        for index, group in enumerate(groups):
            check_keys(who, f"groups[{index}]", group, [*self._hyperparameters(), *(["carried"] if self.rule.carried else [])])
        carried = [self._check_carried(who, group) for group in groups]
        # Whatever the next step would refuse is found before anything is replaced.
        self._check_ema_decay()
        for index, group in enumerate(self.param_groups):
            check_keys(who, f"param_groups[{index}]", group, ["params", *self._hyperparameters()])
        values = [self._check_group(group) for group in groups]
        for group, saved in zip(self.param_groups, values, strict=True):
            self._check_group(saved | {name: value(int(steps)) for name, value in group.items() if callable(value)})
        choices = self._choices(values)
        check_keys(who, "state", states, [name for _, name, _ in self._tensors])
        states = self._engine.saved_states(states)
        for index, name, array in self._tensors:
            self._check_state(who, name, states[name], choices[index], array)
        with self._lock:
            # Held states that were not saved are forgotten with all else.
            self._states = [
                {state: self._engine.copied(array, self._dtype(state, param), param) for state, array in states[name].items()}
                for _, name, param in self._tensors
            ]
            for group, checked in zip(self.param_groups, values, strict=True):
                group.update({name: value for name, value in checked.items() if not callable(group[name])})
            self._steps, self._carried = int(steps), carried
            self._engine.recount()
            for copy, (_, _, param) in zip(self._copies, self._tensors, strict=True):
                if copy is not None:
                    self._engine.assign(copy, param)
            self._seen = self._needed = None
            self._check_groups()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in _BOUND}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._tensors = self._over_params()  # a tensor's memory is another one now
        self._lock = threading.Lock()
        self._variants = {}
        self._seen = self._needed = None
        self._check_groups()

    def __repr__(self) -> str:
        groups = "; ".join(
            ", ".join(f"{name}={group[name]!r}" for name in self._hyperparameters()) for group in self.param_groups
        )
        return f"{type(self).__name__}({len(self._tensors)} arrays, {groups})"

    def _over_params(self):
        """(group, name, array) for every parameter."""
        who, found = type(self).__name__, []
        for index, group in enumerate(self.param_groups):
            prefix = f"{self._what}[{index}]" if self._is_grouped else self._what
            for name, array in named(who, prefix, group["params"]):
                if self._engine is None:
                    self._engine = engine_of(who, array) if self._on_gpu else HOST
                found.append((index, name, self._engine.parameter(who, name, array)))
        return found

    @classmethod
    def _hyperparameters(cls):
        return cls.rule.hyperparameters

    def _check_group(self, group, changed=None):
        """A group's hyperparameters as the rule takes them; those of `changed` are to be looked at, by default all."""
        who, domains = type(self).__name__, self._hyperparameters()
        checked = {name: domains[name].check(who, name, group[name]) for name in (domains if changed is None else changed)}
        values = {name: checked[name] if name in checked else group[name] for name in domains}
        for holds, message in self.rule.requires:
            if not holds(**values):
                raise ValueError(f"{who}: {message}")
        return values

    def _check_groups(self):
        """Look at the hyperparameters again if they were changed since the last step."""
        names = self._hyperparameters()
        for index, group in enumerate(self.param_groups):
            if len(group) != len(names) + 1 or not group.keys() >= names.keys():
                raise ValueError(
                    f"{type(self).__name__}: param_groups[{index}] must hold 'params' and {', '.join(names)}, got {', '.join(group)}"
                )
        self._check_ema_decay()
        steps = self._steps if self._steps is not None else self._steps_of_schedules()
        now = [[_snapshot(group[name], steps) for name in names] for group in self.param_groups]
        if now != self._seen:
            # A schedule changes one number at each step: the others were looked at before.
            before = self._seen or [[None] * len(names) for _ in now]
            values = []
            for group, seen, was in zip(self.param_groups, now, before, strict=True):
                changed = [name for name, new, old in zip(names, seen, was, strict=True) if old is None or new != old]
                known = self._values[len(values)] if self._seen else {}
                given = {name: _at(group[name], steps) for name in changed}
                values.append(self._check_group({name: known.get(name) for name in names} | given, changed))
            self._bind(self._choices(values))
            self._use(values)
            self._seen = now

    def _steps_of_schedules(self):
        """The count of steps, if a hyperparameter is a function of it: the rest is the GPU's, which need not be waited for."""
        has = any(callable(group[name]) for group in self.param_groups for name in self._hyperparameters())
        return self.steps if has else None

    def _left_open(self, step, carried, skipped):
        """What becomes of the counts where only the GPU knows whether the step was left out; None: it was captured, and not taken."""
        self._steps = None
        if skipped is not None and self.rule.carried:
            skipped = bool(interop.number(skipped))
            if not skipped:
                self._carried = carried
        return False if skipped is None else skipped

    def _use(self, values):
        """The numbers of each lane as the engine takes them; those of the step are filled in later."""
        self._values, self._vectors, self._signs = values, [], []
        for index, decays in self._lanes:
            numbers = {"step": 0.0, **self._carried[index], **values[index]}
            self._vectors.append(self.rule.vector(numbers if decays else {**numbers, "weight_decay": 0.0}))
            self._signs.append(-1.0 if numbers["maximize"] else 1.0)

    def _check_ema_decay(self):
        if self.ema_decay is not None:
            Fraction(0.0).check(type(self).__name__, "ema_decay", self.ema_decay)

    def _positive(self, name, value):
        """An option of a step."""
        return Positive(1.0).check(type(self).__name__, name, value)

    def _check_carried(self, who, group):
        """The carried numbers of a saved group."""
        if not self.rule.carried:
            return {}
        check_keys(who, "carried", group["carried"], list(self.rule.carried))
        return {name: Real().check(who, name, group["carried"][name]) for name in self.rule.carried}

    def _choices(self, values):
        return [self.rule.choice({"step": None, **dict.fromkeys(self.rule.carried), **group}) for group in values]

    def _flat(self, given, name="grads"):
        """What was given in the structure of the parameters, in the order of the tensors."""
        who = type(self).__name__
        if not self._is_grouped:
            return match(who, name, self.param_groups[0]["params"], given)
        if not isinstance(given, list | tuple) or len(given) != len(self.param_groups):
            raise ValueError(f"{who}: {name} must be a list of {len(self.param_groups)} entries, one for each group")
        flat = []
        for index, (group, own) in enumerate(zip(self.param_groups, given, strict=True)):
            flat += match(who, f"{name}[{index}]", group["params"], own)
        return flat

    def _sparse(self, flat):
        """Take the rows out of sparse gradients: {tensor: rows}, their values left in the list."""
        found = None
        for k, grad in enumerate(flat):
            if type(grad) is SparseRows:
                _, name, param = self._tensors[k]
                found = found or {}
                found[k], flat[k] = self._engine.row_gradient(type(self).__name__, name, param, grad)
        return found

    def _rows(self, row_lr, row_mask, sparse):
        """Learning rates and mask of the rows as the engine takes them."""
        who = type(self).__name__
        self._engine.check_rows(who)
        if sparse:
            raise ValueError(f"{who}: row_lr and row_mask must go with whole gradients, got SparseRows")
        counts = {array.shape[0] if array.ndim else None for _, _, array in self._tensors}
        if len(counts) != 1 or None in counts:
            raise ValueError(
                f"{who}: row_lr and row_mask must go with parameters of one number of rows, got {sorted(map(str, counts))}"
            )
        (count,) = counts
        if row_lr is not None:
            if "lr" not in self._hyperparameters():
                raise TypeError(f"{who}: row_lr must go with a rule that has lr")
            row_lr = np.ascontiguousarray(of_rows(who, "row_lr", row_lr, count, "fiu"), np.float64)
            if not (np.isfinite(row_lr).all() and (row_lr >= 0).all()):
                raise ValueError(
                    f"{who}: row_lr must be >= 0 and finite, got {row_lr[~(np.isfinite(row_lr) & (row_lr >= 0))][0]}"
                )
        if row_mask is not None:
            row_mask = np.ascontiguousarray(of_rows(who, "row_mask", row_mask, count, "b"), np.uint8)
        return row_lr, row_mask

    def _bind(self, choices):
        """Make the states that these variants need, and hand all arrays to the engine."""
        self._kernels = [self._variant(choices[index]) for index, _ in self._lanes]
        needed = [self.rule.states_of(choice) for choice in choices]
        if needed == self._needed:
            return
        tensors = []
        for k, ((index, name, array), held) in enumerate(zip(self._tensors, self._states, strict=True)):
            for state in needed[index]:
                if state not in held:
                    held[state] = self._engine.zeros(array, self._dtype(state, array))
            beside = {place: held[state] for state, place in _BESIDE.items() if state in held}
            if self._copies[k] is not None:
                beside["copy"] = self._copies[k]
            if self._rounding == "stochastic" and arrays.is_bfloat16(array.dtype):
                beside["seed"] = (self._seed + k * _GOLDEN) % 2**64
            lane = self._lanes.index((index, self._decays[k]))
            tensors.append((lane, name, array, [held[state] for state in needed[index]], beside))
        self._sweep = self._engine.sweep(type(self).__name__, tensors)
        self._needed = needed
        slots = [name for name, _ in self.rule.slots()]
        self._lr_slot = slots.index("lr") if "lr" in slots else -1

    def _beside(self, array):
        """What is kept beside a parameter besides its states."""
        held = {}
        if self.ema_decay is not None:
            held["ema"] = self._engine.copied(array, self._dtype("ema", array))
        if self._rounding == "compensated" and array.dtype.itemsize == 2:
            held["remainder"] = self._engine.zeros(array, array.dtype)
        return held

    def _dtype(self, state, param):
        """What a state is kept in."""
        if state == "remainder":
            return param.dtype
        return self._dtypes.get(state) or (np.dtype(np.float64) if param.dtype == np.float64 else np.dtype(np.float32))

    def _copy(self, array, dtype):
        return None if dtype is None else self._engine.copied(array, floating_dtype(type(self).__name__, "copy_dtype", dtype))

    def _masked(self, mask):
        """Whether each tensor decays."""
        who = type(self).__name__
        if mask is not None and "weight_decay" not in self._hyperparameters():
            raise TypeError(f"{who}: decay_mask must go with a rule that has weight_decay")
        if mask is None or isinstance(mask, bool):
            return [mask is not False for _ in self._tensors]
        decays = (
            [mask(self._engine.shown(array)) for _, _, array in self._tensors]
            if callable(mask)
            else self._flat(mask, "decay_mask")
        )
        for (_, name, _), decay in zip(self._tensors, decays, strict=True):
            if not isinstance(decay, bool | np.bool_):
                raise TypeError(f"{who}: decay_mask must be True or False for {name}, got {decay!r}")
        return [bool(decay) for decay in decays]

    def _structured(self, flat):
        """Arrays of all tensors, in order, in the structure of `params`."""
        rest = map(self._engine.shown, flat)

        def like(params):
            if isinstance(params, dict):
                return {key: next(rest) for key in params}
            return [next(rest) for _ in params] if isinstance(params, list | tuple) else next(rest)

        groups = [like(group["params"]) for group in self.param_groups]
        return groups if self._is_grouped else groups[0]

    def _variant(self, choice):
        if choice not in self._variants:
            self._variants[choice] = self._engine.variant(self.rule, choice, self.library)
        return self._variants[choice]

    def _check_state(self, who, name, own, choice, array):
        """The arrays of one parameter: all that its variant needs, none that the rule does not know."""
        beside = self._beside(array)
        needed = [*self.rule.states_of(choice), *beside]
        if not isinstance(own, dict) or not set(needed) <= set(own) <= {*self.rule.states, *beside}:
            got = sorted(map(str, own)) if isinstance(own, dict) else type(own).__name__
            raise ValueError(f"{who}: the state of {name} must hold {', '.join(needed) or 'nothing'}, got {got}")
        for state, values in own.items():
            if type(values) is not np.ndarray or values.shape != array.shape or not arrays.is_floating(values.dtype):
                got = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
                raise ValueError(f"{who}: {state} of {name} must be a floating array of shape {array.shape}, got {got}")


# What is made anew for a copy: threads and kernels do not travel.
_BOUND = {"_lock", "_sweep", "_kernels", "_variants", "_values", "_vectors", "_signs", "_lr_slot", "_seen", "_needed"}
# Steps are counted in the doubles of the kernels' numbers.
_MOST_STEPS = 2**53
# What is kept beside a parameter, by the name that it is saved under, and the engine's name for it.
_BESIDE = {"ema": "average", "remainder": "remainder"}
# 2^64 by the golden ratio: seeds that are far apart.
_GOLDEN = 0x9E3779B97F4A7C15
_DONE = StepResult(None, False)


def _at(value, steps):
    """A hyperparameter's number after so many steps."""
    return value(steps) if callable(value) else value


def _snapshot(value, steps):
    """The value as it is now, told apart from later ones even if it is changed in place."""
    if type(value) is float:
        return value
    if callable(value):
        return float(value(steps))
    value = tuple(value) if isinstance(value, list) else value.item() if getattr(value, "shape", None) == () else value
    return type(value), value


def optimizer_class(rule: UpdateRule, library: "Library | None" = None) -> type[Optimizer]:
    """The optimizer of a rule."""
    members = {"rule": rule, "library": library, "__doc__": optimizer_docstring(rule), "__module__": rule.module}
    return type(rule.name, (*(getattr(methods, name) for name in rule.abilities), Optimizer), members)
