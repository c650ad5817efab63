"""Faults of loss calls: memory that runs out, small stacks, other threads, strict modes, labels, broadcast gradients, shared memory.

Tests that take `to` pass every array through it: a CUDA test can be made of them by another fixture.
"""

import ctypes
import re
import subprocess
import sys
import textwrap
import threading
import warnings

import allocations
import numpy as np
import pytest

import fastloss as fl

SENTINEL = 77.0


@pytest.fixture
def to():
    return np.asarray


# --- memory that runs out ------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
PRED, TARGET = RNG.normal(size=(2, 3000))
WEIGHTS = RNG.uniform(0.5, 2, 3000)
LOGITS, LABELS = RNG.normal(size=(40, 10)), RNG.integers(0, 10, 40)
LONG, LONG_LABELS = RNG.normal(size=(6, 300)), RNG.integers(0, 300, 6)
LISTS = np.full((6, 300), -1)
LISTS[:, :2] = [3, 200]
TRIPLE = RNG.normal(size=(3, 20, 5))
ROW = RNG.normal(size=(1, 150_000)).astype(np.float32)


def _interleaved(shape):
    return np.full((*shape, 2), SENTINEL)[..., 0]


def _full(shape):
    return np.full(shape, SENTINEL)


# What is called, on which inputs, with which outputs.
CALLS = {
    "value": lambda s: fl.huber(*s.inputs, sample_weight=WEIGHTS, value_out=s.out((3000,)), reduction="none"),
    "reduced value": lambda s: fl.huber.value_and_grad(*s.inputs, value_out=s.out(()), grad_out=s.out((3000,))),
    "all": lambda s: fl.huber.value_grad_hess(*s.inputs, grad_out=s.out((3000,)), hess_out=s.out((3000,))),
    "new arrays": lambda s: fl.huber.value_grad_hess(*s.inputs, sample_weight=WEIGHTS),
    "over an input": lambda s: fl.huber.value_and_grad(s.inputs[0][1:], s.inputs[1][1:], grad_out=s.inputs[0][:-1]),
    "strided": lambda s: fl.huber.grad(*s.inputs, grad_out=s.out((3000,), _interleaved)),
    "broadcast": lambda s: fl.gaussian_nll.value_and_grad(*s.inputs, s.var, grad_out=(s.out((3000,)), s.out((1,)))),
    "a list": lambda s: fl.huber.grad(s.inputs[0].tolist(), s.inputs[1], grad_out=s.out((3000,))),
    "line": lambda s: fl.line_search(fl.huber, *s.inputs, direction=s.inputs[1], step=0.5, sample_weight=WEIGHTS),
    "rows": lambda s: fl.cross_entropy.value_and_grad(*s.rows, sample_weight=WEIGHTS[:40], grad_out=s.out((40, 10))),
    "class weights": lambda s: fl.cross_entropy.grad(*s.rows, [1.0] * 10, grad_out=s.out((40, 10))),
    "columns": lambda s: fl.cross_entropy.grad(s.rows[0].T, s.rows[1], axis=0, grad_out=s.out((10, 40))),
    "long rows": lambda s: fl.cross_entropy.value_and_grad(*s.long, value_out=s.out(()), grad_out=s.out((6, 300))),
    "a very long row": lambda s: fl.cross_entropy.grad(
        ROW, [5], grad_out=s.out(ROW.shape, lambda n: np.full(n, SENTINEL, "f4"))
    ),
    "lists": lambda s: fl.multilabel_margin.value_and_grad(s.long[0], LISTS, grad_out=s.out((6, 300))),
    "several": lambda s: fl.triplet_margin.grad(*s.triple, grad_out=(s.out((20, 5)), s.out((20, 5)), s.out((20, 5)))),
    "broadcast rows": lambda s: fl.triplet_margin.grad(
        *s.triple[:2], s.triple[2][:1], grad_out=(s.out((20, 5)), s.out((20, 5)), s.out((1, 5)))
    ),
    "others": lambda s: fl.cross_entropy.evaluate(*s.rows, outputs=("value", "grad", "predicted", "correct", "logsumexp")),
    "product": lambda s: fl.cross_entropy.hvp(*s.rows, vector=s.rows[0], out=s.out((40, 10))),
}


class State:
    """The arrays of one call."""

    def __init__(self):
        self.inputs, self.var = (PRED.copy(), TARGET.copy()), np.array([1.5])
        self.rows, self.long = (LOGITS.copy(), LABELS.copy()), (LONG.copy(), LONG_LABELS.copy())
        self.triple = TRIPLE.copy()
        self.outs = {}

    def out(self, shape, make=_full):
        """An output, the same one whenever it is asked for in this order."""
        key = shape, self.order()
        if key not in self.outs:
            self.outs[key] = make(shape)
        return self.outs[key]

    def order(self):
        self.count = getattr(self, "count", 0) + 1
        return self.count


@pytest.mark.fault(54)
@pytest.mark.parametrize("name", CALLS)
def test_an_allocation_that_fails_changes_nothing(name):
    call = CALLS[name]

    def again(state):
        state.count = 0
        return call(state)

    def make():
        state = State()
        again(state)  # makes the outputs
        for array, before in ((state.inputs[0], PRED), *((out, SENTINEL) for out in state.outs.values())):
            array[...] = before
        return state

    expected, failures = again(State()), 0
    for state, error in allocations.each_failure(make, again):
        failures += 1
        assert isinstance(error, MemoryError), repr(error)
        assert all((out == SENTINEL).all() for out in state.outs.values()), "an output was written"
        for array, before in zip(
            (*state.inputs, *state.rows, *state.long), (PRED, TARGET, LOGITS, LABELS, LONG, LONG_LABELS), strict=True
        ):
            assert (array == before).all(), "an input was written"
    assert failures
    _assert_equal(again(State()), expected)


def _assert_equal(found, expected):
    if isinstance(expected, tuple | dict):
        for a, b in zip(*(x.values() if isinstance(x, dict) else x for x in (found, expected)), strict=True):
            _assert_equal(a, b)
    else:
        np.testing.assert_array_equal(found, expected)


# --- small stacks --------------------------------------------------------------------------------------------------------

# A call's frames and those of its kernels, and what the interpreter needs to come there.
STACK = 16 << 10


def _every_call():
    """A call of every shape that the engine knows."""
    rng = np.random.default_rng(1)
    for make in CALLS.values():
        state = State()
        yield lambda make=make, state=state: make(state)
    pred, target = np.full((2, 2000), 0.5)
    for name in fl.losses.POINTWISE:
        loss = getattr(fl, name)
        arrays = [pred, target, *[np.full(2000, 0.5)] * (len(loss.formula.inputs) - 2)]
        yield lambda loss=loss, arrays=arrays: loss.value_grad_hess(*arrays, check=False)
    for dtype in ("float16", "float32", "float64"):
        for shape in ((100, 5), (30, 100), (3, 5000), (2, 100_000)):
            for order in "CF":
                x, y = rng.normal(size=shape).astype(dtype, order=order), rng.integers(0, 5, shape[0])
                yield lambda x=x, y=y: fl.cross_entropy.value_grad_hess(x, y)
                yield lambda x=x: fl.sparsemax.value_and_grad(x, np.zeros(len(x), int))
    params = np.ones(3000, np.float16)
    optimizer = fl.AdamW(params)
    yield lambda: optimizer.step(np.ones(3000), max_norm=1.0)


@pytest.mark.fault(53)
def test_calls_in_a_thread_of_64_kib():
    calls, errors = list(_every_call()), []
    for call in calls:
        call()

    def work():
        try:
            for call in calls:
                call()
        except BaseException as error:
            errors.append(error)

    before = threading.stack_size(64 << 10)
    try:
        thread = threading.Thread(target=work)
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    assert not errors


class _StackGauge:
    """How deep a call goes: the stack below the caller is painted, and looked at afterwards. For Linux on x86-64."""

    PAINT, DEPTH, REACH = 0xA5, 256 << 10, 2 << 10

    def __init__(self):
        self.libc = ctypes.CDLL(None)
        self.context = ctypes.create_string_buffer(2048)
        self.libc.memset.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)

    def pointer(self):
        self.libc.getcontext(self.context)
        return int.from_bytes(self.context[160:168], "little")

    def measure(self, call):
        top = self.pointer() - self.REACH
        self.libc.memset(top - self.DEPTH, self.PAINT, self.DEPTH)
        call()
        painted = ctypes.string_at(top - self.DEPTH, self.DEPTH)
        return self.REACH + len(painted.lstrip(bytes([self.PAINT])))


@pytest.mark.fault(53)
@pytest.mark.skipif(
    not sys.platform.startswith("linux") or "x86_64" not in __import__("platform").machine(), reason="reads registers"
)
def test_the_stack_that_calls_take():
    found = []

    def work():
        gauge = _StackGauge()
        for call in _every_call():
            call()
            found.append(gauge.measure(call))

    before = threading.stack_size(1 << 20)
    try:
        thread = threading.Thread(target=work)
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    assert len(found) > 50
    assert max(found) <= STACK, sorted(found)[-5:]


# --- other threads -------------------------------------------------------------------------------------------------------

REWRITTEN = """
    import threading
    import numpy as np, fastloss as fl
    rng = np.random.default_rng(0)
    labels = np.zeros(3000, np.int64)
    lists = np.full((200, 70), -1)
    weights, class_weights = np.ones(3000), np.ones(70)
    over = False
    def rewrite():
        while not over:
            labels[:] = 10**12; lists[:, 0] = -10**12; weights[:] = -1; class_weights[:] = np.inf
            labels[:] = 3; lists[:, 0] = 5; weights[:] = 1; class_weights[:] = 1
    thread = threading.Thread(target=rewrite)
    thread.start()
    try:
        for dtype in (np.float32, np.float64):
            calls = []
            for shape in ((3000, 5), (3000, 70)):
                x = rng.normal(size=shape).astype(dtype)
                for y in (x, np.asfortranarray(x)):
                    calls.append(lambda y=y: fl.cross_entropy.value_and_grad(y, labels))
                    calls.append(lambda y=y: fl.cross_entropy.evaluate(y, labels, outputs=("grad", "predicted", "correct")))
                    calls.append(lambda y=y: fl.multi_margin.grad(y, labels, sample_weight=weights))
            calls.append(lambda y=y: fl.nll.value_and_grad(y, labels, class_weights))
            calls.append(lambda y=y: fl.multilabel_margin.value_and_grad(y[:200], lists))
            row = rng.normal(size=(1, 200_000)).astype(dtype)
            calls.append(lambda: fl.cross_entropy.value_and_grad(row, labels[:1]))
            for _ in range(20):
                for call in calls:
                    try:
                        call()
                    except ValueError:
                        pass
    finally:
        over = True
        thread.join()
    print("whole")
"""


def _python(code):
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


@pytest.mark.fault(52)
def test_labels_and_weights_that_another_thread_rewrites():
    assert _python(REWRITTEN) == "whole"


# --- strict modes --------------------------------------------------------------------------------------------------------


@pytest.mark.fault(48)
@pytest.mark.parametrize("weights", [[1e-40, 1], np.array([1e-40, 1]), [1e-320, 1.0]], ids=str)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("name", ["cross_entropy", "nll", "focal_cross_entropy", "multi_margin"])
def test_tiny_class_weights_under_strict_modes(name, dtype, weights):
    loss = getattr(fl, name)
    if "class_weight" not in loss.formula.inputs:
        pytest.skip("has none")
    logits = np.array([[-0.5, -1.0], [-2.0, -0.25]], dtype)
    expected = loss.value_and_grad(logits, [0, 1], class_weight=weights)
    with np.errstate(all="raise"), warnings.catch_warnings():
        warnings.simplefilter("error")
        _assert_equal(loss.value_and_grad(logits, [0, 1], class_weight=weights), expected)


def test_results_that_leave_a_halves_range_under_strict_modes():
    pred = np.array([1e-4, 2e-4], np.float16)
    big = np.array([6e4, 6e4], np.float16)
    with np.errstate(all="raise"), warnings.catch_warnings():
        warnings.simplefilter("error")
        value = np.empty((), np.float16)
        assert fl.squared_error(pred, 0.0, value_out=value) is value
        assert value == 0
        fl.squared_error(big, 0.0, reduction="sum", value_out=value)
        assert np.isposinf(value)
        grads = fl.gaussian_nll.grad(big, np.zeros(2, np.float16), np.full(1, 6e-8, np.float16))
        assert grads[1].shape == (1,)
        with pytest.raises(ValueError, match="target must be"):
            fl.binary_cross_entropy(np.array([0.5], np.float32), np.array([1e300]))


def test_the_empty_means_warning_points_at_its_caller():
    nothing, labels = np.zeros(0), np.zeros(0, int)
    for call in (
        lambda: fl.huber(nothing, nothing),
        lambda: fl.huber.value_and_grad(nothing, nothing),
        lambda: fl.cross_entropy(nothing.reshape(0, 3), labels),
        lambda: fl.cross_entropy.evaluate(nothing.reshape(0, 3), labels, outputs=("value",)),
    ):
        with pytest.warns(RuntimeWarning, match="the mean of nothing is nan") as caught:
            call()
        assert [warning.filename for warning in caught] == [__file__]


def test_an_empty_mean_that_is_an_error_writes_nothing():
    out = np.full((2, 3), SENTINEL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for call in (
            lambda: fl.huber.value_and_grad(np.zeros((2, 3)), 0.0, sample_weight=0.0, grad_out=out),
            lambda: fl.cross_entropy.value_and_grad(np.zeros((2, 3)), [-100, -100], grad_out=out),
        ):
            with pytest.raises(RuntimeWarning):
                call()
            assert (out == SENTINEL).all()


# --- labels --------------------------------------------------------------------------------------------------------------

WITH_LABELS = [name for name in fl.losses.ROWS if getattr(fl, name).formula.label]


@pytest.mark.fault(14)
@pytest.mark.parametrize("name", WITH_LABELS)
@pytest.mark.parametrize("beyond", [2**64 - 100, 2**63, 2**64 - 1])
def test_unsigned_labels_beyond_int64(name, beyond, to):
    loss = getattr(fl, name)
    is_list = type(loss.formula.input_domains[loss.formula.label]).__name__ == "Classes"
    labels = np.array([[1, beyond, 0], [2, 1, 0]] if is_list else [1, beyond], np.uint64)
    x = np.full((2, 3), -1.0)
    for layout in (labels, np.repeat(labels, 2, axis=0)[::2], labels[::-1][::-1]):
        with pytest.raises(ValueError, match=f"{name}: {loss.formula.label} must be .* got {beyond} at index"):
            loss.value_and_grad(to(x), to(layout), **({} if is_list else {"ignore_index": -100}))


@pytest.mark.fault(1)
@pytest.mark.parametrize("name", WITH_LABELS)
def test_labels_are_not_repeated(name, to):
    loss = getattr(fl, name)
    label = loss.formula.label
    if type(loss.formula.input_domains[label]).__name__ == "Classes":
        pytest.skip("lists")
    with pytest.raises(ValueError, match=re.escape(f"{name}: {label} must broadcast to the rows' shape (3,)")):
        loss(to(np.full((3, 2), -1.0)), to(np.array([1])))
    with pytest.raises(ValueError, match=re.escape(f"{name}: {label} must broadcast to the rows' shape (4, 3)")):
        loss(to(np.full((4, 3, 2), -1.0)), to(np.zeros((4, 1), int)))


@pytest.mark.fault(17)
def test_lists_of_masked_arrays(to):
    masked = np.ma.masked_array([1.0, 2.0], mask=[0, 1])
    out = np.full((2, 2), SENTINEL)
    for call in (
        lambda: fl.huber.grad([masked, masked], np.ones((2, 2)), grad_out=out),
        lambda: fl.huber.grad(np.ones((2, 2)), (masked, masked), grad_out=out),
        lambda: fl.huber.grad(np.ones((2, 2)), [[1.0, np.ma.masked], [1.0, 1.0]], grad_out=out),
        lambda: fl.huber.grad(np.ones((2, 2)), 0.0, sample_weight=[masked, masked], grad_out=out),
        lambda: fl.cross_entropy.grad([masked, masked], [0, 1], grad_out=out),
        lambda: fl.cross_entropy.grad(np.ones((2, 2)), [np.ma.masked_array(0, mask=True), 1], grad_out=out),
    ):
        with pytest.raises(TypeError, match="masked array"):
            call()
        assert (out == SENTINEL).all()
    assert fl.huber([[1.0, 2.0]], [(1.0, 2.0)]) == 0


# --- gradients of what was broadcast -------------------------------------------------------------------------------------

SEVERAL = [name for name in fl.losses.POINTWISE if len(getattr(fl, name).formula.differentiable) > 1]
SEVERAL_ROWS = [name for name in fl.losses.ROWS if len(getattr(fl, name).formula.differentiable) > 1]
SMALL = [(5, 1), (1, 3), (3,), (1,), (), (1, 1), (5, 3)]


def _assert_summed(loss, given, small, to, exact, **options):
    """Call with one input in a smaller shape, and compare with the call on all of it."""
    formula = loss.formula
    full = {**given, small: np.broadcast_to(given[small], given[formula.inputs[0]].shape).copy()}
    place, shape = formula.differentiable.index(small), given[small].shape
    value, grads, hesses = loss.value_grad_hess(*map(to, given.values()), **options)
    expected = loss.value_grad_hess(*map(to, full.values()), **options)
    np.testing.assert_array_equal(value, expected[0])
    for found, wanted in ((grads, expected[1]), (hesses, expected[2])):
        for k, (a, b) in enumerate(zip(map(np.asarray, found), map(np.asarray, wanted), strict=True)):
            if k == place:
                lead = b.ndim - len(shape)
                axes = (*range(lead), *(lead + d for d, n in enumerate(shape) if n == 1))
                assert a.shape == shape
                assert a.dtype == b.dtype
                np.testing.assert_allclose(a, b.astype(float).sum(axes).reshape(shape), rtol=exact, atol=exact)
            else:
                np.testing.assert_array_equal(a, b)
    return grads


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", SMALL, ids=str)
@pytest.mark.parametrize("name", SEVERAL)
def test_the_gradient_of_a_broadcast_input_is_summed(name, shape, reduction, to):
    loss, rng = getattr(fl, name), np.random.default_rng(2)
    for dtype, exact in (("float64", 1e-12), ("float32", 1e-5), ("float16", 4e-3)):
        for small in loss.formula.differentiable[1:]:
            given = {n: rng.uniform(0.5, 2, shape if n == small else (5, 3)).astype(dtype) for n in loss.formula.inputs}
            if "target" in given and small != "target":
                given["target"] = np.where(given["target"] < 1, 1, -1).astype(dtype) if "margin" in name else given["target"]
            _assert_summed(loss, given, small, to, exact, reduction=reduction, sample_weight=to(rng.uniform(0, 1, (5, 3))))


@pytest.mark.parametrize("shape", [(1, 4), (4,), (6, 4)], ids=str)
@pytest.mark.parametrize("name", SEVERAL_ROWS)
def test_the_gradient_of_broadcast_rows_is_summed(name, shape, to):
    loss, rng = getattr(fl, name), np.random.default_rng(3)
    for small in loss.formula.differentiable[1:]:
        given = {}
        for n, domain in loss.formula.input_domains.items():
            kind = type(domain).__name__
            own = shape if n == small else (6,) if kind == "PerRow" else (6, 4)
            given[n] = (rng.integers(0, 2, own) * 2.0 - 1) if kind == "PerRow" else rng.uniform(0.1, 1, own)
        _assert_summed(loss, given, small, to, 1e-12, sample_weight=to(rng.uniform(0, 1, 6)), check=False)


def test_outputs_of_a_broadcast_input():
    rng = np.random.default_rng(4)
    pred, target, var = rng.normal(size=(5, 3)), rng.normal(size=(5, 3)), rng.uniform(0.5, 2, (5, 1))
    expected = fl.gaussian_nll.value_grad_hess(pred, target, var)
    outs = [np.full((5, 3), SENTINEL), np.full((5, 1), SENTINEL), np.full((5, 3), SENTINEL), np.full((5, 1), SENTINEL)]
    found = fl.gaussian_nll.value_grad_hess(pred, target, var, grad_out=tuple(outs[:2]), hess_out=tuple(outs[2:]))
    _assert_equal(found, expected)
    assert found[1][1] is outs[1]
    own = var.copy()
    fl.gaussian_nll.grad(pred, target, own, grad_out=(np.empty((5, 3)), own))  # over the input itself
    np.testing.assert_array_equal(own, expected[1][1])
    for wrong, message in (
        (np.full((5, 3), SENTINEL), "grad_out[1] must have shape (5, 1), got (5, 3)"),
        (np.full((5, 1), SENTINEL, np.float32), "grad_out[1] must have dtype float64, got float32"),
    ):
        first = np.full((5, 3), SENTINEL)
        with pytest.raises(ValueError, match=re.escape(message)):
            fl.gaussian_nll.grad(pred, target, var, grad_out=(first, wrong))
        assert (first == SENTINEL).all()
        assert (wrong == SENTINEL).all()
    first = np.full((5, 3), SENTINEL)
    with pytest.raises(ValueError, match="must not share memory with another output"):
        fl.gaussian_nll.grad(pred, target, var, grad_out=(first, first[:, :1]))
    assert (first == SENTINEL).all()


def test_the_gradient_of_an_own_losss_broadcast_input(to):
    @fl.loss(differentiable=("pred", "scale"))
    def scaled_square(pred, target, scale):
        return (pred - target) * (pred - target) * scale * scale

    rng = np.random.default_rng(6)
    for shape in SMALL:
        given = dict(zip(("pred", "target", "scale"), (rng.normal(size=own) for own in ((5, 3), (5, 3), shape)), strict=True))
        grads = _assert_summed(scaled_square, given, "scale", to, 1e-12, reduction="sum")
        terms = 2 * (given["pred"] - given["target"]) ** 2 * given["scale"]
        np.testing.assert_allclose(grads[1].sum(), terms.sum(), rtol=1e-12)


# --- shared memory -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_interleaved_outputs_and_inputs(dtype):
    rng = np.random.default_rng(5)
    pred, target, var = rng.uniform(0.5, 2, (3, 50)).astype(dtype)
    expected = fl.gaussian_nll.grad(pred, target, var)
    pairs = np.full((50, 2), SENTINEL, dtype)
    fl.gaussian_nll.grad(pred, target, var, grad_out=(pairs[:, 0], pairs[:, 1]))
    _assert_equal((pairs[:, 0], pairs[:, 1]), expected)
    z = np.zeros(50, "complex64" if dtype == "float32" else "complex128")
    fl.gaussian_nll.grad(pred, target, var, grad_out=(z.real, z.imag))
    _assert_equal((z.real, z.imag), expected)
    z.real = pred
    fl.huber.grad(z.real, target, grad_out=z.imag)
    _assert_equal((z.real, z.imag), (pred, fl.huber.grad(pred, target)))
    logits = np.full((20, 5, 2), SENTINEL, dtype)
    logits[..., 0] = rng.normal(size=(20, 5))
    labels = rng.integers(0, 5, 20)
    expected = fl.cross_entropy.grad_and_hess(logits[..., 0].copy(), labels)
    both = np.empty((20, 5, 2), dtype)
    _assert_equal(
        fl.cross_entropy.grad_and_hess(logits[..., 0], labels, grad_out=both[..., 0], hess_out=both[..., 1]), expected
    )
    _assert_equal(fl.cross_entropy.grad(logits[..., 0], labels, grad_out=logits[..., 1]), expected[0])


def test_outputs_that_share_an_element_are_still_refused():
    memory = np.full(100, SENTINEL)
    pred, target, var = np.ones((3, 20))
    for one, other in (
        (memory[:40:2], memory[20:40]),
        (memory[:60:3], memory[1:61:2][:20][::-1]),
        (memory[:20], memory[19:39]),
    ):
        with pytest.raises(ValueError, match="must not share memory with another output"):
            fl.gaussian_nll.grad(pred, target, var, grad_out=(one, other))
    assert (memory == SENTINEL).all()


# --- reductions and names of results -------------------------------------------------------------------------------------

RUN = {
    "pointwise": lambda to, **options: fl.huber(to(np.array([1.0, 3.0])), to(np.zeros(2)), **options),
    "rows": lambda to, **options: fl.cross_entropy(to(np.array([[1.0, 2.0], [0.0, 1.0]])), to(np.array([0, 1])), **options),
}


@pytest.mark.parametrize("kind", RUN)
def test_reductions_may_be_numpys_strings(kind, to):
    for reduction in ("mean", "sum", "none"):
        _assert_equal(RUN[kind](to, reduction=np.str_(reduction)), RUN[kind](to, reduction=reduction))
    assert RUN[kind](to, reduction=np.str_("mean"), normalizer=2) == RUN[kind](to, reduction="sum") / 2


@pytest.mark.parametrize("kind", RUN)
@pytest.mark.parametrize("wrong", [1, None, True, b"sum", ["sum"], np.array(["sum", "mean"]), np.str_("summe")], ids=repr)
def test_reductions_of_other_types(kind, wrong, to):
    message = r"(huber|cross_entropy): reduction must be 'mean', 'sum' or 'none', got "
    with pytest.raises(ValueError, match=message):
        RUN[kind](to, reduction=wrong)
    with pytest.raises(ValueError, match=r"huber: reduction must be 'mean' or 'sum' along a line, got "):
        fl.line_search(fl.huber, [1.0], [0.0], direction=[1.0], reduction=wrong)


def test_names_of_outputs_may_come_from_a_generator():
    found = fl.cross_entropy.evaluate([[1.0, 2.0]], [0], outputs=(name for name in ("value", "correct", "grad")))
    assert list(found) == ["value", "correct", "grad"]
    assert found["correct"] == 0
    with pytest.raises(TypeError, match="cross_entropy: outputs must be a collection of names, got 'value'"):
        fl.cross_entropy.evaluate([[1.0, 2.0]], [0], outputs="value")


def test_hyperparameters_beyond_float32_in_rows():
    for options in ({"temperature": 1e-60}, {"z_loss": 1e300}):
        with pytest.raises(ValueError, match=r"cross_entropy: hyperparameters, .* must be within float32's range"):
            fl.cross_entropy(np.zeros((2, 3), np.float32), [0, 1], **options)
        fl.cross_entropy(np.zeros((2, 3)), [0, 1], **options)


def test_divisors_beyond_float32_in_rows():
    logits, out = np.zeros((2, 3), np.float32), np.full((2, 3), SENTINEL, np.float32)
    for options in ({"normalizer": 1e-60}, {"sample_weight": [1e-60, 1e-60]}):
        with pytest.raises(ValueError, match="must be within float32's range"):
            fl.cross_entropy.value_and_grad(logits, [0, 1], grad_out=out, **options)
        assert (out == SENTINEL).all()
