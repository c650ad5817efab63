"""Users' own losses and rules: the built-in formulas, compiled at run time, give the built-in kernels' bits; what a formula may not do;
the cache of what was compiled."""

import hashlib
import itertools
import math
import multiprocessing
import os
import pickle
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import inputs
import numpy as np
import pytest
import test_row_registry as rows
from inputs import CASES, LOSSES, ONE_EACH, assert_same, columns, flatten

import fastloss as fl
from fastloss._kernels.jit import cache, native
from fastloss._kernels.jit.kernels import Kernels
from fastloss.formula.lazy import lazy

pytest.importorskip("llvmlite", reason="a user's own formula is compiled by llvmlite")

ROOT = Path(__file__).parents[1]
DTYPES = (np.float32, np.float64)
METHODS = ("__call__", "grad", "value_and_grad", "grad_and_hess", "value_grad_hess")


@pytest.fixture(autouse=True, scope="module")
def folder(tmp_path_factory):
    """Nothing is left in the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTLOSS_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


def own(loss):
    """A built-in loss's formula as a user would have written it."""
    return type(loss)(loss.formula, Kernels(loss.formula))


OWN = {name: own(loss) for name, loss in LOSSES.items()}


def python(program, *, home=None, **environment):
    """A program's output in a process of its own."""
    variables = {**os.environ, **environment}
    if home is not None:
        variables = {name: value for name, value in variables.items() if name not in ("FASTLOSS_CACHE_DIR", "XDG_CACHE_HOME")}
        variables["HOME"] = str(home)
    done = subprocess.run(
        [sys.executable, "-P", "-"], input=program, capture_output=True, text=True, timeout=120, check=False, env=variables
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- the same text, the same bits -------------------------------------------------------------------------------------------


def assert_equal(results, expected):
    """The same numbers; gcc may negate a fused product and sum before it adds, which shows in the sign of a zero alone."""
    results, expected = map(np.asarray, (results, expected))
    assert (results.dtype, results.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(results.astype(float), expected.astype(float))


def compare(ours, built_in, given, method, **options):
    results = flatten(getattr(ours, method)(*given, **options))
    expected = flatten(getattr(built_in, method)(*given, **options))
    assert len(results) == len(expected)
    for result, wanted in zip(results, expected, strict=True):
        assert_equal(result, wanted)


@pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_variant_of_every_loss(case, dtype):
    given = columns(case, 1300, dtype, seed=3)
    compare(OWN[case.name], case.loss, given.values(), "value_grad_hess", reduction="none", **case.parameters)


@pytest.mark.parametrize("case", ONE_EACH, ids=str)
def test_every_method_reduction_and_weight(case):
    w = inputs.weights((7, 300), np.float32)
    for method, reduction, weights in itertools.product(METHODS, ("mean", "sum", "none"), (None, w)):
        given = inputs.blocks(case, (7, 300), np.float32, seed=4)
        compare(
            OWN[case.name], case.loss, given.values(), method, reduction=reduction, sample_weight=weights, **case.parameters
        )


@pytest.mark.parametrize("awkward", inputs.AWKWARD)
def test_layouts(awkward):
    case = next(case for case in ONE_EACH if case.name == "huber")
    given = inputs.blocks(case, (5, 7, 9))
    expected = case.loss.value_grad_hess(*given.values(), **case.parameters)
    shaped = [inputs.AWKWARD[awkward](array) for array in given.values()]
    assert_same(OWN["huber"].value_grad_hess(*shaped, **case.parameters), expected)


@pytest.mark.parametrize("dtype", [np.float16, "bfloat16"], ids=str)
def test_half_precision(dtype):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    for case in ONE_EACH:
        given = [array.astype(dtype) for array in columns(case, 300, np.float32).values()]
        compare(OWN[case.name], case.loss, given, "value_and_grad", reduction="none", check=False, **case.parameters)


@pytest.mark.fault(9)
def test_threads_and_outputs_in_place():
    rng = np.random.default_rng(0)
    pred, target = rng.normal(size=(2, 300_000)).astype(np.float32)
    with fl.threadpool_limits(1):
        expected = fl.log_cosh.value_and_grad(pred, target)
        assert_same(OWN["log_cosh"].value_and_grad(pred, target), expected)
    given = pred.copy()
    value, grad = OWN["log_cosh"].value_and_grad(given, target, grad_out=given)
    assert grad is given
    assert_same((value, grad), expected)


@pytest.mark.parametrize("length", [5, 130])
@pytest.mark.parametrize("name", fl.losses.ROWS)
def test_every_loss_of_rows(name, length):
    loss = getattr(fl, name)
    ours = own(loss)
    *_, (values, there) = itertools.islice(rows.settings(loss.formula), 3)
    given = rows.draw(loss.formula, (70, length), there)
    for dtype, method in zip(DTYPES, ("value_and_grad", "value_grad_hess"), strict=True):
        arrays = {n: a.astype(dtype) if a.dtype == np.float64 else a for n, a in given.items()}
        if loss.formula.label and "probabilities" in there:
            arrays[loss.formula.label] = given[loss.formula.label].astype(dtype)
        compare(ours, loss, (), method, **arrays, **values)


def test_what_only_losses_of_rows_have():
    ours, rng = own(fl.cross_entropy), np.random.default_rng(0)
    logits, labels = rng.normal(size=(40, 9)), rng.integers(0, 9, 40)
    assert_same(ours.hvp(logits, labels, vector=logits), fl.cross_entropy.hvp(logits, labels, vector=logits))
    names = ("value", "grad", "predicted", "correct", "logsumexp")
    results, expected = (loss.evaluate(logits, labels, outputs=names) for loss in (ours, fl.cross_entropy))
    assert list(results) == list(expected)
    for name in names:
        np.testing.assert_array_equal(results[name], expected[name])


@pytest.mark.parametrize("name", fl.optimizers.__all__)
def test_every_rule(name):
    built_in, rng = getattr(fl, name), np.random.default_rng(0)
    ours = type(name, (built_in,), {"library": Kernels(built_in.rule)})
    grads = [rng.normal(size=1030) for _ in range(3)]
    for dtype in DTYPES:
        one, other = (np.linspace(-1, 1, 1030).astype(dtype) for _ in range(2))
        mine, theirs = ours(one), built_in(other)
        for grad in grads:
            mine.step(grad.astype(dtype))
            theirs.step(grad.astype(dtype))
        assert_same(one, other)


def test_kernels_are_vectorised():
    """Every product and sum of the loop in vectors of the level's width."""
    module = native_module("log_cosh", "log_cosh_vg_f32")
    text = native._machine().emit_assembly(native.optimised(module.text, native._machine()))
    width = re.search(r'"prefer-vector-width"="(\d+)"', native.processor().attributes)
    if width is None:
        pytest.skip("no x86-64 level")
    registers = {"512": "zmm", "256": "ymm"}[width[1]] if native.processor().has_fma else "xmm"
    assert text.count(registers) > 100


def native_module(loss, kernel):
    from fastloss.formula.assembly import Module

    module = Module(native.processor())
    list(OWN[loss].library._write(module, kernel))
    return module


# --- ways to write one ------------------------------------------------------------------------------------------------------


def test_the_formula_of_the_design():
    @fl.loss(c=fl.Positive(1.0))
    def my_cauchy(pred, target, c):
        z = (pred - target) / c
        return 0.5 * c * c * fl.math.log1p(z * z)

    pred, target = np.array([0.5, 2.0, -3.0]), np.zeros(3)
    assert my_cauchy(pred, target, c=2.0) == pytest.approx(np.mean(2 * np.log1p((pred / 2) ** 2)), rel=1e-15)
    _, grad, hess = my_cauchy.value_grad_hess(pred, target, reduction="none")
    np.testing.assert_allclose(grad, pred / (1 + pred**2), rtol=1e-15)
    np.testing.assert_allclose(hess, (1 - pred**2) / (1 + pred**2) ** 2, rtol=1e-14)
    assert type(my_cauchy) is fl.Loss
    assert repr(my_cauchy) == "<loss my_cauchy(pred, target, c=1.0)>"
    assert "Examples" not in my_cauchy.__doc__
    assert "c : float, default 1.0" in my_cauchy.__doc__
    with pytest.raises(ValueError, match="my_cauchy: c must be > 0, got 0"):
        my_cauchy(pred, target, c=0)


def test_without_parentheses_with_signature_defaults_and_as_a_lambda():
    @fl.loss
    def plain(pred, target, scale=2.0, squared=True):
        r = scale * (pred - target)
        return r**2 if squared else abs(r)

    assert plain([1.0], [3.0]) == 16
    assert plain([1.0], [3.0], squared=False, scale=3) == 6
    short = fl.loss(lambda pred, target: abs(pred - target))
    assert short([1.0], [3.0]) == 2
    assert short.__name__ == "formula"
    several = fl.loss(differentiable=("a", "b"))(lambda a, b: a * b)
    assert [g.item() for g in several.grad([2.0], [3.0])] == [3.0, 2.0]


def test_numpy_scalars_and_python_numbers_are_numbers():
    def formula(pred, target):
        half = target / np.float64(4) ** 0.5
        return np.float32(2) * pred - half + fl.math.where(np.float64(1) < pred, True * half, 0) + np.int64(3)

    assert fl.loss(formula)([3.0, 0.5], [4.0, 2.0], reduction="none").tolist() == [9.0, 3.0]


def test_a_number_of_the_row_makes_a_loss_of_rows():
    @fl.loss
    def row_error(pred, target):
        return fl.math.mean((pred - target) ** 2)

    @fl.loss(label=fl.Class(), temperature=fl.Positive(1.0), curvature=True)
    def nll(logits, label, temperature):
        return fl.math.logsumexp(logits / temperature) - fl.math.pick(logits, label) / temperature

    assert type(row_error) is type(nll) is fl.RowLoss
    x, labels = np.random.default_rng(0).normal(size=(6, 4)), np.array([0, 1, 2, 3, 0, 1])
    np.testing.assert_allclose(row_error(x, -x, reduction="none"), np.mean(4 * x * x, axis=1), rtol=1e-14)
    assert nll(x, labels) == pytest.approx(fl.cross_entropy(x, labels), rel=1e-15)
    np.testing.assert_allclose(nll.hvp(x, labels, vector=x), fl.cross_entropy.hvp(x, labels, vector=x), rtol=1e-12)


def test_a_rule():
    @fl.update_rule(lr=fl.Positive(0.1), beta=fl.Fraction(0.9), weight_decay=fl.Decay(0.0, decoupled=True))
    def Ball(param, grad, velocity, lr, beta):
        velocity = beta * velocity + grad
        return param - lr * velocity, velocity

    @fl.update_rule
    def Plain(param, grad, step, lr=0.5):
        return (param - lr * grad / step,)

    assert issubclass(Ball, fl.Optimizer)
    for dtype in DTYPES:
        w, grad = np.ones(5, dtype), np.arange(5, dtype=dtype)
        optimizer = Ball({"w": w}, lr=0.5, weight_decay=0.1)
        for _ in range(2):
            optimizer.step({"w": grad})
        expected = np.ones(5)
        for velocity in (np.arange(5), 1.9 * np.arange(5)):
            expected = expected - 0.05 * expected - 0.5 * velocity
        np.testing.assert_allclose(w, expected, rtol=4 * np.finfo(dtype).eps)
        state = optimizer.state_dict()
        assert state["rule"] == "Ball"
        assert list(
            state["state"]["params['w']"] if "params['w']" in state["state"] else next(iter(state["state"].values()))
        ) == ["velocity"]
    w = np.ones(2)
    optimizer = Plain(w)
    optimizer.step(np.ones(2))
    optimizer.step(np.ones(2))
    np.testing.assert_allclose(w, 1 - 0.5 - 0.25)


def test_a_rule_that_looks_at_its_whole_tensor():
    @fl.update_rule(lr=fl.Positive(0.5))
    def Normalized(param, grad, lr):
        return (param - lr * grad / fl.math.norm2(grad),)

    for count in (3, 5000):
        w, grad = np.zeros(count), np.linspace(1, 2, count)
        Normalized(w).step(grad)
        np.testing.assert_allclose(w, -0.5 * grad / np.linalg.norm(grad), rtol=1e-14)


PROGRAM = """
import fastloss as fl, sys
@fl.loss(delta=fl.Positive(1.0))
def mine(pred, target, delta):
    return delta * abs(pred - target)
print(mine([1.0, 2.0], 0.0, delta=2.0), mine.grad([1.0, -2.0], 0.0, reduction="sum").tolist())
print("numba" in sys.modules)
"""


def test_from_a_repl():
    """A program from standard input has no file, as a notebook's cell has none."""
    assert python(PROGRAM).split() == ["3.0", "[1.0,", "-1.0]", "False"]
    scope = {}
    exec(PROGRAM.replace("print", "repr").replace(", mine.grad", "); repr(mine.grad"), scope)
    assert scope["mine"]([1.0], 3.0) == 2


def test_pickled_by_name_if_it_has_one():
    assert pickle.loads(pickle.dumps(at_the_top)) is at_the_top
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(fl.loss(lambda pred, target: pred - target))


@fl.loss
def at_the_top(pred, target):
    return pred - target


def test_many_threads_compile_one_loss():
    loss = fl.loss(lambda pred, target: fl.math.exp(pred) * 1.25 + fl.math.tanh(target))
    found = []
    work = [threading.Thread(target=lambda: found.append(loss.value_and_grad([0.5], [1.0]))) for _ in range(8)]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert len(found) == 8
    assert len({value for value, _ in found}) == 1


# --- what a formula may not do ----------------------------------------------------------------------------------------------


def branches(pred, target):
    if pred > target:
        return pred - target
    return target - pred


def chained(pred, target):
    return fl.math.where(0 < pred < 1, pred, target)


def calls_numpy(pred, target):
    return np.log(pred) - target


def calls_numpy_where(pred, target):
    return np.where(pred > 0, pred, target)


def calls_math(pred, target):
    return math.log(pred) - target


def calls_a_method(pred, target):
    return pred.mean() - target


def takes_the_remainder(pred, target):
    return pred % 2 - target


def returns_nothing(pred, target):
    pred - target


def returns_a_condition(pred, target):
    return pred > target


def returns_text(pred, target):
    return "loss"


def helper(x):
    return np.exp(x)


def errs_in_a_helper(pred, target):
    return helper(pred - target)


LINE = r" \(line \d+ of test_own_losses.py: "
WRONG = {
    branches: r"branches: a formula cannot branch on a symbol.*write where\(condition, a, b\).*"
    + LINE
    + r"if pred > target:\)",
    chained: "chained: a formula cannot branch on a symbol.*& and |.*" + LINE,
    calls_numpy: "calls_numpy: .*cannot call NumPy's log.*write fastloss.math.log" + LINE + r"return np.log\(pred\)",
    calls_numpy_where: "calls_numpy_where: .*NumPy's where.*write fastloss.math.where" + LINE,
    calls_math: "calls_math: .*use the functions of fastloss.math, not those of math" + LINE + r"return math.log\(pred\)",
    calls_a_method: "calls_a_method: .*functions of fastloss.math, got .*'mean'" + LINE,
    takes_the_remainder: "takes_the_remainder: .*operators.*unsupported operand.*%.*" + LINE,
    returns_nothing: "returns_nothing: the formula must return the loss, a number, got None",
    returns_a_condition: "returns_a_condition: the formula must return the loss, a number, got a symbol",
    returns_text: "returns_text: the formula must return the loss, a number, got 'loss'",
    errs_in_a_helper: r"errs_in_a_helper: .*write fastloss.math.exp" + LINE + r"return np.exp\(x\)",
}


@pytest.mark.parametrize("function", WRONG, ids=lambda function: function.__name__)
def test_errors_name_the_line_and_the_way_to_say_it(function):
    with pytest.raises(fl.FormulaError, match=WRONG[function]):
        fl.loss(function)


def test_errors_without_a_source_name_the_line():
    scope = {"fl": fl}
    with pytest.raises(fl.FormulaError, match=r"cannot branch.* \(line 4 of <cell>\)"):
        exec(compile("@fl.loss\ndef f(pred, target):\n\n    if pred:\n        return target", "<cell>", "exec"), scope)


def keyword_only(pred, *, target):
    return pred


def variadic(*arrays):
    return arrays[0]


def with_text(pred, kind="mean"):
    return pred


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (keyword_only, {}, "keyword_only: the arguments of a formula must be plain names, got target"),
        (variadic, {}, r"variadic: the arguments of a formula must be plain names, got \*arrays"),
        (with_text, {}, "with_text: kind must have a domain, such as fastloss.Positive"),
        (lambda pred, reduction: pred, {}, "formula: arguments must have names .*, got 'reduction'"),
        (lambda pred, target: pred, {"delta": fl.Positive(1.0)}, r"formula: \['delta'\] must be arguments"),
        (lambda pred, delta: pred, {"delta": 1.0}, "delta must have a domain, such as fastloss.Positive.*, got 1.0"),
        (lambda pred, delta=2.0: pred, {"delta": fl.Positive(1.0)}, "default of delta must stand in its domain alone"),
        (lambda delta=2.0: delta, {}, r"must have an argument that is an array, got \(delta\)"),
        (lambda a, b: a, {"differentiable": ("c",)}, r"differentiable must name inputs \(a, b\), got 'c'"),
        (abs, {}, "a formula must be a plain function, got <built-in function abs>"),
        ("huber", {}, "a formula must be a plain function, got 'huber'"),
    ],
)
def test_definitions_that_are_refused(function, options, message):
    with pytest.raises(TypeError, match=message):
        fl.loss(**options)(function)


def test_rules_that_are_refused():
    with pytest.raises(fl.FormulaError, match="must begin with the arguments param and grad"):
        fl.update_rule(lambda w, g: (w - g,))
    with pytest.raises(fl.FormulaError, match="must return a tuple of the new param, m, got a symbol"):
        fl.update_rule(lambda param, grad, m: param - grad)
    with pytest.raises(fl.FormulaError, match="names that its calls do not use otherwise, got 'seed'"):
        fl.update_rule(lambda param, grad, seed=1.0: (param - seed * grad,))


def test_more_than_the_engine_has_room_for():
    names, numbers = [f"x{k}" for k in range(12)], [f"c{k}" for k in range(32)]
    many = eval(f"lambda {', '.join(names)}: {' + '.join(names)}")
    rows = eval(f"lambda {', '.join(names[:9])}: fl.math.total({' + '.join(names[:9])})")
    heavy = eval(f"lambda pred, {'=1.0, '.join(numbers)}=1.0: pred * ({' + '.join(numbers)})")
    for formula, message in (
        (many, "must need at most 12 arrays, counting results, got 15"),
        (rows, "must need at most 8 arrays, got 9"),
        (heavy, "must need at most 31 hyperparameters, got 32"),
    ):
        with pytest.raises(fl.FormulaError, match=message):
            fl.loss(formula)
    products = " + ".join(f"pred**{k} * (c + {k}) ** 2" for k in range(1, 40))
    shared = fl.loss(eval(f"lambda pred, c=1.0: {products}"))
    with pytest.raises(fl.FormulaError, match="must need at most 31 numbers"):
        shared([1.0])


def test_calls_are_refused_as_of_any_loss():
    loss = OWN["huber"]
    for call, message in (
        (
            lambda: loss(np.ones((3, 4)), np.ones((4, 3))),
            r"huber: target must broadcast to pred's shape \(3, 4\), got \(4, 3\)",
        ),
        (lambda: loss(np.ones(3, int), np.ones(3)), "huber: pred must be"),
        (lambda: loss([1.0], [1.0], detla=2), "huber: arguments must be among"),
        (lambda: loss([1.0], [1.0], sample_weight=[-1.0]), "huber: sample_weight must be"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            call()


def test_without_llvmlite_an_error_names_the_extra():
    program = "import sys\nsys.modules['llvmlite'] = None\n" + PROGRAM.replace("print(mine(", "print(type(mine), mine(")
    done = subprocess.run([sys.executable, "-P", "-"], input=program, capture_output=True, text=True, check=False)
    assert done.returncode
    assert "ImportError" in done.stderr
    assert "pip install 'fastloss[jit]'" in done.stderr


# --- what was compiled is kept ----------------------------------------------------------------------------------------------


@pytest.fixture
def private(tmp_path, monkeypatch):
    """A cache folder that is not there yet."""
    monkeypatch.setenv("FASTLOSS_CACHE_DIR", str(tmp_path / "own" / "folder"))
    return tmp_path / "own" / "folder"


def fresh(monkeypatch=None):
    """The same loss again, as another process has it; how often it was compiled."""
    compiled = []
    if monkeypatch is not None:
        real = native._compile
        monkeypatch.setattr(native, "_compile", lambda *args: compiled.append(1) or real(*args))
    loss = fl.loss(lambda pred, target: fl.math.exp(pred - target))
    assert loss([1.0], [1.0]) == 1
    return compiled


def test_the_folder_is_private_and_what_it_holds_is_used(private, monkeypatch):
    assert fresh(monkeypatch)
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in private.iterdir())
    assert all(re.fullmatch("[0-9a-f]{64}", file.name) for file in private.iterdir())
    assert not fresh(monkeypatch)


@pytest.mark.fault(60)
@pytest.mark.parametrize("damage", [b"", b"x" * 10, None], ids=["empty", "short", "one bit"])
def test_damaged_files_are_compiled_again(private, monkeypatch, damage):
    fresh()
    for file in private.iterdir():
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(bytes(data) if damage is None else damage)
    assert len(fresh(monkeypatch)) == 2  # the kernel, and the numbers that all elements share
    assert not fresh(monkeypatch)


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o777])
def test_a_folder_open_to_others_is_not_trusted(tmp_path, monkeypatch, mode):
    private = tmp_path / "open"
    private.mkdir()
    private.chmod(mode)
    monkeypatch.setenv("FASTLOSS_CACHE_DIR", str(private))
    with pytest.warns(RuntimeWarning, match=f"FASTLOSS_CACHE_DIR must be a folder .* mode {mode:o}; nothing is kept"):
        fresh()
    assert not list(private.iterdir())


@pytest.mark.fault(60)
def test_links_are_not_followed(tmp_path, monkeypatch):
    (tmp_path / "there").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "there")
    monkeypatch.setenv("FASTLOSS_CACHE_DIR", str(tmp_path / "link"))
    fresh()
    assert not list((tmp_path / "there").iterdir())


def test_no_folder_where_none_is_wanted_or_none_can_be(tmp_path, monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monkeypatch.setenv("FASTLOSS_CACHE_DIR", "")
        assert cache.place() is None
        fresh()
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("FASTLOSS_CACHE_DIR", str(tmp_path / "file" / "folder"))
        fresh()
        monkeypatch.delenv("FASTLOSS_CACHE_DIR")
        monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
        fresh()


def test_the_users_cache_folder_is_the_default(tmp_path, monkeypatch):
    monkeypatch.delenv("FASTLOSS_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.place() == str(tmp_path / "fastloss")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.place() == str(tmp_path / ".cache" / "fastloss")


def test_homes_that_are_missing_or_cannot_be_written(tmp_path):
    assert python(PROGRAM, home="/nonexistent").split()[0] == "3.0"
    python(PROGRAM, home=tmp_path)
    kept = list((tmp_path / ".cache" / "fastloss").iterdir())
    assert len(kept) == 3
    assert python(PROGRAM, home=tmp_path).split()[0] == "3.0"
    assert sorted(kept) == sorted((tmp_path / ".cache" / "fastloss").iterdir())


def test_a_new_process_does_not_compile(tmp_path):
    python(PROGRAM, home=tmp_path)
    program = "from fastloss._kernels.jit import native\nnative._compile = None\n" + PROGRAM
    assert python(program, home=tmp_path).split()[0] == "3.0"


def _write_often(key):
    for _ in range(200):
        cache.keep(key, key.encode() * 1000)
        found = cache.read("a" * 64)
        assert found in (None, *(k.encode() * 1000 for k in ("a" * 64,))), found
    return True


def test_writers_at_the_same_time(private):
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert all(pool.map(_write_often, ["a" * 64, "a" * 64, "b" * 64, "a" * 64]))
    assert sorted(file.name for file in private.iterdir()) == ["a" * 64, "b" * 64]
    assert cache.read("b" * 64) == (b"b" * 64) * 1000


def test_the_folder_does_not_grow_without_end(private, monkeypatch):
    monkeypatch.setattr(cache, "MOST_FILES", 20)
    for k in range(30):
        cache.keep(f"{k:064}", b"data")
    assert len(list(private.iterdir())) <= 20
    assert cache.read(f"{29:064}") == b"data"


@pytest.mark.parametrize("length", [0, 31, 32, 40])
def test_files_of_any_length_are_harmless(private, length):
    cache.keep("c" * 64, b"data")
    (private / ("c" * 64)).write_bytes(os.urandom(length))
    assert cache.read("c" * 64) is None


@pytest.mark.parametrize("kind", ["fifo", "folder", "link", "socket", "unreadable"])
def test_only_plain_files_are_read(private, monkeypatch, kind, tmp_path):
    fresh()
    for file in private.iterdir():
        data = file.read_bytes()
        file.unlink()
        if kind == "fifo":
            os.mkfifo(file)
        elif kind == "folder":
            file.mkdir()
        elif kind == "socket":
            with socket.socket(socket.AF_UNIX) as server:
                monkeypatch.chdir(private)  # its path may be 108 bytes long
                server.bind(file.name)
        else:
            elsewhere = file if kind == "unreadable" else tmp_path / file.name
            elsewhere.write_bytes(data)
            elsewhere.chmod(0)
            if kind == "link":
                elsewhere.chmod(0o600)
                file.symlink_to(elsewhere)
    compiled = fresh(monkeypatch)
    assert len(compiled) == (0 if kind == "unreadable" and os.geteuid() == 0 else 2)


def test_swapped_files_are_compiled_again(private, monkeypatch):
    fresh()
    one, other = private.iterdir()
    ones, others = one.read_bytes(), other.read_bytes()
    one.write_bytes(others)
    other.write_bytes(ones)
    assert len(fresh(monkeypatch)) == 2
    assert not fresh(monkeypatch)


GARBAGE = {
    "nothing": lambda code: b"",
    "zeros": lambda code: bytes(1000),
    "noise": lambda code: np.random.default_rng(5).bytes(1000),
    "text": lambda code: b"hello " * 100,
    "truncated": lambda code: code[: len(code) // 2],
    "without its end": lambda code: code[:-1],
    "header and noise": lambda code: code[:64] + np.random.default_rng(5).bytes(len(code) - 64),
    "another function": lambda code: code.replace(b"_", b"-"),
}


@pytest.mark.fault(60)
@pytest.mark.parametrize("checksum", ["of the content alone", "right"])
@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_with_a_valid_checksum_is_compiled_again(private, garbage, checksum, monkeypatch):
    fresh()
    for file in private.iterdir():
        code = GARBAGE[garbage](file.read_bytes()[32:])
        if checksum == "right":
            cache.keep(file.name, code)
        else:
            file.write_bytes(hashlib.sha256(code).digest() + code)
    assert (
        python("import fastloss as fl\nprint(fl.loss(lambda pred, target: fl.math.exp(pred - target))([1.0], [1.0]))")
        == "1.0\n"
    )
    assert not fresh(monkeypatch)


def test_a_stale_folder_does_not_stop_the_cleaning(private, monkeypatch):
    monkeypatch.setattr(cache, "MOST_FILES", 20)
    private.mkdir(parents=True, mode=0o700)
    for k in range(3):
        (private / f"{k:064}").mkdir()
        os.utime(private / f"{k:064}", (k, k))
    os.mkfifo(private / "fifo")
    abandoned, writing = private / ".1-abandoned", private / ".2-writing"
    for file in (abandoned, writing):
        file.write_bytes(b"half")
    os.utime(abandoned, (1, 1))
    for k in range(10, 50):
        cache.keep(f"{k:064}", b"data")
    assert len([file for file in private.iterdir() if file.is_file()]) <= 21
    assert cache.read(f"{49:064}") == b"data"
    assert writing.exists()
    assert not abandoned.exists()


@pytest.mark.fault(60)
def test_a_full_disk_keeps_nothing(private, monkeypatch):
    fresh()
    kept = sorted(private.iterdir())
    monkeypatch.setattr(cache.os, "replace", lambda *args, **kwargs: os.open("/dev/full/x", os.O_RDONLY))
    assert fl.loss(lambda pred, target: fl.math.exp(target - pred) * 3)([1.0], [1.0]) == 3
    assert sorted(private.iterdir()) == kept


# --- other threads, children and handlers while a loss is compiled ----------------------------------------------------------

BUSY = """
import itertools, os, signal, sys, threading, time
import fastloss as fl
os.environ["FASTLOSS_CACHE_DIR"] = ""

def compile_new(k):
    return fl.loss(lambda pred, target: fl.math.exp(pred - target) * (2.0 + k))([1.0], [1.0])
shared = fl.loss(lambda pred, target: fl.math.log1p((pred - target) ** 2) + 5.0)
"""


@pytest.mark.fault(55)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_forked_while_another_thread_compiles_can_compile():
    python(
        BUSY
        + """
stop = []
def compile_on():
    for k in itertools.count():
        if stop:
            return
        compile_new(k)
thread = threading.Thread(target=compile_on)
thread.start()
for k in range(12):
    time.sleep(0.003 * k)
    child = os.fork()
    if not child:
        signal.alarm(20)
        ok = compile_new(-1.5 - k) == 0.5 - k and shared([1.0], [1.0]) == 5.0
        os._exit(0 if ok else 1)
    status = os.waitpid(child, 0)[1]
    assert status == 0, status
stop.append(1)
thread.join()
"""
    )


def test_attributes_that_are_computed_once_hold_no_lock():
    """A child that is forked while one is computed would wait for it, as a second thread would."""
    entered, leave = threading.Event(), threading.Event()

    class Slow:
        @lazy
        def answer(self):
            if threading.current_thread() is not threading.main_thread():
                entered.set()
                assert leave.wait(20)
            return 42

    slow = Slow()
    thread = threading.Thread(target=lambda: slow.answer, daemon=True)
    thread.start()
    assert entered.wait(20)
    threading.Timer(5, leave.set).start()
    assert (Slow().answer, slow.answer) == (42, 42)
    assert not leave.is_set()
    leave.set()
    thread.join()


@pytest.mark.fault(55)
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no timers")
def test_a_handler_compiles_what_it_interrupts():
    done = python(
        BUSY
        + """
shared([1.0], [1.0])
calls = []
def handler(*_):
    assert shared([1.0], [1.0]) == 5.0
    calls.append(compile_new(len(calls) % 3) == 2.0 + len(calls) % 3)
    if len(calls) == 5:
        child = os.fork()
        if not child:
            os._exit(0 if shared([2.0], [2.0]) == 5.0 else 1)
        assert os.waitpid(child, 0)[1] == 0
    signal.setitimer(signal.ITIMER_REAL, 0.01 + 0.007 * len(calls))
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.005)
k = 0
while len(calls) < 8:
    k += 1
    assert compile_new(k) == 2.0 + k
    fresh = fl.loss(lambda pred, target: fl.math.log1p((pred - target) ** 2) + 5.0)
    shared = fresh  # what the handler compiles is what is being compiled
    assert shared([1.0], [1.0]) == 5.0
signal.setitimer(signal.ITIMER_REAL, 0)
print(all(calls))
"""
    )
    assert done == "True\n"


# --- examples ---------------------------------------------------------------------------------------------------------------


def test_the_example_runs(tmp_path):
    example = ROOT / "examples" / "own_loss.py"
    done = subprocess.run(
        [sys.executable, "-P", str(example)], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    below = re.search(r"quantile: .* x, ([\d.]+)% of the points", done.stdout)
    assert 89 <= float(below[1]) <= 91
    assert "rows of scores: float32" in done.stdout
