"""Losses and rules as functions for `@njit` code: the kernels' own bits in every variant, in loops, in parallel, over arrays."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from inputs import CASES, ONE_EACH, columns, flatten
from test_own_losses import assert_equal

import fastloss as fl
from fastloss.formula import Flag, Optional

numba = pytest.importorskip("numba", reason="functions for @njit code are Numba's")
njit, prange = numba.njit, numba.prange

ROOT = Path(__file__).parents[1]
BY_LOSS = pytest.mark.parametrize("case", ONE_EACH, ids=str)
SCALARS = {
    "value": "__call__",
    "grad": "grad",
    "value_and_grad": "value_and_grad",
    "grad_and_hess": "grad_and_hess",
    "value_grad_hess": "value_grad_hess",
}


def functions(case):
    """The functions of a case's variant, and its other hyperparameters in order."""
    formula = case.formula
    fixed = {n: v for n, v in case.parameters.items() if isinstance(formula.parameters[n], Flag | Optional)}
    jit = case.loss.jit(**fixed)
    return jit, [case.parameters[name] for name in jit.arguments]


# --- elements ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f32", "f64"])
@BY_LOSS
def test_every_loss_in_a_loop(case, dtype):
    """Bitwise what the kernels give: the special values of this case's hyperparameters are chosen at run time."""
    jit, numbers = functions(case)
    given = list(columns(case, 130, dtype).values())
    run = njit(error_model="numpy")(
        eval(f"lambda f, {_names(given)}, numbers: [f({_items(given)}, *numbers) for i in range(130)]")
    )
    results = [flatten(row) for row in run(jit.value_grad_hess, *given, tuple(numbers))]
    expected = flatten(case.loss.value_grad_hess(*given, reduction="none", check=False, **case.parameters))
    for k, wanted in enumerate(expected):
        assert_equal(np.array([row[k] for row in results], dtype), wanted)


def _names(given):
    return ", ".join(f"x{k}" for k in range(len(given)))


def _items(given):
    return ", ".join(f"x{k}[i]" for k in range(len(given)))


SPECIAL = [case for case in CASES if any(len(domain.choices) > 1 for domain in case.formula.parameters.values())]


@pytest.mark.parametrize("case", SPECIAL, ids=str)
def test_every_variant_by_number_and_fixed(case):
    jit, numbers = functions(case)
    given = [array[0].item() for array in columns(case, 4, np.float64).values()]
    expected = flatten(case.loss.value_and_grad(*given, **case.parameters))
    for found in (jit.value_and_grad(*given, *numbers), case.loss.jit(**case.parameters).value_and_grad(*given)):
        for result, wanted in zip(flatten(found), expected, strict=True):
            assert_equal(np.float64(result), np.asarray(wanted, np.float64))


@pytest.mark.parametrize("name", SCALARS)
def test_results_have_the_shape_of_the_methods(name):
    for loss, given in ((fl.huber, (0.5, 2.0)), (fl.gaussian_nll, (0.5, 2.0, 1.5))):
        found, expected = getattr(loss.jit, name)(*given), getattr(loss, SCALARS[name])(*given)
        assert _structure(found) == _structure(expected)
        for result, wanted in zip(flatten(found), flatten(expected), strict=True):
            assert result == float(wanted)
    assert fl.huber.jit.hess(0.5, 1.0) == 1.0


def _structure(results):
    return tuple(map(_structure, results)) if isinstance(results, tuple) else 1


def test_defaults_names_and_precision():
    value = fl.huber.jit.value
    assert value(0.5, 4.0) == fl.huber(0.5, 4.0) == 3.0
    assert value(0.5, 4.0, 2.0) == value(0.5, 4.0, delta=2.0) == value(target=4.0, pred=0.5, delta=2) == 5.0
    assert value(1, 3) == 1.5  # whole numbers are computed in double

    @njit
    def dtypes(p, t, d):
        return fl.log_cosh.jit.value(p, t), fl.huber.jit.grad(p, t, d)

    single, double = np.float32(0.3), 0.3
    assert [numba.typeof(x) for x in dtypes.py_func(single, single, 1.0)] == [numba.float64] * 2  # Python has no float32
    signature = numba.types.Tuple((numba.float32, numba.float32))
    dtypes(single, single, 1.0), dtypes(double, single, np.float32(1))
    returned = [overload.signature.return_type for overload in dtypes.overloads.values()]
    assert returned[0] == signature or tuple(returned[0]) == tuple(signature)
    assert tuple(returned[1]) == (numba.float64, numba.float64)


def test_said_in_full_inside_compiled_code_in_parallel():
    @njit(parallel=True)
    def total(pred, target, grads, delta):
        found = 0.0
        for i in prange(pred.size):
            value, grads[i] = fl.huber.jit.value_and_grad(pred[i], target[i], delta=delta)
            found += value
        return found

    pred, target = np.random.default_rng(0).normal(size=(2, 5000))
    grads = np.empty_like(pred)
    value, expected = fl.huber.value_and_grad(pred, target, delta=0.5, reduction="sum")
    assert total(pred, target, grads, 0.5) == pytest.approx(value, rel=1e-13)
    np.testing.assert_array_equal(grads, expected)


def test_a_users_own_loss_has_them_too():
    @fl.loss(c=fl.Positive(1.0))
    def mine(pred, target, c):
        return c * fl.math.log1p(((pred - target) / c) ** 2)

    assert mine.jit.value(0.5, 2.0, 2.0) == mine(0.5, 2.0, c=2.0)
    assert fl.loss(lambda pred, target: pred * target).jit.grad(2.0, 3.0) == 3.0


def test_arguments_may_be_called_like_what_the_text_is_made_of():
    @fl.loss
    def mine(x0, real, t0=2.0, scale=1.5, exp=0.5, value=1.0):
        return fl.math.exp(x0 - real) * t0 * scale + fl.math.tanh(x0 * exp) * value + t0 * scale

    assert mine.jit.value_and_grad(0.5, 0.25) == tuple(map(float, mine.value_and_grad(0.5, 0.25)))
    x = np.linspace(-1, 1, 100)
    assert mine.jit.mean(x, x, scale=2.0) == pytest.approx(mine(x, x, scale=2.0), rel=1e-15)


def test_loops_are_vectorised():
    """Inlined, and with the selects that a vector needs: single numbers are left to the loop's tail."""

    @njit(error_model="numpy")
    def run(pred, target, values, grads):
        for i in range(pred.size):
            values[i], grads[i] = fl.log_cosh.jit.value_and_grad(pred[i], target[i])

    arrays = np.ones((4, 64), np.float32)
    run(*arrays)
    text = next(iter(run.inspect_asm().values()))
    assert re.search(r"\bv?f?n?m?mul\w*ps\b|\bvfn?madd\w*ps\b|\bfmla\b", text)
    assert not re.search(r"call\w*\s+\S*(log|exp|tanh)", text)


# --- arrays -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("name", ["huber", "log_cosh", "gaussian_nll"])
def test_whole_arrays(name, dtype):
    (case,) = (case for case in ONE_EACH if case.name == name)
    jit, numbers = functions(case)
    for count in (0, 1, 63, 64, 1023, 1024, 5000):
        given = [array[:count].copy() for array in columns(case, max(count, 4), dtype).values()]
        grads = [np.full(count, 7, dtype) for _ in case.formula.differentiable]
        found = jit.mean_value_and_grad(*given, *grads, *numbers)
        if not count:
            assert np.isnan(found)
            continue
        value, grad = case.loss.value_and_grad(*given, check=False, **case.parameters)
        assert found == pytest.approx(value, rel=float(16 * np.finfo(dtype).eps))
        assert jit.mean(*given, *numbers) == found
        for result, wanted in zip(grads, flatten(grad), strict=True):
            assert_equal(result, wanted)


def test_arrays_inside_compiled_code_and_what_is_refused():
    mean_value_and_grad = fl.huber.jit.mean_value_and_grad

    @njit
    def descend(pred, target, steps):
        grad = np.empty_like(pred)
        for _ in range(steps):
            loss = mean_value_and_grad(pred, target, grad, delta=2.0)
            pred -= pred.size * grad
        return loss

    pred = np.ones(100)
    assert descend(pred, np.zeros(100), 3) == 0
    np.testing.assert_array_equal(pred, 0)
    strided = np.ones((50, 2))[:, 0]
    assert fl.huber.jit.mean(strided, np.zeros(50)) == 0.5
    with pytest.raises(ValueError, match="arrays must have one length"):
        fl.huber.jit.mean(np.ones(3), np.ones(4))
    with pytest.raises(ValueError, match="arrays must have one length"):
        mean_value_and_grad(np.ones(3), np.ones(3), np.ones(2))
    with pytest.raises(numba.TypingError, match="arrays must have one dimension"):
        fl.huber.jit.mean(np.ones(4), np.ones((2, 2)))


# --- rules ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", fl.optimizers.__all__)
def test_every_rule(name):
    cls, rng = getattr(fl, name), np.random.default_rng(0)
    if name == "LAMB":
        with pytest.raises(
            AttributeError, match=r"LAMB.jit: must be of a formula of single elements, got one with sums over them"
        ):
            getattr(cls, "jit")  # noqa: B009
        return
    for dtype in (np.float32, np.float64):
        array = rng.normal(size=40).astype(dtype)
        optimizer = cls(array)
        jit = cls.jit
        elements = [[x, *[dtype(0)] * (len(jit.inputs) - 2)] for x in array.copy()]
        carried = {key: first for key, (first, _) in cls.rule.carried.items()}
        hyper = {key: domain.default for key, domain in cls.rule.hyperparameters.items()}
        for step in range(1, 4):
            grad = rng.normal(size=40).astype(dtype)
            optimizer.step(grad)
            carried = cls.rule.carry(carried, step, hyper)
            for k, (param, *states) in enumerate(elements):
                found = jit.step(param, grad[k], *states, step, *carried.values())
                elements[k] = [dtype(x) for x in (found if isinstance(found, tuple) else (found,))]
        np.testing.assert_array_equal(array, [element[0] for element in elements])


def test_rules_take_their_hyperparameters():
    step = fl.AdamW.jit.step
    param = np.array([2.0])
    fl.AdamW(param, lr=0.1, betas=(0.5, 0.75), weight_decay=0.5).step(np.array([-1.5]))

    @njit
    def run(w, g, m, v):
        return step(w, g, m, v, 1, lr=0.1, betas=(0.5, 0.75), weight_decay=0.5)

    assert run(2.0, -1.5, 0.0, 0.0) == (param[0], -0.75, 0.5625)
    assert fl.SGD.jit.step(1.0, 0.5, 1, lr=0.1) == 0.95
    assert fl.SGD.jit(momentum=0.5).step(1.0, 0.5, 1.0, 2, lr=0.5) == (0.5, 1.0)
    assert fl.AdamW.jit(amsgrad=True).inputs[-1] == "max_exp_avg_sq" or len(fl.AdamW.jit(amsgrad=True).inputs) == 5


# --- errors and surroundings ------------------------------------------------------------------------------------------------


def test_what_has_none_says_so():
    with pytest.raises(
        AttributeError, match="cross_entropy: jit must be that of a loss of single elements, got one of whole rows"
    ):
        getattr(fl.cross_entropy, "jit")  # noqa: B009
    assert not hasattr(fl.kmeans, "jit")
    with pytest.raises(TypeError, match=r"huber.jit: arguments must be among delta, got 'detla'"):
        fl.huber.jit(detla=1.0)
    with pytest.raises(ValueError, match=r"huber.jit: delta must be > 0, got -1"):
        fl.huber.jit(delta=-1.0)
    with pytest.raises(numba.TypingError):
        njit(lambda p: fl.huber.jit.nothing(p, p))(1.0)


def test_repr_and_documentation():
    assert repr(fl.poisson_nll.jit(full=True)).startswith("<poisson_nll.jit(log_input=True, full=True): value, grad, ")
    assert fl.huber.jit is fl.huber.jit
    assert fl.AdamW.jit is fl.AdamW.jit
    assert fl.AdamW.jit is not fl.Adam.jit
    assert "njit" in type(fl.huber).jit.__doc__
    assert "njit" in fl.Optimizer.jit.__doc__
    assert type(fl.huber.jit).__doc__


def test_without_numba_an_error_names_the_extra():
    program = "import sys\nsys.modules['numba'] = None\nimport fastloss as fl\nprint(fl.huber(0.5, 1.0))\nfl.huber.jit"
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["0.125"]
    assert "ImportError: huber.jit: Numba must be installed (pip install 'fastloss[jit]')" in done.stderr


def test_the_example_runs(tmp_path):
    example = ROOT / "examples" / "numba_loop.py"
    done = subprocess.run(
        [sys.executable, "-P", str(example)], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    losses = [float(x) for x in re.findall(r"epoch \d: loss ([\d.]+)", done.stdout)]
    assert losses[-1] < losses[0]
    first, second = re.search(r"pinball loss ([\d.]+), the same ([\d.]+)", done.stdout).groups()
    assert first == second
