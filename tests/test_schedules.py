"""The schedules against torch.optim.lr_scheduler and Optax, and against their papers' formulas, written out below.

Every argument is away from its default in the comparisons: at `final=0` right and wrong often agree.
"""

import copy
import doctest
import inspect
import itertools
import json
import math
import pickle
import re
import textwrap

import numpy as np
import pytest

import fastloss as fl
from fastloss import schedules as s

NAMES = s.__all__
STATELESS = [name for name in NAMES if name != "ReduceOnPlateau"]

FULL = {
    "constant": s.constant(0.3),
    "linear": s.linear(0.5, steps=17, final=0.2),
    "cosine": s.cosine(0.5, steps=17, final=0.07),
    "polynomial": s.polynomial(0.5, steps=17, power=2.5, final=0.07),
    "exponential": s.exponential(0.5, gamma=0.3, steps=7, final=0.02),
    "step_decay": s.step_decay(0.5, step_size=6, gamma=0.3),
    "multi_step": s.multi_step(0.5, milestones=[3, 4, 11], gamma=0.3),
    "inverse_sqrt": s.inverse_sqrt(0.5, warmup=9, start=0.1),
    "one_cycle": s.one_cycle(
        0.5, steps=23, pct_start=0.37, anneal="linear", div_factor=7.0, final_div_factor=30.0, three_phase=True
    ),
    "warm_restarts": s.warm_restarts(0.5, t_0=3, t_mult=2, eta_min=0.07),
    "warmup_stable_decay": s.warmup_stable_decay(0.5, warmup=5, stable=7, decay=9, anneal="cosine", start=0.1, final=0.07),
    "warmup": s.warmup(s.cosine(0.5, steps=17, final=0.07), steps=5, start=0.1),
    "sequential": s.sequential([s.constant(0.1), s.step_decay(0.5, step_size=3), s.exponential(0.4, gamma=0.9)], [4, 15]),
    "ReduceOnPlateau": s.ReduceOnPlateau(
        0.5,
        mode="max",
        factor=0.3,
        patience=2,
        threshold=0.05,
        threshold_mode="abs",
        cooldown=3,
        min_lr=0.01,
        eps=1e-3,
    ),
}

each = pytest.mark.parametrize("name", NAMES)
each_stateless = pytest.mark.parametrize("name", STATELESS)


def parameters(name):
    return inspect.signature(getattr(s, name)).parameters.values()


@each
def test_the_comparisons_leave_no_argument_at_its_default(name):
    for parameter in parameters(name):
        assert getattr(FULL[name], parameter.name) != parameter.default, parameter


def assert_same(schedule, others, tolerance=1e-12):
    ours = [schedule(step) for step in range(len(others))]
    np.testing.assert_allclose(ours, others, rtol=tolerance, atol=0)


# --- PyTorch --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def through_torch(torch, make, lr, steps):
    """The learning rates that a scheduler of PyTorch gives an optimizer."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr, momentum=0.9)
    scheduler = make(torch.optim.lr_scheduler, optimizer)
    rates = []
    for step in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step + 1 < steps:
            scheduler.step()
    return rates


TORCH = {
    "constant": (lambda of, o: of.ConstantLR(o, factor=1.0), 30),
    "linear": (lambda of, o: of.LinearLR(o, start_factor=1.0, end_factor=0.4, total_iters=17), 40),
    "cosine": (lambda of, o: of.CosineAnnealingLR(o, T_max=17, eta_min=0.07), 18),
    "step_decay": (lambda of, o: of.StepLR(o, step_size=6, gamma=0.3), 40),
    "multi_step": (lambda of, o: of.MultiStepLR(o, milestones=[3, 4, 11], gamma=0.3), 30),
    "one_cycle": (
        lambda of, o: of.OneCycleLR(
            o,
            0.5,
            total_steps=23,
            pct_start=0.37,
            anneal_strategy="linear",
            div_factor=7.0,
            final_div_factor=30.0,
            three_phase=True,
        ),
        23,
    ),
    "warm_restarts": (lambda of, o: of.CosineAnnealingWarmRestarts(o, T_0=3, T_mult=2, eta_min=0.07), 100),
}


@pytest.mark.parametrize("name", TORCH)
def test_schedules_are_those_of_torch(torch, name):
    make, steps = TORCH[name]
    lr = FULL[name](0) if name != "one_cycle" else 0.5
    assert_same(FULL[name], through_torch(torch, make, lr, steps))


def test_polynomial_is_torch_s(torch):
    others = through_torch(torch, lambda of, o: of.PolynomialLR(o, total_iters=17, power=2.5), 0.5, 40)
    assert_same(s.polynomial(0.5, steps=17, power=2.5), others)


def test_exponential_is_torch_s(torch):
    assert_same(s.exponential(0.5, gamma=0.93), through_torch(torch, lambda of, o: of.ExponentialLR(o, gamma=0.93), 0.5, 60))


@pytest.mark.parametrize("anneal, word", [("cosine", "cos"), ("linear", "linear")])
@pytest.mark.parametrize("three_phase", [False, True])
@pytest.mark.parametrize("steps, pct_start", [(40, 0.25), (41, 0.37), (7, 0.5), (5, 0.1), (3, 0.0), (2, 0.3)])
def test_one_cycle_is_torch_s(torch, anneal, word, three_phase, steps, pct_start):
    def make(of, optimizer):
        return of.OneCycleLR(
            optimizer,
            0.6,
            total_steps=steps,
            pct_start=pct_start,
            anneal_strategy=word,
            div_factor=9.0,
            final_div_factor=70.0,
            three_phase=three_phase,
            cycle_momentum=False,
        )

    ours = s.one_cycle(
        0.6,
        steps=steps,
        pct_start=pct_start,
        anneal=anneal,
        div_factor=9.0,
        final_div_factor=70.0,
        three_phase=three_phase,
    )
    assert_same(ours, through_torch(torch, make, 1.0, steps))
    assert ours(steps - 1) == ours(steps) == ours(10**12) == 0.6 / 9.0 / 70.0


def test_one_cycle_moves_momentum_the_other_way(torch):
    """A schedule serves any hyperparameter: PyTorch's momentum falls to its base while the rate rises, and comes back."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0, momentum=0.9)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1.0, total_steps=40, pct_start=0.25, base_momentum=0.8, max_momentum=0.96
    )
    momenta = []
    for step in range(40):
        momenta.append(optimizer.param_groups[0]["momentum"])
        optimizer.step()
        if step < 39:
            cycle.step()
    down = s.cosine(0.96, steps=9, final=0.8)
    assert_same(s.sequential([down, s.cosine(0.8, steps=30, final=0.96)], [9]), momenta)


@pytest.mark.parametrize("t_mult", [1, 2, 3, 7])
def test_warm_restarts_are_torch_s(torch, t_mult):
    others = through_torch(torch, lambda of, o: of.CosineAnnealingWarmRestarts(o, 4, t_mult, 0.03), 0.5, 1500)
    assert_same(s.warm_restarts(0.5, t_0=4, t_mult=t_mult, eta_min=0.03), others)


def test_sequential_is_torch_s(torch):
    def make(of, o):
        return of.SequentialLR(
            o,
            [of.LinearLR(o, 0.25, 1.0, total_iters=5), of.StepLR(o, 3, gamma=0.5), of.ExponentialLR(o, 0.9)],
            [5, 14],
        )

    ours = s.sequential(
        [s.linear(0.1, steps=5, final=0.4), s.step_decay(0.4, step_size=3, gamma=0.5), s.exponential(0.4, gamma=0.9)], [5, 14]
    )
    assert_same(ours, through_torch(torch, make, 0.4, 40))


def test_warmup_is_torch_s(torch):
    def make(of, o):
        return of.SequentialLR(o, [of.LinearLR(o, 0.2, 1.0, total_iters=6), of.CosineAnnealingLR(o, 20, 0.07)], [6])

    assert_same(s.warmup(s.cosine(0.5, steps=20, final=0.07), steps=6, start=0.1), through_torch(torch, make, 0.5, 27))


METRICS = [3.0, 2.9, 2.95, 2.9, 2.9, 3.1, math.nan, 2.0, 2.0, 1.99, 1.98, 1.97, math.inf, 5.0, 1.0, *[1.0] * 40]


@pytest.mark.parametrize("mode, threshold_mode", [*itertools.product(("min", "max"), ("rel", "abs"))])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("patience, cooldown", [(0, 0), (1, 2), (2, 3)])
def test_reduce_on_plateau_is_torch_s(torch, mode, threshold_mode, sign, patience, cooldown):
    arguments = {"mode": mode, "factor": 0.3, "patience": patience, "threshold": 0.01, "threshold_mode": threshold_mode}
    arguments |= {"cooldown": cooldown, "min_lr": 1e-3, "eps": 5e-4}
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **arguments)
    ours = s.ReduceOnPlateau(0.5, **arguments)
    for step, metric in enumerate(METRICS):
        theirs.step(sign * metric)
        assert ours.update(sign * metric) == ours(step) == optimizer.param_groups[0]["lr"]
        assert ours.best == theirs.best
        assert (ours.num_bad, ours.cooldown_left) == (theirs.num_bad_epochs, theirs.cooldown_counter)
    if mode == "min":  # the sixth fall, to `min_lr`, is smaller than `eps`
        assert ours(0) == pytest.approx(0.5 * 0.3**5)


# --- Optax ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def optax():
    pytest.importorskip("jax").config.update("jax_enable_x64", True)
    return pytest.importorskip("optax")


OPTAX = {
    "constant": lambda optax: optax.constant_schedule(0.3),
    "linear": lambda optax: optax.linear_schedule(0.5, 0.2, 17),
    "cosine": lambda optax: optax.cosine_decay_schedule(0.5, 17, alpha=0.07 / 0.5),
    "polynomial": lambda optax: optax.polynomial_schedule(0.5, 0.07, 2.5, 17),
    "exponential": lambda optax: optax.exponential_decay(0.5, 7, 0.3, end_value=0.02),
    "step_decay": lambda optax: optax.exponential_decay(0.5, 6, 0.3, staircase=True),
    "multi_step": lambda optax: optax.piecewise_constant_schedule(0.5, {3: 0.3, 4: 0.3, 11: 0.3}),
    "warm_restarts": lambda optax: optax.sgdr_schedule(
        [
            {"init_value": 0.0, "peak_value": 0.5, "warmup_steps": 0, "decay_steps": 3 * 2**i, "end_value": 0.07}
            for i in range(5)
        ]
    ),
    "warmup_stable_decay": lambda optax: optax.join_schedules(
        [
            optax.linear_schedule(0.1, 0.5, 5),
            optax.constant_schedule(0.5),
            optax.cosine_decay_schedule(0.5, 9, alpha=0.07 / 0.5),
        ],
        [5, 12],
    ),
    "warmup": lambda optax: optax.warmup_cosine_decay_schedule(0.1, 0.5, 5, 22, end_value=0.07),
    "sequential": lambda optax: optax.join_schedules(
        [
            optax.constant_schedule(0.1),
            optax.exponential_decay(0.5, 3, 0.1, staircase=True),
            optax.exponential_decay(0.4, 1, 0.9),
        ],
        [4, 15],
    ),
}


@pytest.mark.parametrize("name", OPTAX)
def test_schedules_are_those_of_optax(optax, name):
    theirs = OPTAX[name](optax)
    assert_same(FULL[name], [float(theirs(step)) for step in range(60)])


def test_growth_and_its_limit_are_optax_s(optax):
    theirs = optax.exponential_decay(0.1, 5, 1.7, end_value=0.9)
    ours = s.exponential(0.1, gamma=1.7, steps=5, final=0.9)
    assert_same(ours, [float(theirs(step)) for step in range(60)])
    assert ours(10**6) == 0.9


def test_warmup_before_exponential_is_optax_s(optax):
    theirs = optax.warmup_exponential_decay_schedule(0.1, 0.5, 5, 7, 0.3, end_value=0.02)
    ours = s.warmup(s.exponential(0.5, gamma=0.3, steps=7, final=0.02), steps=5, start=0.1)
    assert_same(ours, [float(theirs(step)) for step in range(60)])


def test_one_cycle_is_optax_s(optax):
    """Their peak is at step 10 and their end at step 40, so our cycle of 41 steps has its peak after 11 of them."""
    arguments = {"div_factor": 9.0, "final_div_factor": 70.0}
    theirs = optax.cosine_onecycle_schedule(40, 0.6, 0.25, **arguments)
    ours = s.one_cycle(0.6, steps=41, pct_start=11 / 41, **arguments)
    assert_same(ours, [float(theirs(step)) for step in range(60)])
    theirs = optax.linear_onecycle_schedule(40, 0.6, 0.25, 0.5, **arguments)
    ours = s.one_cycle(0.6, steps=41, pct_start=11 / 41, anneal="linear", three_phase=True, **arguments)
    assert_same(ours, [float(theirs(step)) for step in range(60)])


# --- the papers' formulas -------------------------------------------------------------------------------------------------


def test_cosine_is_the_paper_s():
    """Loshchilov & Hutter (2017), equation 5."""
    others = [0.07 + 0.5 * (0.5 - 0.07) * (1 + math.cos(math.pi * min(t, 17) / 17)) for t in range(40)]
    assert_same(FULL["cosine"], others)


def test_warm_restarts_are_the_paper_s():
    others = []
    for length in (3, 6, 12, 24, 48):
        others += [0.07 + 0.5 * (0.5 - 0.07) * (1 + math.cos(math.pi * t / length)) for t in range(length)]
    assert_same(FULL["warm_restarts"], others)


def test_polynomial_and_linear_are_their_formulas():
    others = [0.07 + 0.43 * max(1 - t / 17, 0) ** 2.5 for t in range(40)]
    assert_same(FULL["polynomial"], others)
    assert_same(FULL["linear"], [max(0.5 - 0.3 * t / 17, 0.2) for t in range(40)])
    straight = s.polynomial(0.5, steps=17, final=0.2)
    assert_same(straight, [FULL["linear"](step) for step in range(40)])


def test_geometric_schedules_are_their_formulas():
    assert_same(FULL["exponential"], [max(0.5 * 0.3 ** (t / 7), 0.02) for t in range(40)])
    assert_same(FULL["step_decay"], [0.5 * 0.3 ** (t // 6) for t in range(40)])
    assert [FULL["multi_step"](t) for t in (0, 2, 3, 4, 10, 11, 99)] == [0.5 * 0.3**k for k in (0, 0, 1, 2, 2, 3, 3)]


def test_noam_is_the_transformer_s():
    """Vaswani et al. (2017), equation 3, whose steps count from 1."""
    d_model, warmup = 512, 40
    others = [d_model**-0.5 * min(n**-0.5, n * warmup**-1.5) for n in range(1, 400)]
    assert_same(s.inverse_sqrt((d_model * warmup) ** -0.5, warmup=warmup), others)


def test_inverse_sqrt_is_t5_s():
    """Raffel et al. (2020), section 3.1.2."""
    others = [1 / math.sqrt(max(n, 100)) for n in range(1, 1000)]
    assert_same(s.inverse_sqrt(0.1, warmup=100, start=0.1), others)


def test_inverse_sqrt_starts_where_it_is_told_to():
    up = [0.1 + 0.4 * n / 9 for n in range(1, 10)]
    down = [0.5 * math.sqrt(9 / n) for n in range(10, 40)]
    assert_same(FULL["inverse_sqrt"], up + down)


@pytest.mark.parametrize("anneal", ["linear", "cosine", "sqrt"])
def test_warmup_stable_decay_is_the_paper_s(anneal):
    """Hägele et al. (2024), equations 1 and 2."""
    shape = {"linear": lambda x: 1 - x, "cosine": lambda x: 0.5 + 0.5 * math.cos(math.pi * x), "sqrt": lambda x: 1 - x**0.5}
    up = [0.1 + 0.4 * t / 5 for t in range(5)]
    down = [0.07 + 0.43 * shape[anneal](t / 9) for t in range(9)]
    ours = s.warmup_stable_decay(0.5, warmup=5, stable=7, decay=9, anneal=anneal, start=0.1, final=0.07)
    assert_same(ours, up + [0.5] * 7 + down + [0.07] * 20)


def test_one_cycle_is_smith_s():
    """Three phases of straight lines: as many steps up as down, and a tail to a small part of where it began."""
    ours = s.one_cycle(
        1.0, steps=101, pct_start=41 / 101, anneal="linear", div_factor=10.0, final_div_factor=100.0, three_phase=True
    )
    others = np.interp(np.arange(150), [0, 40, 80, 100], [0.1, 1.0, 0.1, 0.001])
    np.testing.assert_allclose([ours(step) for step in range(150)], others, rtol=1e-12)


# --- borders --------------------------------------------------------------------------------------------------------------

FINAL = {
    "constant": 0.3,
    "linear": 0.2,
    "cosine": 0.07,
    "polynomial": 0.07,
    "exponential": 0.02,
    "one_cycle": 0.5 / 7.0 / 30.0,
    "warmup_stable_decay": 0.07,
    "warmup": 0.07,
}


@pytest.mark.parametrize("name", FINAL)
def test_after_the_end_a_schedule_stays_at_its_final_number(name):
    for step in (60, 2**31 - 1, 2**31, 2**53):
        assert FULL[name](step) == FINAL[name]


@pytest.mark.parametrize("make", [s.linear, s.cosine, s.polynomial])
@pytest.mark.parametrize("first, last", [(0.1, 0.7), (1e-3, 1e-7), (-0.3, 0.1), (1e300, 1e-300), (0.1, 0.1)])
def test_ends_are_exact_and_nothing_lies_beyond_them(make, first, last):
    for steps in (1, 2, 3, 10, 97):
        schedule = make(first, steps=steps, final=last)
        values = [schedule(step) for step in range(steps + 3)]
        assert values[0] == first
        assert values[steps:] == [last] * 3
        assert min(first, last) <= min(values) <= max(values) <= max(first, last)
        assert sorted(values, reverse=first > last) == values


@pytest.mark.parametrize("t_0, t_mult", [(1, 2), (3, 2), (1, 3), (5, 3), (7, 10), (1, 1000), (10, 1)])
def test_restarts_are_where_they_should_be(t_0, t_mult):
    """Next to every restart up to 2**53, where a logarithm in double may be one off."""
    schedule = s.warm_restarts(1.0, t_0=t_0, t_mult=t_mult, eta_min=0.1)
    begin, length = 0, t_0
    for _ in range(60):
        if begin + length >= 2**53:
            break
        assert schedule(begin) == 1.0
        last = 0.1 + 0.9 * (1 + math.cos(math.pi * (length - 1) / length)) / 2
        assert schedule(begin + length - 1) == pytest.approx(last, rel=1e-12)
        begin, length = begin + length, length * t_mult


def test_phases_of_no_length():
    assert [s.warmup_stable_decay(1.0, warmup=0, stable=2, decay=0, final=0.5)(t) for t in range(4)] == [1.0, 1.0, 0.5, 0.5]
    falling = s.linear(1.0, steps=4)
    assert [s.warmup(falling, steps=0, start=9.0)(t) for t in range(5)] == [falling(t) for t in range(5)]
    assert [s.sequential([s.constant(1), s.constant(2), s.constant(3)], [2, 2])(t) for t in range(4)] == [1, 1, 3, 3]
    assert s.sequential([falling], [])(1) == 0.75
    assert s.one_cycle(1.0, steps=1, pct_start=1.0)(0) == 1.0
    assert s.one_cycle(1.0, steps=2, pct_start=0.5)(0) == 1.0


def test_what_grows_beyond_all_floats_is_infinite():
    assert s.exponential(2.0, gamma=3.0)(10**9) == math.inf
    assert s.step_decay(-2.0, step_size=1, gamma=3.0)(10**9) == -math.inf
    assert s.exponential(0.0, gamma=3.0)(10**9) == 0.0
    assert s.exponential(2.0, gamma=0.3)(10**9) == 0.0


@each
def test_a_number_is_a_python_float_whatever_counts_the_steps(name):
    schedule = FULL[name]
    for step in (0, 3, 2**31, 2**53):
        value = schedule(step)
        assert type(value) is float
        assert math.isfinite(value)
        for count in (np.int64, np.uint64, np.array):
            assert schedule(count(step)) == value
    assert schedule(np.int8(3)) == schedule(np.uint16(3)) == schedule(3)


@pytest.mark.parametrize("make", [lambda x: x, np.float32, np.float64, np.array])
def test_arguments_become_python_numbers(make):
    schedule = s.cosine(make(0.5), steps=np.int32(4), final=make(0.25))
    assert schedule == s.cosine(0.5, steps=4, final=0.25)
    assert repr(schedule) == "cosine(init=0.5, steps=4, final=0.25)"
    assert type(schedule(3)) is float


def test_schedules_take_any_function_of_the_step():
    assert s.warmup(lambda step: 4 - step, steps=2)(3) == 3.0
    assert s.sequential([math.sqrt, s.constant(2)], [5])(4) == 2.0
    plateau = s.ReduceOnPlateau(1.0, factor=0.5, patience=0)
    rising = s.warmup(plateau, steps=4)
    assert (rising(2), rising(4)) == (0.5, 1.0)
    plateau.update(1.0), plateau.update(1.0)
    assert (rising(2), rising(4)) == (0.25, 0.5)


# --- errors ---------------------------------------------------------------------------------------------------------------

WRONG = [
    (lambda: s.cosine(math.nan, steps=3), ValueError, "cosine: init must be a real number, got nan"),
    (lambda: s.cosine("1", steps=3), TypeError, "cosine: init must be a number"),
    (lambda: s.linear(1.0, steps=0), ValueError, "linear: steps must be a whole number from 1 to 2**53, got 0"),
    (lambda: s.linear(1.0, steps=2.0), TypeError, "linear: steps must be a whole number from 1 to 2**53, got 2.0"),
    (lambda: s.linear(1.0, steps=True), TypeError, "linear: steps must be a whole number from 1 to 2**53, got True"),
    (lambda: s.linear(1.0, steps=2**53 + 1), ValueError, "must be a whole number from 1 to 2**53, got 9007199254740993"),
    (lambda: s.linear(1.0, steps=3, final=math.inf), ValueError, "linear: final must be a real number, got inf"),
    (lambda: s.polynomial(1.0, steps=3, power=0), ValueError, "polynomial: power must be > 0, got 0"),
    (lambda: s.exponential(-1.0, gamma=0.5), ValueError, "exponential: init must be >= 0, got -1"),
    (lambda: s.exponential(1.0, gamma=0.0), ValueError, "exponential: gamma must be > 0, got 0"),
    (lambda: s.exponential(1.0, gamma=0.5, final=-1), ValueError, "exponential: final must be >= 0, got -1"),
    (
        lambda: s.step_decay(1.0, step_size=-1),
        ValueError,
        "step_decay: step_size must be a whole number from 1 to 2**53, got -1",
    ),
    (
        lambda: s.multi_step(1.0, milestones=[3, 2]),
        ValueError,
        "multi_step: milestones must be a list of whole numbers from 0 to 2**53 that do not fall, got [3, 2]",
    ),
    (lambda: s.multi_step(1.0, milestones=3), TypeError, "multi_step: milestones must be a list of whole numbers"),
    (
        lambda: s.multi_step(1.0, milestones=[1, 2.5]),
        TypeError,
        "multi_step: milestones[1] must be a whole number from 0 to 2**53, got 2.5",
    ),
    (lambda: s.inverse_sqrt(1.0, warmup=0), ValueError, "inverse_sqrt: warmup must be a whole number from 1 to 2**53, got 0"),
    (lambda: s.one_cycle(1.0, steps=9, pct_start=1.5), ValueError, "one_cycle: pct_start must be in [0, 1], got 1.5"),
    (
        lambda: s.one_cycle(1.0, steps=9, pct_start=0.6, three_phase=True),
        ValueError,
        "one_cycle: pct_start must be in [0, 0.5] in three phases, got 0.6",
    ),
    (lambda: s.one_cycle(1.0, steps=9, anneal="cos"), ValueError, "one_cycle: anneal must be 'cosine' or 'linear', got 'cos'"),
    (lambda: s.one_cycle(1.0, steps=9, div_factor=0), ValueError, "one_cycle: div_factor must be > 0, got 0"),
    (lambda: s.one_cycle(1.0, steps=9, three_phase=2), TypeError, "one_cycle: three_phase must be True or False, got 2"),
    (lambda: s.warm_restarts(1.0, t_0=0), ValueError, "warm_restarts: t_0 must be a whole number from 1 to 2**53, got 0"),
    (lambda: s.warm_restarts(1.0, t_0=1, t_mult=1.5), TypeError, "warm_restarts: t_mult must be a whole number"),
    (
        lambda: s.warmup_stable_decay(1.0, warmup=1, stable=-1, decay=1),
        ValueError,
        "warmup_stable_decay: stable must be a whole number from 0 to 2**53, got -1",
    ),
    (lambda: s.warmup(0.1, steps=3), TypeError, "warmup: schedule must be a function of the step, got 0.1"),
    (lambda: s.warmup(lambda step: "x", steps=0)(7), TypeError, "warmup: schedule(7) must be a number"),
    (lambda: s.warmup(lambda step: math.nan, steps=9)(7), ValueError, "warmup: schedule(0) must be a real number, got nan"),
    (lambda: s.sequential([], []), ValueError, "sequential: schedules must hold at least one, got none"),
    (
        lambda: s.sequential(s.constant(1), []),
        TypeError,
        "sequential: schedules must be a list of functions of the step, got const",
    ),
    (lambda: s.sequential([1.0], []), TypeError, "sequential: schedules[0] must be a function of the step, got 1.0"),
    (
        lambda: s.sequential([abs], [1]),
        ValueError,
        "sequential: milestones must be one less than there are schedules: 0, got 1",
    ),
    (
        lambda: s.sequential([abs, lambda step: None], [4])(9),
        TypeError,
        "sequential: schedules[1](5) must be a number",
    ),
    (lambda: s.ReduceOnPlateau(1.0, factor=1.0), ValueError, "ReduceOnPlateau: factor must be in [0, 1), got 1"),
    (lambda: s.ReduceOnPlateau(1.0, mode="low"), ValueError, "ReduceOnPlateau: mode must be 'min' or 'max', got 'low'"),
    (lambda: s.ReduceOnPlateau(1.0).update("bad"), TypeError, "ReduceOnPlateau: metric must be a number"),
]


@pytest.mark.parametrize("call, error, message", WRONG, ids=[message[:60] for _, _, message in WRONG])
def test_errors_say_who_and_what_must_be_and_what_was(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()


@each
@pytest.mark.parametrize(
    "step, error",
    [(-1, ValueError), (2**53 + 1, ValueError), (10**400, ValueError), (1.0, TypeError), (None, TypeError), (True, TypeError)],
)
def test_steps_are_whole_numbers(name, step, error):
    with pytest.raises(error, match=re.escape(f"{name}: step must be a whole number from 0 to 2**53, got {step}")):
        FULL[name](step)


# --- objects --------------------------------------------------------------------------------------------------------------


@each
def test_schedules_are_copied_and_pickled(name):
    schedule = FULL[name]
    copies = [copy.copy(schedule), copy.deepcopy(schedule)]
    copies += [pickle.loads(pickle.dumps(schedule, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    for twin in copies:
        assert type(twin) is type(schedule)
        assert repr(twin) == repr(schedule)
        assert [twin(step) for step in range(30)] == [schedule(step) for step in range(30)]


@each_stateless
def test_schedules_are_equal_by_what_they_were_made_of(name):
    schedule = FULL[name]
    twin = pickle.loads(pickle.dumps(schedule))
    assert twin == schedule
    assert hash(twin) == hash(schedule)
    assert len({twin, schedule}) == 1
    assert all(schedule != other for key, other in FULL.items() if key != name)


@each_stateless
def test_repr_is_the_call_that_makes_it(name):
    assert eval(repr(FULL[name]), vars(s)) == FULL[name]


@each
def test_schedules_do_not_change(name):
    schedule = FULL[name]
    for parameter in parameters(name):
        message = f"{name}: {parameter.name} must stay what it is, make another schedule"
        with pytest.raises(AttributeError, match=message):
            setattr(schedule, parameter.name, 1)
        with pytest.raises(AttributeError, match=message):
            delattr(schedule, parameter.name)
    with pytest.raises(AttributeError, match="other must stay"):
        schedule.other = 1


@each
def test_all_but_the_first_argument_is_named(name):
    first, *others = parameters(name)
    assert first.kind is first.POSITIONAL_OR_KEYWORD
    for parameter in others:
        assert parameter.kind is (parameter.KEYWORD_ONLY if name != "sequential" else parameter.POSITIONAL_OR_KEYWORD)


# --- state ----------------------------------------------------------------------------------------------------------------


def test_reduce_on_plateau_goes_on_from_its_state():
    arguments = {"factor": 0.5, "patience": 2, "cooldown": 1, "threshold": 0.1}
    whole, first = s.ReduceOnPlateau(1.0, **arguments), s.ReduceOnPlateau(1.0, **arguments)
    values = [whole.update(metric) for metric in METRICS]
    for k, metric in enumerate(METRICS[:20]):
        assert first.update(metric) == values[k]
        state = json.loads(json.dumps(first.state_dict()))
        assert state == first.state_dict()
        second = s.ReduceOnPlateau(1.0, **arguments)
        second.load_state_dict(state)
        copied = copy.deepcopy(first)
        assert [second.update(metric) for metric in METRICS[k + 1 :]] == values[k + 1 :]
        assert [copied.update(metric) for metric in METRICS[k + 1 :]] == values[k + 1 :]
        assert first.state_dict() == state


def test_a_wrong_state_changes_nothing():
    schedule = s.ReduceOnPlateau(1.0)
    schedule.update(3.0)
    before = schedule.state_dict()
    assert before == {"value": 1.0, "best": 3.0, "num_bad": 0, "cooldown_left": 0}
    wrong = [
        (None, "state_dict must be a dictionary of value, best, num_bad, cooldown_left, got NoneType"),
        ({}, "state_dict must be a dictionary of value, best, num_bad, cooldown_left, got nothing"),
        (before | {"lr": 1.0}, "state_dict must be a dictionary"),
        (before | {"value": math.inf}, "value must be a real number, got inf"),
        (before | {"best": math.nan}, "best must be a real number, got nan"),
        (before | {"num_bad": -1}, "num_bad must be a whole number from 0 to 2**53, got -1"),
        (before | {"value": 0.5, "cooldown_left": 1.5}, "cooldown_left must be a whole number from 0 to 2**53, got 1.5"),
    ]
    for state, message in wrong:
        with pytest.raises((ValueError, TypeError), match=re.escape(f"ReduceOnPlateau: {message}")):
            schedule.load_state_dict(state)
        assert schedule.state_dict() == before


def test_any_first_metric_is_better_than_none():
    """PyTorch takes a part of infinity, so that at a threshold of 1 no metric is ever better."""
    for mode, metric in (("min", 5.0), ("max", -5.0)):
        schedule = s.ReduceOnPlateau(1.0, mode=mode, threshold=1.0)
        schedule.update(metric)
        assert schedule.best == metric


@pytest.mark.parametrize("make", [np.float32, np.float64, np.array, np.int16, int])
def test_metrics_are_any_numbers(make):
    schedule = s.ReduceOnPlateau(1.0)
    schedule.update(make(3))
    assert schedule.best == 3.0
    assert type(schedule.best) is float
    schedule.update(np.float32("nan"))
    assert schedule.num_bad == 1


# --- documentation --------------------------------------------------------------------------------------------------------


def sections(text):
    parts = re.split(r"^(\w[\w ]*)\n-{3,}$", textwrap.dedent(text), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@each
def test_docstrings_are_numpydoc(name):
    schedule = getattr(s, name)
    doc = inspect.cleandoc(schedule.__doc__)
    summary, formula, _ = doc.split("\n\n", 2)
    assert summary.endswith(".")
    assert "\n" not in summary
    assert formula.startswith(".. math::")
    found = sections(doc)
    assert [title for title in found if title not in ("Attributes", "References")] == ["Parameters", "Examples"]
    for parameter in parameters(name):
        described = re.search(rf"^{parameter.name} : (.+)\n    (.+)", found["Parameters"], re.M)
        assert described, parameter
        domain = str(schedule._domains[parameter.name])
        assert domain[1:] in described[2], "the domain stands in the text"
        if parameter.default is not parameter.empty:
            default = ", optional" if parameter.default is None else f", default {parameter.default!r}"
            assert described[1].endswith(default)
    if name not in ("constant", "sequential"):
        assert re.search(r"\.\. \[1\] .+\(\d{4}\)", found["References"])


@each
def test_examples_run(name):
    example = doctest.DocTestParser().get_doctest(getattr(s, name).__doc__, {}, name, None, 0)
    assert example.examples
    out = []
    assert doctest.DocTestRunner().run(example, out=out.append).failed == 0, "".join(out)


def test_all_is_what_there_is():
    made = [name for name, value in vars(s).items() if inspect.isclass(value) and issubclass(value, s.Schedule)]
    assert sorted(made) == sorted([*NAMES, "Schedule"])
    assert fl.schedules is s


def test_a_schedule_moves_an_optimizer():
    weights = np.ones(3)
    optimizer = fl.SGD(weights, lr=1.0)
    schedule = s.linear(1.0, steps=4)
    for step in range(6):
        optimizer.param_groups[0]["lr"] = schedule(step)
        optimizer.step(np.ones(3))
    assert weights.tolist() == [1 - (1 + 0.75 + 0.5 + 0.25)] * 3
