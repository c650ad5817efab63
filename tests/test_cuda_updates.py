"""Optimizers of CUDA arrays against those of NumPy's, which the papers' pseudo-code is the measure of: the same bits, step by step."""

import copy
import math
import pickle

import numpy as np
import pytest
from rules import RULES, VARIANTS, draw, ident

import fastloss as fl

from .cuda_simulator import SIMULATED, cuda, needed, thinned, to_gpu, to_host

pytestmark = needed

STEPS = 3
SHAPES = ((3, 47), (5,), ())  # more than one chunk of the simulator's; less than a vector
# The simulator has the CPU engine's very bits; a GPU nearly, where it divides or takes roots.
ULP = 0 if SIMULATED else 2
ADAMW = RULES["AdamW"].hyper
HALVES = ["float16", "bfloat16"]
DTYPES = [*HALVES, "float32", "float64"]


@pytest.fixture
def no_waiting(monkeypatch):
    """Nothing may be read from the GPU."""
    from fastloss._kernels.cuda import device

    def refuse(*_):
        raise AssertionError("waited for the GPU")

    monkeypatch.setattr(device, "get", refuse)
    monkeypatch.setattr(device, "wait", refuse)


def dtype_of(name):
    return pytest.importorskip("ml_dtypes").bfloat16 if name == "bfloat16" else np.dtype(name)


def same(ours, theirs, ulp=ULP, beside=0):
    """Within so many units in the last place, and what is `beside`."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    if ours.dtype == np.uint16 and theirs.dtype.itemsize == 2:  # bfloat16, which Numba does not have
        ours = ours.view(theirs.dtype)
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    if ulp == 0:
        # In double: there NaN equals NaN, whatever the dtype.
        np.testing.assert_array_equal(ours.astype(np.float64), theirs.astype(np.float64))
    else:
        rtol = ulp * epsilon(theirs.dtype)
        np.testing.assert_allclose(ours.astype(np.float64), theirs.astype(np.float64), rtol=rtol, atol=beside)


def epsilon(dtype):
    return 2.0**-7 if dtype.name == "bfloat16" else float(np.finfo(dtype).eps)


class Pair:
    """An optimizer of NumPy arrays and one of CUDA arrays, stepped with the same gradients."""

    def __init__(self, name, params, **options):
        self.theirs = params
        self.ours = [to_gpu(array) for array in params]
        cls = getattr(fl, name)
        self.host = cls(self.theirs, **options)
        self.gpu = cls(self.ours, **options)

    def step(self, grads, **options):
        """Both results, ours as NumPy has it."""
        theirs = self.host.step(grads, **options)
        ours = self.gpu.step([to_gpu(grad) for grad in grads], **options)
        return [x if x is None or isinstance(x, bool) else to_host(x)[()] for x in ours], theirs

    def check(self, ulp=ULP, beside=0):
        """Parameters, states and counts are the same."""
        for ours, theirs in zip(self.ours, self.theirs, strict=True):
            same(to_host(ours), theirs, ulp, beside)
        ours, theirs = self.gpu.state_dict(), self.host.state_dict()
        assert ours["steps"] == theirs["steps"] == self.gpu.steps
        assert ours["groups"] == theirs["groups"]
        assert ours["state"].keys() == theirs["state"].keys()
        for name, states in theirs["state"].items():
            assert states.keys() == ours["state"][name].keys()
            for state, array in states.items():
                same(ours["state"][name][state], array, ulp, beside)


def drawn(rng, dtype, shapes=SHAPES):
    return [draw(rng, shape, dtype) for shape in shapes]


# --- the values -----------------------------------------------------------------------------------------------------------


# A rule's first and last variant; those between take minutes in the simulator.
ENDS = {name: [v for v in VARIANTS if v[0] == name] for name in RULES}
SOME = [
    pytest.param(*v, marks=[] if v in (ENDS[v[0]][0], ENDS[v[0]][-1]) else pytest.mark.slow, id=f"{v[0]}-{ident(v[1])}")
    for v in VARIANTS
]


@pytest.mark.parametrize(("name", "hyper"), SOME)
def test_every_variant_has_the_cpu_engines_bits(name, hyper, dtype=np.float32):
    rng = np.random.default_rng(60)
    pair = Pair(name, drawn(rng, dtype), **hyper)
    for _ in range(STEPS):
        pair.step(drawn(rng, dtype))
    # Sums over a tensor are rounded otherwise than those of the CPU engine, and a small element is a difference of large ones.
    pair.check(64 if pair.gpu._bound.buckets[0].variant.is_whole else ULP)


@pytest.mark.parametrize("name", thinned(RULES, 4))
def test_every_rule_in_double(name):
    test_every_variant_has_the_cpu_engines_bits(name, RULES[name].hyper, np.float64)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "hyper"), VARIANTS, ids=ident)
def test_every_variant_in_double(name, hyper):
    test_every_variant_has_the_cpu_engines_bits(name, hyper, np.float64)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
@pytest.mark.parametrize("rounding", ["nearest", "compensated"])
def test_rules_that_look_at_whole_tensors(dtype, rounding):
    rng = np.random.default_rng(59)
    for name in ("LAMB", "AdamW"):
        params = [array.astype(dtype_of(dtype)) for array in drawn(rng, np.float64, (*SHAPES, (700,), (0,)))]
        hyper = RULES[name].hyper | ({"cautious": True} if name == "AdamW" else {})
        pair = Pair(name, params, **hyper, rounding=rounding, ema_decay=0.5)
        for t in range(STEPS):
            grads = [draw(rng, p.shape, np.float64).astype(p.dtype) for p in params]
            grads[0].reshape(-1)[0] = np.nan if t == 1 else 1.0
            pair.step(grads, clip_value=0.3, max_norm=2.0, skip_nonfinite=True)
            # A norm whose last bit differs moves a clipped gradient by as much.
        pair.check(16, beside=0.3 * epsilon(np.dtype(dtype)) if dtype == "float64" else 0)


@pytest.mark.parametrize("size", [1e-30, 1e25])
def test_what_is_summed_does_not_overflow(size):
    pair = Pair("LAMB", [np.full(300, size, np.float32), np.full(5, 1.0, np.float32)], **RULES["LAMB"].hyper)
    for _ in range(STEPS):
        pair.step([np.linspace(-1, 1, 300, dtype=np.float32), np.ones(5, np.float32)])
    pair.check(4)


def test_groups_have_their_own_numbers_and_structure():
    rng = np.random.default_rng(61)
    arrays = {name: draw(rng, 9, dtype) for name, dtype in zip("abcd", (np.float32, np.float64) * 2, strict=True)}
    groups = [
        {"params": {"one": "a", "two": "b"}, "lr": 0.3, "maximize": True},
        {"params": ["c"], "amsgrad": True},
        {"params": "d", "betas": (0.5, 0.6)},
    ]

    def made(of, group):
        params = group["params"]
        if isinstance(params, dict):
            return group | {"params": {key: of[name] for key, name in params.items()}}
        return group | {"params": [of[name] for name in params] if isinstance(params, list) else of[params]}

    on_gpu = {name: to_gpu(array) for name, array in arrays.items()}
    masks = [{"one": True, "two": False}, [False], True]
    optimizers = [
        fl.AdamW([made(of, g) for g in groups], lr=0.1, weight_decay=0.2, decay_mask=masks, ema_decay=0.5)
        for of in (arrays, on_gpu)
    ]
    for _ in range(STEPS):
        grads = {name: draw(rng, 9, array.dtype) for name, array in arrays.items()}
        for optimizer, of in zip(optimizers, (grads, {name: to_gpu(g) for name, g in grads.items()}), strict=True):
            optimizer.step([{"one": of["a"], "two": of["b"]}, [of["c"]], of["d"]])
    for name, array in arrays.items():
        same(to_host(on_gpu[name]), array)
    host, gpu = (optimizer.ema for optimizer in optimizers)
    for ours, theirs in ((gpu[0]["two"], host[0]["two"]), (gpu[1][0], host[1][0]), (gpu[2], host[2])):
        same(to_host(ours), theirs)


@pytest.mark.parametrize("param", DTYPES)
@pytest.mark.parametrize("state", thinned(DTYPES, 2))
@pytest.mark.parametrize("rounding", ["nearest", "compensated"])
def test_storage_mixtures(param, state, rounding):
    rng = np.random.default_rng(62)
    for grad in (param, "float32"):
        params = [array.astype(dtype_of(param)) for array in drawn(rng, np.float32)]
        options = {"state_dtype": dtype_of(state), "rounding": rounding, "ema_decay": 0.7}
        pair = Pair("AdamW", params, **ADAMW, **options, copy_dtype=dtype_of("float16" if param == "bfloat16" else "bfloat16"))
        for _ in range(STEPS):
            pair.step([g.astype(dtype_of(grad)) for g in drawn(rng, np.float32)])
        pair.check()
        for ours, theirs in zip(pair.gpu.copies, pair.host.copies, strict=True):
            same(to_host(ours), theirs)


@pytest.mark.parametrize("seed", [0, 12345678901234567890])
def test_stochastic_rounding_has_the_cpu_engines_bits(seed):
    rng = np.random.default_rng(63)
    bfloat16 = dtype_of("bfloat16")
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 3e38, 1e-3], bfloat16)
    params = [*(array.astype(bfloat16) for array in drawn(rng, np.float32)), special]
    options = {"rounding": "stochastic", "seed": seed, "copy_dtype": np.float32, "ema_decay": 0.9}
    pair = Pair("SGD", params, lr=1e-3, momentum=0.9, **options)
    for _ in range(5):
        pair.step([*drawn(rng, np.float32), np.ones(7, np.float32)])
    pair.check()


# --- the options of a step ------------------------------------------------------------------------------------------------

OPTIONS = [
    {"grad_scale": 128.0},
    {"clip_value": 0.01},
    {"max_norm": 0.5},
    {"max_norm": 1e9},
    {"grad_scale": 3.0, "max_norm": 0.5, "clip_value": 0.02, "skip_nonfinite": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_options_of_a_step(dtype, options):
    rng = np.random.default_rng(64)
    pair = Pair("Adam", [a.astype(dtype_of(dtype)) for a in drawn(rng, np.float64)], **RULES["Adam"].hyper, maximize=True)
    for _ in range(STEPS):
        ours, theirs = pair.step([g.astype(dtype_of(dtype)) for g in drawn(rng, np.float64)], **options)
        if theirs.norm is None:
            assert ours == [None, False]
        else:
            np.testing.assert_allclose(ours[0], theirs.norm, rtol=1e-12)
            assert ours[1] == 0
    # The CPU engine's norm has roundings of its own, which float32 does not see.
    pair.check(16 if dtype == "float64" and "max_norm" in options else ULP)


@pytest.mark.parametrize("size", [1e-310, 1e-160, 1e-40, 1e-20, 1.0, 1e15, 1e18, 3e38, 1e160, 1e300])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_norm_overflows_or_vanishes(dtype, size):
    if not float(np.finfo(dtype).smallest_subnormal) * 100 < size < float(np.finfo(dtype).max):
        return
    rng = np.random.default_rng(65)
    for spread in (1.0, 1e10):
        grads = [(rng.uniform(0.1, 1, shape) * size).astype(dtype) for shape in SHAPES]
        grads[0].reshape(-1)[::3] /= dtype(spread)
        w = [to_gpu(np.zeros(shape, dtype)) for shape in SHAPES]
        norm = to_host(fl.SGD(w).step([to_gpu(g) for g in grads], max_norm=1.0).norm)
        exact = math.hypot(*(float(x) for g in grads for x in np.atleast_1d(g).reshape(-1)))
        np.testing.assert_allclose(norm, exact, rtol=1e-12 if size > 1e-300 else 1e-6)


@pytest.mark.parametrize(
    ("dtype", "size", "options"),
    [
        (np.float32, 2e38, {"max_norm": 1.0}),
        (np.float64, 1e308, {"max_norm": 1.0, "skip_nonfinite": True}),
        (np.float32, 0.0, {"grad_scale": 1e-39}),
        (np.float32, 1e-30, {"grad_scale": 1e-39, "clip_value": 7.0}),
        (np.float64, 1e-30, {"grad_scale": 1e-310, "clip_value": 7.0}),
        (np.float32, 1e38, {"grad_scale": 2.0**120, "max_norm": 0.01}),
    ],
)
def test_factors_beyond_the_dtypes_range(dtype, size, options):
    pair = Pair("SGD", [np.zeros(4, dtype)], lr=1.0)
    ours, theirs = pair.step([np.full(4, size, dtype)], **options)
    assert not theirs[1] and not ours[1]
    same(to_host(pair.ours[0]), pair.theirs[0], 4)


def test_the_norm_of_mixed_precisions():
    rng = np.random.default_rng(66)
    sizes = (1e-30, 1e30, 1.0)
    for large in (1.0, 1e200):
        params = [np.zeros(200, dtype) for dtype in (np.float32, np.float64, dtype_of("bfloat16"))]
        pair = Pair("SGD", params, lr=1e-3)
        grads = [
            (rng.normal(size=200) * s * (large if p.dtype == np.float64 else 1)).astype(p.dtype)
            for s, p in zip(sizes, params, strict=True)
        ]
        ours, theirs = pair.step(grads, max_norm=1.0)
        np.testing.assert_allclose(ours[0], theirs.norm, rtol=1e-12)
        pair.check(16)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["AdamW", "NAdam", "ScheduleFreeSGD"])
def test_a_skipped_step_leaves_everything(name, bad):
    rng = np.random.default_rng(67)
    for dtype in (np.float32, np.float64):
        pair = Pair(name, drawn(rng, dtype), **RULES[name].hyper, ema_decay=0.5)
        for t in range(4):
            grads = drawn(rng, dtype)
            if t in (0, 2):
                grads[1][3] = bad
            ours, theirs = pair.step(grads, skip_nonfinite=True)
            assert bool(ours[1]) == theirs.skipped
            np.testing.assert_allclose(ours[0], theirs.norm, rtol=1e-12)
        pair.check()
        assert pair.gpu.steps == 2
        # Without the option it goes into the parameter and its state.
        pair.step([grads[0], np.full(5, bad, dtype), grads[2]])
        pair.check()


def test_a_schedule_follows_the_steps_that_were_taken():
    rng = np.random.default_rng(68)
    pair = Pair("AdamW", drawn(rng, np.float32), lr=lambda steps: 0.1 / (1 + steps))
    for t in range(5):
        grads = drawn(rng, np.float32)
        grads[0][0, 0] = np.nan if t % 2 else 1.0
        pair.step(grads, skip_nonfinite=True)
    pair.check()


def test_loss_scaler():
    w = to_gpu(np.ones(3, np.float32))
    optimizer, scaler = fl.SGD(w, lr=0.5), fl.LossScaler(1024.0)
    scaler.step(optimizer, to_gpu(np.full(3, np.inf, np.float16)))
    assert (scaler.scale, optimizer.steps) == (512.0, 0)
    scaler.step(optimizer, to_gpu(np.full(3, 512.0, np.float16)))
    np.testing.assert_array_equal(to_host(w), np.full(3, 0.5, np.float32))
    assert optimizer.steps == 1


def test_hyperparameters_change_between_steps():
    rng = np.random.default_rng(69)
    pair = Pair("AdamW", drawn(rng, np.float32), **ADAMW)
    for t in range(4):
        for optimizer in (pair.host, pair.gpu):
            optimizer.param_groups[0].update(lr=0.1 / (t + 1), amsgrad=t % 2 == 0, maximize=t > 1)
        pair.step(drawn(rng, np.float32))
        pair.check()


# --- nothing is waited for, nothing is done twice ---------------------------------------------------------------------------


def test_a_step_waits_for_nothing(no_waiting):
    rng = np.random.default_rng(70)
    optimizer = fl.AdamW([to_gpu(a) for a in drawn(rng, np.float32)], ema_decay=0.9, copy_dtype=np.float16)
    for _ in range(STEPS):
        optimizer.step([to_gpu(g) for g in drawn(rng, np.float32)], max_norm=1.0, skip_nonfinite=True)


def test_a_step_of_the_same_gradients_copies_nothing_and_launches_little(monkeypatch):
    from fastloss._kernels.cuda import device

    rng = np.random.default_rng(71)
    shapes = SHAPES * 5
    optimizer = fl.AdamW([to_gpu(a) for a in drawn(rng, np.float32, shapes)])
    grads = [to_gpu(g) for g in drawn(rng, np.float32, shapes)]
    optimizer.step(grads)
    launched, launch = [], device.Kernel.launch
    monkeypatch.setattr(device, "put", None)
    monkeypatch.setattr(device.Kernel, "launch", lambda self, *a, **k: (launched.append(self.name), launch(self, *a, **k)))
    optimizer.step(grads)
    assert launched == ["advance", "AdamW__decoupled_weight_decay_step" if "AdamW__" in launched[1] else "AdamW_step"]


def test_gradients_at_other_places():
    """Of other dtypes, and where vectors cannot be loaded."""
    rng = np.random.default_rng(72)
    pair = Pair("AdamW", [draw(rng, 300, np.float32)], **ADAMW)
    for t in range(6):
        g = draw(rng, 301, (np.float32, np.float16)[t % 2])
        pair.host.step([g[1:]])
        pair.gpu.step([to_gpu(g)[1:]])
        pair.step([g[:-1]])
    pair.check()


@pytest.mark.skipif(SIMULATED, reason="the simulator has no graphs")
def test_a_captured_step_goes_on_counting():
    torch = pytest.importorskip("torch")
    w = torch.ones(1000, device="cuda")
    theirs, g = np.ones(1000, np.float32), np.linspace(-1, 1, 1000, dtype=np.float32)
    grad = torch.from_numpy(g).cuda()
    ours, host = fl.AdamW(w, lr=0.1), fl.AdamW(theirs, lr=0.1)
    ours.step(grad)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ours.step(grad)
    for _ in range(5):
        graph.replay()
    for _ in range(6):
        host.step(g)
    assert ours.steps == 6
    same(w.cpu().numpy(), theirs)


# --- saved state ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["AdamW", "NAdam"])
@pytest.mark.parametrize("way", ["itself", "file", "from numpy", "to numpy", "cuda arrays"])
def test_it_goes_on_from_its_state(name, way, tmp_path):
    rng = np.random.default_rng(73)
    hyper = RULES[name].hyper
    pair = Pair(name, drawn(rng, np.float32), **hyper, ema_decay=0.6)
    for _ in range(STEPS):
        pair.step(drawn(rng, np.float32), skip_nonfinite=True)
    if way == "to numpy":
        pair.host.load_state_dict(pair.gpu.state_dict())
    else:
        cls = getattr(fl, name)
        again = cls(pair.ours, lr=9.0, ema_decay=0.6)
        if way == "file":
            fl.save_state(tmp_path / "state", pair.gpu)
            fl.load_state(tmp_path / "state", again)
        else:
            saved = (pair.host if way == "from numpy" else pair.gpu).state_dict()
            if way == "cuda arrays":
                saved["state"] = {n: {s: to_gpu(a) for s, a in states.items()} for n, states in saved["state"].items()}
            again.load_state_dict(saved)
        pair.gpu = again
    for _ in range(STEPS):
        pair.step(drawn(rng, np.float32))
    pair.check()


def test_a_wrong_state_changes_nothing():
    w = to_gpu(np.ones(3, np.float32))
    optimizer = fl.AdamW(w)
    optimizer.step(to_gpu(np.ones(3, np.float32)))
    before = optimizer.state_dict()
    wrong = copy.deepcopy(before)
    wrong["state"]["params"]["exp_avg"] = np.ones(4)
    with pytest.raises(ValueError, match=r"^AdamW: exp_avg of params must be a floating array of shape \(3,\)"):
        optimizer.load_state_dict(wrong)
    assert optimizer.steps == 1
    same(optimizer.state_dict()["state"]["params"]["exp_avg"], before["state"]["params"]["exp_avg"])


def test_what_stands_beside_a_step():
    rng = np.random.default_rng(74)
    pair = Pair("Sophia", drawn(rng, np.float32), **RULES["Sophia"].hyper)
    for _ in range(2):
        estimates = drawn(rng, np.float32)
        pair.host.update_hessian(estimates)
        pair.gpu.update_hessian([to_gpu(e) for e in estimates])
        pair.step(drawn(rng, np.float32))
    pair.check()
    pair = Pair("ScheduleFreeAdamW", drawn(rng, np.float32), **RULES["ScheduleFreeAdamW"].hyper)
    for _ in range(3):
        for ours, theirs in zip(pair.gpu.evaluation_params(), pair.host.evaluation_params(), strict=True):
            same(to_host(ours), theirs)
        pair.step(drawn(rng, np.float32))


# --- what does not belong ---------------------------------------------------------------------------------------------------

ONES = np.ones(4, np.float32)


def test_parameters_that_cannot_be():
    w = to_gpu(ONES)
    square = to_gpu(np.ones((4, 4), np.float32))
    for params, error, match in (
        ([w, ONES.copy()], TypeError, r"^SGD: params\[1\] must be a CUDA array, as the others are, got ndarray"),
        ([ONES.copy(), w], TypeError, r"^SGD: params\[1\] must be a NumPy array, .* got "),
        (to_gpu(np.ones(4, int)), TypeError, r"^SGD: params must be a floating-point array, got dtype int64"),
        ([w, w], ValueError, r"^SGD: params\[\d\] must not share memory with another parameter or state"),
        ([w, w[1:]], ValueError, r"^SGD: params\[\d\] must not share memory"),
        (square[:, ::2], ValueError, r"^SGD: params must be contiguous, rows one after the other, got strides \(4, 2\)"),
        (square.T, ValueError, r"^SGD: params must be contiguous"),
    ):
        with pytest.raises(error, match=match):
            fl.SGD(params)
    with pytest.raises(TypeError, match=r"^AdamW: rounding must be 'nearest' or 'compensated' for params of float16"):
        fl.AdamW(to_gpu(np.ones(3, np.float16)), rounding="stochastic")


def test_a_bad_gradient_touches_nothing():
    params = [to_gpu(ONES) for _ in range(3)]
    optimizer = fl.AdamW(params)
    good = [to_gpu(ONES) for _ in range(2)]
    optimizer.step([*good, to_gpu(ONES)])
    before = [to_host(p) for p in params]
    for bad, error, match in (
        (ONES, TypeError, "must be a CUDA array, as the others are, got ndarray"),
        ([1.0] * 4, TypeError, "must be a CUDA array"),
        (to_gpu(ONES.astype(int)), TypeError, "must be a floating-point array, got dtype int64"),
        (to_gpu(np.ones(5, np.float32)), ValueError, r"must have its shape \(4,\), got \(5,\)"),
        (to_gpu(np.ones(8, np.float32))[::2], ValueError, "must be contiguous"),
        (params[0], ValueError, "must not share memory with a parameter or its state"),
        (fl.SparseRows([0], [1.0]), TypeError, "must be a whole array, for it is a CUDA array, got SparseRows"),
    ):
        with pytest.raises(error, match=r"^AdamW: the gradient of params\[2\] " + match):
            optimizer.step([*good, bad])
    with pytest.raises(ValueError, match="must be a list of 3 arrays"):
        optimizer.step(good)
    with pytest.raises(TypeError, match=r"^AdamW: row_lr and row_mask must go with NumPy arrays, got CUDA arrays"):
        optimizer.step([*good, good[0]], row_lr=np.ones(4))
    with pytest.raises(ValueError, match="max_norm"):
        optimizer.step([*good, good[0]], max_norm=-1.0)
    for param, was in zip(params, before, strict=True):
        np.testing.assert_array_equal(to_host(param), was)
    assert optimizer.steps == 1


def test_a_cuda_gradient_of_a_numpy_parameter():
    with pytest.raises(
        TypeError,
        match=r"^SGD: the gradient of params must be in the host's memory, as the others are, got a CUDA array",
    ):
        fl.SGD(ONES.copy()).step(to_gpu(ONES))


def test_what_is_for_numpy_arrays_says_so():
    w, g = to_gpu(ONES), to_gpu(ONES)
    optimizer = fl.SGD(w)
    for call, who in (
        (lambda: fl.SAM(optimizer), "SAM: optimizer"),
        (lambda: fl.Lookahead(optimizer), "Lookahead: optimizer"),
        (lambda: fl.WeightAverage(w), "WeightAverage: params"),
        (lambda: fl.accumulate(w, g), "accumulate: into"),
        (lambda: fl.clip_grad_norm(g, 1.0), "clip_grad_norm: grads"),
        (lambda: fl.clip_grad_value(g, 1.0), "clip_grad_value: grads"),
        (lambda: fl.clip_grad_adaptive(w, g), "clip_grad_adaptive: grads"),
    ):
        with pytest.raises(TypeError, match=f"^{who} must be .*NumPy array"):
            call()
    for copied in (copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match=r"^SGD: an optimizer of CUDA arrays must be saved by its state_dict"):
            copied(optimizer)


def test_nothing_to_step():
    optimizer = fl.AdamW([to_gpu(np.ones(0, np.float32))])
    result = optimizer.step([to_gpu(np.ones(0, np.float32))], max_norm=1.0, skip_nonfinite=True)
    assert (to_host(result.norm), to_host(result.skipped), optimizer.steps) == (0, 0, 1)


def test_the_arrays_are_the_callers_kind():
    optimizer = fl.AdamW(to_gpu(ONES), ema_decay=0.5, copy_dtype=np.float16)
    kind = type(cuda().to_device(ONES))
    assert isinstance(optimizer.ema, kind)
    assert isinstance(optimizer.copies, kind)
    assert optimizer.copies.dtype == np.float16
