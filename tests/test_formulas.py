"""The formulas themselves, without the compiled core: derivatives against 50 digits, values and gradients against the peers."""

import itertools
import math

import numpy as np
import peers
import pytest

import fastloss.losses
from fastloss.formula import Each, Flag, Label, Optional, oracle

FORMULAS = {name: getattr(fastloss.losses, name).formula for name in fastloss.losses.POINTWISE}
BY_NAME = pytest.mark.parametrize("name", FORMULAS)
PEERS = [(name, peer) for name, formula in FORMULAS.items() for peer in formula.peers]
KINKS = (-1.0, 0.0, 1.0)


def away_from_default(domain, factor):
    """A value inside the domain that is neither the default nor zero nor special."""
    if isinstance(domain, Optional):
        domain = domain.domain
    base = domain.default or 0.3
    for value in (factor * base, 0.8 * base):
        if domain.contains(value) and value not in (domain.default, 0, *domain.special):
            return value
    raise AssertionError(domain)


def settings(formula):
    """Every variant, with all other hyperparameters away from their defaults."""
    for choice, factor in itertools.product(formula.choices(), (0.6, 1.7)):
        yield {
            name: away_from_default(domain, factor) if chosen is None else None if chosen == "none" else chosen
            for (name, domain), chosen in zip(formula.parameters.items(), choice, strict=True)
        }


def inputs(formula, parameters, scale=1.0, count=12, seed=0):
    """Arrays inside the inputs' domains, away from kinks; targets also at the domain's ends."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, domain in formula.input_domains.items():
        is_target = name not in formula.differentiable
        if isinstance(domain, Label):
            array = rng.choice([-1.0, 1.0], count)
        elif domain.high == 1:
            array = rng.uniform(0.01, 0.99, count)
            if is_target:
                array[: count // 2] = np.arange(count // 2) % 2
        elif domain.low == 0:
            array = rng.poisson(3, count) * 1.0 if is_target and not domain.open_low else rng.lognormal(0, 1, count)
        elif domain.low > -math.inf:
            array = domain.low + scale * rng.lognormal(0, 1, count)
        else:
            array = scale * rng.normal(0, 1, count)
        found[name] = array
    if parameters.get("log_input") is False:
        found["pred"] = np.abs(found["pred"])
    if parameters.get("power", 0) >= 2:
        found["target"] += 0.5
    return found


def points(arrays):
    return (dict(zip(arrays, map(float, point), strict=True)) for point in zip(*arrays.values(), strict=True))


def close(a, b, tolerance):
    return a == b or abs(a - b) <= tolerance * max(abs(a), abs(b))


@pytest.mark.parametrize("scale", [1e-4, 1.0, 30.0, 1e18])
@BY_NAME
def test_derivatives_are_those_of_the_value(name, scale):
    pytest.importorskip("mpmath")
    formula = FORMULAS[name]
    for parameters in settings(formula):
        traced = formula.trace(formula.choice(parameters))
        vector = formula.vector(parameters)
        for point in points(inputs(formula, parameters, scale, count=4)):
            exact = oracle.evaluate(traced, point, vector)
            for role, numerical in oracle.differentiate(traced, point, vector).items():
                assert close(exact[role], numerical, 1e-15) or abs(numerical) < 1e-40, (role, point, parameters)


@pytest.mark.parametrize(("name", "peer"), PEERS)
def test_value_and_gradients_equal_the_peers(name, peer):
    pytest.importorskip("mpmath")
    formula = FORMULAS[name]
    for parameters, scale in itertools.product(settings(formula), (0.1, 1.0, 5.0)):
        arrays = inputs(formula, parameters, scale, seed=1)
        value, gradients = peers.evaluate(formula, peer, arrays, parameters)
        traced = formula.trace(formula.choice(parameters))
        for i, point in enumerate(points(arrays)):
            exact = {r: float(v) for r, v in oracle.evaluate(traced, point, formula.vector(parameters)).items()}
            assert value[i] == pytest.approx(exact["value"], rel=1e-11, abs=1e-12), (point, parameters)
            for argument, gradient in (gradients or {}).items():
                expected = exact[f"grad_{argument}"]
                assert gradient[i] == pytest.approx(expected, rel=1e-11, abs=1e-12), (argument, point, parameters)


def defined_everywhere(formula):
    return all(isinstance(d, Label) or d.low == -math.inf for d in formula.input_domains.values())


@pytest.mark.parametrize(
    ("name", "peer"), [(n, p) for n, p in PEERS if p in ("torch", "sklearn") and defined_everywhere(FORMULAS[n])]
)
def test_the_same_subgradient_at_kinks(name, peer):
    pytest.importorskip("mpmath")
    formula = FORMULAS[name]
    parameters = {n: d.default for n, d in formula.parameters.items()}
    grid = np.meshgrid(*(KINKS for _ in formula.inputs))
    arrays = {n: g.ravel() for n, g in zip(formula.inputs, grid, strict=True)}
    traced = formula.trace(formula.choice(parameters))
    _, gradients = peers.evaluate(formula, peer, arrays, parameters)
    for argument, gradient in (gradients or {}).items():
        for i, point in enumerate(points(arrays)):
            exact = oracle.evaluate(traced, point, formula.vector(parameters))[f"grad_{argument}"]
            assert gradient[i] == pytest.approx(float(exact), abs=1e-12), (argument, point)


@BY_NAME
def test_a_nan_in_any_input_is_a_nan_in_every_output(name):
    pytest.importorskip("mpmath")
    formula = FORMULAS[name]
    for parameters in settings(formula):
        traced = formula.trace(formula.choice(parameters))
        point = next(points(inputs(formula, parameters)))
        for argument in formula.inputs:
            outputs = oracle.evaluate(traced, point | {argument: math.nan}, formula.vector(parameters))
            assert all(math.isnan(output) for output in outputs.values()), (argument, parameters)


@BY_NAME
def test_every_loss_says_what_it_is(name):
    formula = FORMULAS[name]
    assert formula.reference
    assert formula.peers
    assert ".. math::" in formula.doc
    summary = formula.doc.partition("\n")[0]
    assert summary.endswith("."), "the first line is one sentence"


@BY_NAME
def test_domains_hold_their_defaults_and_special_values(name):
    formula = FORMULAS[name]
    assert set(formula.differentiable) <= set(formula.inputs)
    for parameter, domain in formula.parameters.items():
        assert str(domain)
        if isinstance(domain, Flag | Each):
            continue
        interval = domain.domain if isinstance(domain, Optional) else domain
        assert domain.check(name, parameter, domain.default) == domain.default
        assert all(interval.contains(special) for special in interval.special)
        for outside in (interval.low - 1, interval.high + 1, math.nan):
            if not interval.contains(outside):
                with pytest.raises(ValueError, match=f"{name}: {parameter} must be"):
                    domain.check(name, parameter, outside)


@pytest.mark.parametrize(
    "name", [n for n, f in FORMULAS.items() if any(isinstance(d, Label) for d in f.input_domains.values())]
)
def test_labels_may_be_0_and_1_or_minus_1_and_1(name):
    pytest.importorskip("mpmath")
    formula = FORMULAS[name]
    parameters = {n: d.default for n, d in formula.parameters.items()}
    traced = formula.trace(formula.choice(parameters))
    point = next(points(inputs(formula, parameters)))
    zero, minus_one = (oracle.evaluate(traced, point | {"target": t}, formula.vector(parameters)) for t in (0.0, -1.0))
    assert zero == minus_one
