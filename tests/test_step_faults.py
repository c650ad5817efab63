"""What may go wrong around a step: memory, signals, forks, other threads, numbers beyond their dtype's range, changed structures."""

import copy
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import warnings

import numpy as np
import pytest

import fastloss as fl
from fastloss.api import backends

from .step_allocations import fail_each, fail_each_array

F32_MAX = float(np.finfo(np.float32).max)


def snapshot(optimizer, arrays):
    """All that a step or a load may change, as bytes."""
    saved = optimizer.state_dict()
    states = {name: {key: a.tobytes() for key, a in held.items()} for name, held in saved["state"].items()}
    return saved["steps"], [array.tobytes() for array in arrays], states, repr(saved["groups"])


def arrays_of(dtype="float32"):
    rng = np.random.default_rng(3)
    return [rng.normal(size=40).astype(dtype), rng.normal(size=(4, 5)).astype(dtype)]


# --- memory ---------------------------------------------------------------------------------------------------------------


@pytest.mark.fault(54)
def test_a_state_that_finds_no_memory_leaves_the_kernels_of_the_states_there_are(monkeypatch):
    w, grad = np.ones(100), np.full(100, 0.5)
    optimizer, plain = fl.Adam(w), fl.Adam(v := np.ones(100))
    for each in (optimizer, plain):
        each.step(grad)
    optimizer.param_groups[0]["amsgrad"] = True
    with monkeypatch.context() as patch:
        patch.setattr(backends.np, "zeros", lambda *args: (_ for _ in ()).throw(MemoryError()))
        with pytest.raises(MemoryError):
            optimizer.step(grad)
    assert optimizer.steps == 1
    optimizer.param_groups[0]["amsgrad"] = False
    for each in (optimizer, plain):
        each.step(grad)
    assert w.tobytes() == v.tobytes()
    optimizer.param_groups[0]["amsgrad"] = True
    optimizer.step(grad)
    assert set(optimizer.state_dict()["state"]["params"]) == {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"}


STEPS = {
    "plain": lambda optimizer, grads: optimizer.step(grads),
    "measured": lambda optimizer, grads: optimizer.step(grads, max_norm=0.5, skip_nonfinite=True, grad_scale=2.0),
    "rows": lambda optimizer, grads: optimizer.step([fl.SparseRows([3, 3, 1], grads[0][:3]), grads[1]]),
    "a learning rate for each row": lambda optimizer, grads: optimizer.step([g[:4] for g in grads], row_lr=np.ones(4)),
}


@pytest.mark.fault(54)
@pytest.mark.parametrize("what", STEPS)
def test_each_allocation_of_a_step_may_fail(what):
    arrays = arrays_of()
    if "row" in what and what != "rows":
        arrays = [a[:4].copy() for a in arrays]
    grads = [np.full_like(a, 0.25) for a in arrays]
    optimizer = fl.AdamW(arrays, lr=0.1, ema_decay=0.9)
    STEPS[what](optimizer, grads)  # NumPy fails in its own ways where a loop of its is looked up for the first time
    before = snapshot(optimizer, arrays)

    def call():
        nonlocal before
        STEPS[what](optimizer, grads)
        sys.modules["_testcapi"].remove_mem_hooks()
        assert optimizer.steps == before[0] + 1
        before = snapshot(optimizer, arrays)

    failed = fail_each(call, lambda: snapshot(optimizer, arrays)[:3] == before[:3], numpy_loses="row" in what)
    assert failed > 30


@pytest.mark.fault(54)
@pytest.mark.parametrize("what", ["construction", "loading"])
def test_each_array_of_construction_and_loading_may_fail(what, monkeypatch):
    arrays = arrays_of()
    options = {"lr": 0.1, "ema_decay": 0.9, "copy_dtype": np.float16, "amsgrad": True}
    first = fl.AdamW(arrays, **options)
    first.step([np.ones_like(a) for a in arrays])
    saved = first.state_dict()
    second = fl.AdamW(arrays, lr=0.2, ema_decay=0.9, copy_dtype=np.float16)
    before = snapshot(second, arrays)

    def call():
        if what == "loading":
            second.load_state_dict(saved)
        else:
            fl.AdamW(arrays, **options)

    assert fail_each_array(call, lambda: snapshot(second, arrays) == before, monkeypatch, backends) >= 6
    assert (snapshot(second, arrays) == before) == (what == "construction")
    second.step([np.ones_like(a) for a in arrays])


# --- threads, forks, signals ----------------------------------------------------------------------------------------------


def in_process(text, timeout=60):
    """Run a script; a hang is a failure."""
    script = "import os, signal, threading, time\nimport numpy as np\nimport fastloss as fl\n" + textwrap.dedent(text)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@pytest.mark.fault(55)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("which", ["this", "its own"])
def test_a_child_that_is_forked_while_another_thread_steps(which):
    in_process(f"""
        w = np.ones(3_000_000, np.float32)
        g = np.ones_like(w)
        optimizer, own = fl.Adam(w), fl.Adam(np.ones(100_000))
        stop = False
        def work():
            while not stop:
                optimizer.step(g, max_norm=1.0)
        thread = threading.Thread(target=work)
        thread.start()
        for k in range(20):
            time.sleep(0.003)
            child = os.fork()
            if child == 0:
                signal.alarm(20)
                if {which!r} == "this":
                    optimizer.step(g)
                    optimizer.state_dict()
                else:
                    own.step(np.ones(100_000))
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0, k
        stop = True
        thread.join()
    """)


@pytest.mark.fault(55)
def test_a_signal_handler_that_steps_what_it_interrupts():
    """It gets an error, if the step that it interrupts has not begun to write or has ended it works; it never waits for itself."""
    out = in_process("""
        w = np.ones(3, np.float32)
        optimizer = fl.Adam(w, lr=lambda step: sum(range(2000)) * 0 + 0.1)
        found = {"error": 0, "step": 0, "saved": 0}
        def handler(*_):
            try:
                optimizer.step(np.ones(3, np.float32))
                found["step"] += 1
            except RuntimeError as error:
                assert "Adam: must not be used from within its own step" in str(error), error
                found["error"] += 1
            found["saved"] += optimizer.state_dict()["steps"] >= 0
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0011)
        end, steps = time.monotonic() + 1.5, 0
        while time.monotonic() < end:
            optimizer.step(np.ones(3, np.float32))
            steps += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert optimizer.steps == steps + found["step"]
        print(found["error"] > 0, found["saved"] > 0)
    """)
    assert out == "True True"


def test_a_schedule_that_steps_its_own_optimizer():
    w = np.ones(3)
    optimizer = fl.SGD(w, lr=0.1)
    optimizer.param_groups[0]["lr"] = lambda step: optimizer.step(np.ones(3)) and 0.1
    with pytest.raises(RuntimeError, match="SGD: must not be used from within its own step"):
        optimizer.step(np.ones(3))
    assert (w == 1).all() and optimizer.steps == 0
    optimizer.param_groups[0]["lr"] = 0.5
    optimizer.step(np.ones(3))
    assert (w == 0.5).all()


@pytest.mark.fault(41)
@pytest.mark.parametrize("what", ["step", "ascend", "swap", "update", "lookahead"])
def test_ctrl_c_leaves_a_step_whole_or_out(what):
    in_process(
        f"""
        what = {what!r}
        w = np.ones(400_000)
        g = np.ones_like(w)
        optimizer = fl.SGD(w, lr=1.0)
        sam, average, ahead = fl.SAM(optimizer, rho=1.0), fl.WeightAverage(w), fl.Lookahead(optimizer, k=1)
        average.update()
        taken = 0
        rng = np.random.default_rng(0)
        longest = 0.004  # seconds; longer on a busy machine
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        for k in range(150):
            before, steps, updates, mean = w.copy(), optimizer.steps, average.updates, average.averages.copy()
            slow = ahead.state_dict()["slow"]["params"][0]
            delay = rng.uniform(0, longest)
            try:
                signal.setitimer(signal.ITIMER_REAL, max(delay, 1e-5))
                if what == "step":
                    optimizer.step(g, max_norm=1e9)
                elif what == "ascend":
                    sam.ascend(g)
                elif what == "swap":
                    with average.swap():
                        pass
                elif what == "lookahead":
                    ahead.step(g)
                else:
                    average.update()
                taken += 1
            except KeyboardInterrupt:
                longest *= 1.02
            try:
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                pass
            if what == "step":
                assert optimizer.steps in (steps, steps + 1)
                assert (w == before - (optimizer.steps - steps)).all(), k
            elif what == "ascend":
                if sam.ascended:
                    sam.step(np.zeros_like(w))
                np.testing.assert_array_equal(w, before)
            elif what == "swap":
                np.testing.assert_array_equal(w, before)
                average.update()
            elif what == "lookahead":
                assert len(set(w[:: 1000].tolist())) == 1
                assert w[0] in (before[0], before[0] - 1, (before[0] - 1 + slow) / 2), (w[0], before[0], slow)
            else:
                assert average.updates in (updates, updates + 1)
                expected = mean + (w - mean) / (updates + 1) if average.updates > updates else mean
                np.testing.assert_allclose(average.averages, expected)
                w += 1.0
        assert 0 < taken
    """,
        timeout=120,
    )


@pytest.mark.fault(52)
def test_rows_that_another_thread_rewrites_are_those_that_were_checked():
    in_process("""
        w = np.zeros((64, 8), np.float32)
        optimizer = fl.Adam(w)
        rows, values = np.arange(32), np.ones((32, 8), np.float32)
        stop = False
        def rewrite():
            while not stop:
                rows[:] = 10**9
                rows[:] = np.arange(32)
        thread = threading.Thread(target=rewrite)
        thread.start()
        end = time.monotonic() + 2
        taken = refused = 0
        while time.monotonic() < end:
            try:
                optimizer.step(fl.SparseRows(rows, values))
                taken += 1
            except ValueError:
                refused += 1
        stop = True
        thread.join()
        assert taken + refused > 0 and np.isfinite(w).all()
    """)


def test_a_state_dictionary_of_an_optimizer_that_another_thread_steps():
    w = np.zeros(200_000)
    optimizer = fl.SGD(w, lr=1.0, momentum=0.5)
    grad, stop = np.ones_like(w), threading.Event()
    thread = threading.Thread(target=lambda: [optimizer.step(grad) for _ in iter(stop.is_set, True)])
    thread.start()
    try:
        for _ in range(50):
            saved = optimizer.state_dict()
            buffer = saved["state"]["params"]["momentum_buffer"]
            assert (buffer == buffer[0]).all()
            np.testing.assert_allclose(buffer[0] if saved["steps"] else 0, 2 - 2 * 0.5 ** saved["steps"], rtol=1e-12)
    finally:
        stop.set()
        thread.join()


# --- modes of floating point ----------------------------------------------------------------------------------------------


def saved_of(w, value, **options):
    optimizer = fl.Adam(w, **options)
    optimizer.step(np.ones_like(w))
    saved = optimizer.state_dict()
    for held in saved["state"].values():
        for array in held.values():
            array[...] = value
    return saved


def load_with_copies():
    w = np.array([1e6, 1.0])
    saved = saved_of(w, 1e300, copy_dtype=np.float16)
    optimizer = fl.Adam(w, copy_dtype=np.float16, state_dtype=np.float32)
    optimizer.load_state_dict(saved)
    assert optimizer.copies[0] == np.inf
    assert optimizer.state_dict()["state"]["params"]["exp_avg"][0] == np.inf


def averages_in_half():
    w = np.array([6e4, 1e-6], np.float16)
    average = fl.WeightAverage(w)
    average.update()
    average.averages[...] = 1e6
    with average.swap():
        assert np.isinf(w).all()
    average.load_state_dict(average.state_dict() | {"averages": {"params": np.array([1e300, 1e-300])}})


def lookahead_in_half():
    w = np.array([6e4, 1e-4], np.float16)
    optimizer = fl.Lookahead(fl.SGD(w, lr=1.0, rounding="compensated"), k=1)
    optimizer.step(np.array([-6e4, 1e-7], np.float16))


def sharpness():
    w = np.array([1e30, 1e-30], np.float32)
    optimizer = fl.SAM(fl.SGD(w, copy_dtype=np.float16), adaptive=True)
    optimizer.ascend(np.array([1e30, 1e-30], np.float32))
    optimizer.step(np.array([1e-40, 1e38], np.float32))


def duplicate_rows():
    w = np.zeros((3, 2))
    fl.SGD(w, lr=1.0).step(fl.SparseRows([1, 1], np.full((2, 2), 1e308)))
    assert np.isinf(w[1]).all()
    v = np.zeros((3, 2), np.float32)
    fl.SGD(v, lr=1.0).step(fl.SparseRows([1, 1], np.full((2, 2), 1e300)))


CALLS = {
    "load_state_dict": load_with_copies,
    "copies": lambda: fl.SGD(np.array([1e6]), copy_dtype=np.float16),
    "duplicate rows": duplicate_rows,
    "WeightAverage": averages_in_half,
    "Lookahead": lookahead_in_half,
    "SAM": sharpness,
    "clip_grad_norm": lambda: fl.clip_grad_norm([np.full(9, 1e308), np.full(9, 1e-308)], 1e-300),
    "clip_grad_adaptive": lambda: fl.clip_grad_adaptive(np.ones((2, 2)), np.array([[1e308, 1e308], [1e-320, 0]])),
    "clip_grad_value": lambda: fl.clip_grad_value(np.array([1e30, 1e-30], np.float32), 1e-5),
    "accumulate": lambda: fl.accumulate(np.array([1.0], np.float16), np.array([1e300]), scale=1e-40),
    "row_lr": lambda: fl.SGD(np.ones((2, 1))).step(np.ones((2, 1)), row_lr=np.array([1e-320, 1e300])),
    "step": lambda: fl.Adam(np.ones(3, np.float32), state_dtype=np.float16, copy_dtype=np.float16).step(np.full(3, 1e10)),
    "evaluation_params": lambda: fl.ScheduleFreeSGD(np.ones(3, np.float16)).evaluation_params(),
    "LossScaler": lambda: fl.LossScaler(2.0**120).step(fl.SGD(np.ones(2, np.float32)), np.full(2, 1e38, np.float32)),
    "to_optax_state": lambda: fl.to_optax_state(rmsprop(1e-300)),
    "from_optax_state": lambda: fl.from_optax_state(rmsprop(1e-300), {"nu": np.ones(2), "trace": np.full(2, 1e300)}),
}


def rmsprop(lr):
    optimizer = fl.RMSprop(np.ones(2), lr=lr, momentum=0.5)
    optimizer.step(np.full(2, 1e-20))
    return optimizer


@pytest.mark.fault(48)
@pytest.mark.parametrize("mode", ["seterr", "warnings"])
@pytest.mark.parametrize("what", CALLS)
def test_calls_do_not_depend_on_the_callers_floating_point_errors(what, mode):
    if mode == "seterr":
        with np.errstate(all="raise"):
            CALLS[what]()
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            CALLS[what]()


# --- structures -----------------------------------------------------------------------------------------------------------


@pytest.mark.fault(58)
def test_gradients_are_matched_by_the_names_at_construction():
    params = {"a": np.zeros(2), "b": np.zeros(2)}
    optimizer = fl.SGD(params, lr=1.0)
    a, b = params["a"], params["b"]
    params["a"] = params.pop("a")
    optimizer.step({"a": np.ones(2), "b": np.full(2, 2.0)})
    assert (a == -1).all() and (b == -2).all()
    grouped = [{"params": {"x": (x := np.zeros(1)), "y": (y := np.zeros(1))}}]
    optimizer = fl.SGD(grouped, lr=1.0)
    grouped[0]["params"]["x"] = grouped[0]["params"].pop("x")
    optimizer.step([{"y": np.full(1, 2.0), "x": np.ones(1)}])
    assert x == -1 and y == -2


@pytest.mark.fault(58)
def test_states_are_matched_by_name_too():
    params = {"a": np.zeros(1), "b": np.zeros(1)}
    optimizer = fl.Adam(params)
    params["a"] = params.pop("a")
    optimizer.step({"a": np.ones(1), "b": np.full(1, 2.0)})
    assert list(fl.to_optax_state(optimizer)["mu"]) == ["a", "b"]
    np.testing.assert_allclose(fl.to_optax_state(optimizer)["mu"]["b"], 0.2)
    saved = optimizer.state_dict()
    saved["state"] = dict(reversed(saved["state"].items()))
    other = fl.Adam(params)
    other.load_state_dict(saved)
    np.testing.assert_allclose(other.state_dict()["state"]["params['b']"]["exp_avg"], 0.2)


def test_what_becomes_of_the_callers_list_does_not_matter():
    params = [np.zeros(1), np.zeros(1)]
    first = params[0]
    optimizer = fl.SGD(params, lr=1.0)
    params[0] = np.zeros(1)
    params.append(np.zeros(1))
    optimizer.step([np.ones(1), np.ones(1)])
    assert first == -1 and params[0] == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda optimizer: optimizer.param_groups.append({"params": np.zeros(1), "lr": 0.1}),
        lambda optimizer: optimizer.param_groups.append(dict(optimizer.param_groups[0])),
        lambda optimizer: optimizer.param_groups.pop(),
        lambda optimizer: setattr(optimizer, "param_groups", []),
        lambda optimizer: optimizer.param_groups[0].update(params=[np.zeros(1), np.zeros(1)]),
        lambda optimizer: optimizer.param_groups[0].pop("params"),
    ],
)
def test_groups_stay_those_of_the_beginning(change):
    params = [np.zeros(1), np.zeros(1)]
    optimizer = fl.SGD(params, lr=1.0)
    change(optimizer)
    with pytest.raises(ValueError, match=r"SGD: .*param_groups.* must"):
        optimizer.step([np.ones(1), np.ones(1)])
    with pytest.raises(ValueError, match=r"SGD: .*param_groups.* must|groups must be"):
        optimizer.load_state_dict(fl.SGD([np.zeros(1), np.zeros(1)]).state_dict())
    assert (params[0] == 0).all() and optimizer.steps == 0


def test_a_parameter_in_a_group_cannot_be_replaced():
    optimizer = fl.SGD([np.zeros(1), np.zeros(1)])
    with pytest.raises(TypeError, match="item assignment"):
        optimizer.param_groups[0]["params"][0] = np.ones(1)
    optimizer = fl.SGD({"a": np.zeros(1)})
    with pytest.raises(TypeError, match="item assignment"):
        optimizer.param_groups[0]["params"]["a"] = np.ones(1)
    for again in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        again.step({"a": np.ones(1)})
        assert again.param_groups[0]["params"]["a"] != 0 and optimizer.param_groups[0]["params"]["a"] == 0


def test_a_parameter_given_another_shape_keeps_that_of_the_beginning():
    w = np.zeros(6)
    optimizer = fl.SGD(w, lr=1.0)
    w.shape = (2, 3)
    with pytest.raises(ValueError, match=r"the gradient of params must have its shape \(6,\)"):
        optimizer.step(np.ones((2, 3)))
    with pytest.raises(ValueError, match="each of 6 rows"):
        optimizer.step(np.ones(6), row_mask=np.ones(2, bool))
    optimizer.step(np.ones(6), row_mask=np.arange(6) < 3)
    assert w.tolist() == [[-1, -1, -1], [0, 0, 0]]


def test_arrays_that_interleave_are_parameters_if_they_share_no_element():
    z = np.zeros(5, np.complex128)
    optimizer = fl.SGD([z.real, z.imag], lr=1.0)
    optimizer.step([np.full(5, 1.0), np.full(5, 2.0)])
    assert (z == -1 - 2j).all()
    table = np.zeros((4, 6), np.float32)
    optimizer = fl.Adam([table[:, k] for k in range(5)], lr=0.5)
    optimizer.step([np.ones(4, np.float32)] * 4 + [table[:, 5]])
    assert (table[:, :4] != 0).all() and (table[:, 5] == 0).all()
    for wrong in ([z.real, z.real], [z.real, z.imag, z.imag[1:3]], [table[:, 0], table[1]], [table[::2], table[:, 1]]):
        with pytest.raises(ValueError, match="must not share memory"):
            fl.SGD(wrong)
    for grad in (table[:, 0], table[0, :4], table.reshape(-1)[:4]):
        with pytest.raises(ValueError, match="must not share memory"):
            optimizer.step([np.ones(4, np.float32)] * 4 + [grad])


# --- factors beyond a dtype's range ---------------------------------------------------------------------------------------


@pytest.mark.fault(56)
@pytest.mark.parametrize(("dtype", "size"), [(np.float32, 2e38), (np.float64, 1e308), (np.float16, 6e4)])
def test_a_norm_is_clipped_however_large_it_is(dtype, size):
    w = np.zeros(4, dtype)
    result = fl.SGD(w, lr=1.0).step(np.full(4, size, dtype), max_norm=1.0, skip_nonfinite=True)
    assert not result.skipped and result.norm >= size
    np.testing.assert_allclose(w, -0.5, rtol=1e-3 if dtype == np.float16 else 1e-6)
    grads = [np.full(2, size, dtype), np.full(2, -size, dtype)]
    assert fl.clip_grad_norm(grads, 1.0) >= size
    np.testing.assert_allclose(grads, [[0.5, 0.5], [-0.5, -0.5]], rtol=1e-3 if dtype == np.float16 else 1e-6)


def test_clipping_in_the_ways_of_the_training_utilities():
    grad = np.full(1000, 1e37, np.float32)
    assert fl.clip_grad_norm(grad, 1.0) == pytest.approx(1000**0.5 * 1e37)
    np.testing.assert_allclose(grad, 1000**-0.5, rtol=1e-6)
    grad = np.full(4, 1e38, np.float32)
    fl.clip_grad_norm(grad, 2.0, norm_type=1.0)
    np.testing.assert_allclose(grad, 0.5, rtol=1e-6)
    for dtype, size in ((np.float32, 2e38), (np.float64, 1e308)):
        weights = np.array([[3.0, 4.0], [6.0, 8.0]], dtype)
        grad = np.array([[size, size], [0.5, 0.5]], dtype)
        fl.clip_grad_adaptive(weights, grad, clipping=0.1)
        np.testing.assert_allclose(grad, [[0.5 * 2**-0.5, 0.5 * 2**-0.5], [0.5, 0.5]], rtol=1e-6)


@pytest.mark.fault(56)
def test_unscaling_and_clipping_together():
    w = np.zeros(3, np.float32)
    scaler = fl.LossScaler(2.0**120)
    result = scaler.step(fl.SGD(w, lr=1.0), np.full(3, 1e38, np.float32), max_norm=0.01)
    assert not result.skipped
    np.testing.assert_allclose(w, -0.01 / 3**0.5, rtol=1e-6)
    for dtype, scale in ((np.float32, 1e-39), (np.float64, 1e-310)):
        w = np.zeros(3, dtype)
        fl.SGD(w, lr=1.0).step(np.zeros(3, dtype), grad_scale=scale)
        assert (w == 0).all()
        fl.SGD(w, lr=1.0).step(np.full(3, 1e-30, dtype), grad_scale=scale, clip_value=7.0)
        assert (w == -7).all()
    w = np.zeros(2, np.float32)
    fl.SGD(w, lr=1.0, maximize=True).step(np.full(2, 3e38, np.float32), grad_scale=1e39)
    np.testing.assert_allclose(w, 0.3, rtol=1e-6)
    w = np.zeros((4, 2), np.float32)
    fl.SGD(w, lr=1.0).step(fl.SparseRows([2, 1], np.full((2, 2), 2e38, np.float32)), max_norm=1.0)
    np.testing.assert_allclose(w, [[0, 0], [-0.5, -0.5], [-0.5, -0.5], [0, 0]], rtol=1e-6)


def test_accumulated_gradients_times_a_factor_beyond_float32():
    for dtype, size in ((np.float32, 2e38), (np.float64, 1e300)):
        total = np.ones(3, np.float32)
        fl.accumulate(total, np.full(3, size, dtype), scale=0.5 / size)
        np.testing.assert_allclose(total, 1.5, rtol=1e-6)


@pytest.mark.parametrize("size", [1e38, 1e-42, 1e-30])
@pytest.mark.parametrize("adaptive", [False, True])
def test_the_neighbour_does_not_depend_on_the_gradients_scale(size, adaptive):
    found = []
    for scale in (size, 1.0):
        w = np.array([3.0, 4.0], np.float32)
        sam = fl.SAM(fl.SGD(w), rho=1.0, adaptive=adaptive)
        sam.ascend(np.array([2.0, 1.0], np.float64) * scale)
        found.append(w.copy())
    np.testing.assert_allclose(*found, rtol=1e-5)
    assert (found[0] != [3.0, 4.0]).any()


@pytest.mark.fault(57)
@pytest.mark.parametrize(("size", "dtype"), [(1e30, "f4"), (1e-30, "f4"), (1e150, "f8"), (1e-150, "f8")])
def test_layerwise_norms_beyond_the_range_of_squares(size, dtype):
    w = np.full(4, size, dtype)
    fl.LAMB(w, lr=0.5, eps=0.0).step(np.ones(4, dtype))
    np.testing.assert_allclose(w, 0.5 * size, rtol=1e-6)


# --- numbers that leave their dtype's range -------------------------------------------------------------------------------

OVERFLOWS = {
    "Adam": (fl.Adam, 1e22),
    "Adagrad": (fl.Adagrad, 1e20),
    "NAdam": (fl.NAdam, 1e20),
    "RMSprop": (lambda w: fl.RMSprop(w, alpha=0.5), 1e20),
    "SGD, float16 states": (lambda w: fl.SGD(w, lr=1e-9, momentum=0.5, state_dtype=np.float16), 1e6),
    "Adam, float16 states": (lambda w: fl.Adam(w, state_dtype=np.float16, betas=(0.9, 0.5)), 1e3),
    "the parameter": (lambda w: fl.SGD(w, lr=1e30), 1e30),
}


@pytest.mark.fault(32)
@pytest.mark.parametrize("what", OVERFLOWS)
@pytest.mark.parametrize("place", [0, 299, 70_000])
def test_a_state_that_overflows_is_told_of_and_can_be_skipped(what, place):
    make, size = OVERFLOWS[what]
    w = np.ones(place + 3, np.float32)
    grad = np.full_like(w, 0.25)
    optimizer = make(w)
    assert not optimizer.step(grad).overflowed
    assert not optimizer.step(grad, skip_nonfinite=True).overflowed
    grad[place] = size
    before = snapshot(optimizer, [w])
    result = optimizer.step(grad, skip_nonfinite=True)
    assert result.skipped and result.overflowed and np.isfinite(result.norm)
    assert snapshot(optimizer, [w]) == before
    result = optimizer.step(grad)
    assert result == (None, False) and result.overflowed and optimizer.steps == 3
    assert "overflowed=True" in repr(result)
    assert pickle.loads(pickle.dumps(result)).overflowed
    if "SGD" in what or "parameter" in what:
        return
    # What is infinite already is no reason to skip.
    grad[place] = 0.25
    assert not optimizer.step(grad, skip_nonfinite=True).skipped


def test_large_gradients_that_fit_are_taken():
    w = np.ones(5, np.float32)
    result = fl.Adam(w).step(np.full(5, 1e18, np.float32), skip_nonfinite=True)
    assert not result.skipped and not result.overflowed
    w = np.ones(5)
    result = fl.Adam(w).step(np.full(5, 1e150), skip_nonfinite=True)
    assert not result.skipped and not result.overflowed
    result = fl.Adam(w).step(np.full(5, 1e160), skip_nonfinite=True)
    assert result.skipped and result.overflowed


def test_the_callers_floating_point_flags_are_as_they_were():
    with np.errstate(all="raise"):
        fl.Adam(np.ones(5, np.float32)).step(np.full(5, 1e30, np.float32))
        np.add(np.ones(3, np.float32), np.ones(3, np.float32))
    seen = []
    with np.errstate(all="call"), np.testing.suppress_warnings():
        np.seterrcall(lambda *args: seen.append(args))
        fl.SGD(np.ones(5, np.float32), lr=1e30).step(np.full(5, 1e30, np.float32))
        np.sqrt(np.ones(3))
    assert not seen
