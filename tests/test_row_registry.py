"""Every row loss, compiled: against its formula at 50 digits, against its peers, and the layouts and threads it must not mind."""

import itertools

import numpy as np
import peers
import pytest
from test_formulas import away_from_default

import fastloss as fl
from fastloss.formula import MEMBERS, PROBABILITIES, Class, Classes, ClassWeight, Label, PerRow, oracle

each_loss = pytest.mark.parametrize("name", fl.losses.ROWS)


def settings(formula):
    """Every variant, with all other hyperparameters away from their defaults: (hyperparameters, flags of the variant)."""
    count = len(formula.parameters)
    for choice in formula.choices():
        values = {
            name: away_from_default(domain, 1.7) if chosen is None else None if chosen == "none" else chosen
            for (name, domain), chosen in zip(formula.parameters.items(), choice[:count], strict=True)
        }
        yield values, [name for name, flag in zip(formula.flags, choice[count:], strict=True) if flag]


def draw(formula, shape, there=(), seed=0):
    """Rows inside the domains, the label's and the rows' numbers besides."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, domain in formula.input_domains.items():
        if isinstance(domain, Classes):
            arrays[name] = lists(rng, shape)
        elif isinstance(domain, Class) and PROBABILITIES in there:
            arrays[name] = rng.dirichlet(np.ones(shape[-1]), shape[:-1])
        elif isinstance(domain, Class):
            arrays[name] = rng.integers(0, shape[-1], shape[:-1])
        elif isinstance(domain, ClassWeight):
            if name in there:
                arrays[name] = rng.uniform(0.2, 2, shape[-1])
        elif isinstance(domain, PerRow):
            is_label = isinstance(domain.domain, Label)
            arrays[name] = rng.choice([-1.0, 1.0], shape[:-1]) if is_label else rng.uniform(0.1, 0.9, shape[:-1])
        elif domain.low == 0 and domain.high == 1:
            arrays[name] = rng.uniform(0.02, 0.98, shape)
        else:
            arrays[name] = rng.normal(0, 1.5, shape)
    return arrays


def lists(rng, shape):
    """Lists of labels: none, all, one twice, and what stands behind the end."""
    found = rng.permuted(np.broadcast_to(np.arange(shape[-1]), shape), axis=-1)
    ends = rng.integers(0, min(shape[-1], 5) + 1, shape[:-1])
    np.put_along_axis(found, np.minimum(ends, shape[-1] - 1)[..., None], -1, -1)
    found[1::5, 1:2] = found[1::5, :1]
    return found


def exactly(formula, traced, point, vector):
    """The oracle's results; where a row has a list of labels, summed over it."""
    if not formula.has_lists:
        return oracle.evaluate(traced, point, vector)
    listed = list(itertools.takewhile(lambda label: label >= 0, point[formula.label]))
    length = len(point[formula.label])
    marks = {MEMBERS: [float(j in listed) for j in range(length)]}
    results = {}
    for label in listed:
        exact = oracle.evaluate(traced, point | {formula.label: label} | marks, vector)
        for role, found in exact.items():
            at_label = exact.get(f"label_{role}", 0)
            results.setdefault(role, 0)
            results[role] = results[role] + np.array(found) + at_label * (np.arange(length) == label if at_label else 0)
    return {role: np.asarray(results[role]).tolist() if listed else 0.0 for role in (results or traced.outputs)}


def each(results):
    return results if isinstance(results, tuple) else (results,)


@pytest.mark.parametrize("length", [2, 7, 70])
@each_loss
def test_results_are_the_formulas_to_fifty_digits(name, length):
    pytest.importorskip("mpmath")
    loss = getattr(fl, name)
    formula = loss.formula
    for k, (values, there) in enumerate(settings(formula)):
        arrays = draw(formula, (2, length), there, seed=k)
        value, grad, hess = loss.value_grad_hess(**arrays, **values, reduction="none")
        traced = formula.trace(formula.choice(values, there))
        for row in range(2 if length < 70 else 1):
            point = {n: a.tolist() if n in there else a[row].tolist() for n, a in arrays.items()}
            exact = exactly(formula, traced, point, formula.vector(values))
            assert value[row] == pytest.approx(float(exact["value"]), rel=1e-12, abs=1e-13)
            for kind, results in (("grad", each(grad)), ("hess", each(hess))):
                for argument, result in zip(formula.differentiable, results, strict=True):
                    expected = exact[f"{kind}_{argument}"]
                    expected = [float(e) for e in expected] if isinstance(expected, list) else [float(expected)] * length
                    if formula.label and PROBABILITIES not in there and not formula.has_lists:
                        expected[point[formula.label]] += float(exact[f"label_{kind}_{argument}"])
                    scale = max(1, np.abs(expected).max())
                    np.testing.assert_allclose(
                        result[row], expected, rtol=1e-11, atol=1e-13 * scale, err_msg=f"{kind} {values}"
                    )


@pytest.mark.parametrize("length", [2, 7, 70])
@pytest.mark.parametrize("name", [name for name in fl.losses.ROWS if getattr(fl, name).formula.curvature])
def test_hessian_vector_products_are_the_formulas_to_fifty_digits(name, length):
    """Of the oracle's formula, and of the numerical derivative of its gradient along the vector."""
    mp = pytest.importorskip("mpmath")
    loss = getattr(fl, name)
    formula, (argument, *_) = loss.formula, loss.formula.differentiable
    for k, (values, there) in enumerate(settings(formula)):
        arrays = draw(formula, (1, length), there, seed=k)
        vector = np.random.default_rng(k).normal(size=(1, length))
        found = loss.hvp(**arrays, **values, vector=vector, reduction="sum")[0]
        traced, parameters = formula.trace(formula.choice(values, there)), formula.vector(values)
        point = {n: a.tolist() if n in there else a[0].tolist() for n, a in arrays.items()}
        exact = oracle.evaluate(traced, point | {"vector": vector[0].tolist()}, parameters)
        expected = [float(e) for e in exact[f"hvp_{argument}"]]
        with mp.workdps(60):

            def gradient(step, j, traced=traced, point=point, vector=vector, parameters=parameters):
                moved = [mp.mpf(x) + step * mp.mpf(v) for x, v in zip(point[argument], vector[0].tolist(), strict=True)]
                return oracle.Point(traced, point | {argument: moved}, parameters).value(traced.outputs[f"grad_{argument}"], j)

            slopes = [float(mp.diff(lambda t, j=j: gradient(t, j), 0)) for j in range(length if length < 70 else 2)]
        np.testing.assert_allclose(expected[: len(slopes)], slopes, rtol=1e-12, atol=1e-14)
        if formula.label and PROBABILITIES not in there:
            expected[point[formula.label]] += float(exact[f"label_hvp_{argument}"])
        np.testing.assert_allclose(
            found, expected, rtol=1e-11, atol=1e-13 * max(1, np.abs(expected).max()), err_msg=str(values)
        )


@each_loss
def test_values_and_gradients_equal_the_peers(name):
    loss = getattr(fl, name)
    formula = loss.formula
    for peer in formula.peers:
        for values, there in settings(formula):
            arrays = draw(formula, (9, 12), there, seed=3)
            expected, gradients = peers.evaluate(formula, peer, arrays, values)
            value, grad = loss.value_and_grad(**arrays, **values, reduction="none")
            np.testing.assert_allclose(value, expected, rtol=1e-10, atol=1e-12, err_msg=f"{values} {there}")
            for argument, result in zip(formula.differentiable, each(grad), strict=True):
                if gradients:
                    np.testing.assert_allclose(result, gradients[argument], rtol=1e-10, atol=1e-12, err_msg=f"{values} {there}")


@pytest.mark.parametrize("length", [3, 63, 64, 1025])
@each_loss
def test_layouts_dtypes_and_threads(name, length):
    """float32 is near float64; strides, another axis and threads change no bit."""
    loss = getattr(fl, name)
    arrays = draw(loss.formula, (301, length), loss.formula.optional, seed=5)
    wide = loss.value_and_grad(**arrays)
    rows = [n for n, a in arrays.items() if a.ndim == 2]
    single = {n: a.astype(np.float32) if a.dtype == np.float64 else a for n, a in arrays.items()}
    value, grad = loss.value_and_grad(**single)
    assert value == pytest.approx(wide[0], rel=2e-4, abs=1e-5)
    for mine, exact in zip(each(grad), each(wide[1]), strict=True):
        assert mine.dtype == np.float32
        np.testing.assert_allclose(mine, exact, atol=1e-4 * np.abs(exact).max())
    fl.set_num_threads(1)
    try:
        alone = loss.value_and_grad(**single)
    finally:
        fl.set_num_threads(1 << 10)
    strided = {n: np.repeat(a, 2, axis=1)[:, ::2] if n in rows else a for n, a in single.items()}
    for other in (alone, loss.value_and_grad(**strided)):
        assert other[0] == value
        for mine, theirs in zip(each(grad), each(other[1]), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    turned = loss.value_and_grad(**{n: np.ascontiguousarray(a.T) if n in rows else a for n, a in single.items()}, axis=0)
    assert turned[0] == pytest.approx(value, rel=1e-4, abs=1e-5)
    for mine, theirs in zip(each(grad), each(turned[1]), strict=True):
        np.testing.assert_allclose(theirs.T, mine, atol=1e-5 * np.abs(mine).max())
