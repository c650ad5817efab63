"""What stands around the optimizers, against PyTorch and the papers' pseudo-code in float64.

Every hyperparameter is away from its default.
"""

import copy
import doctest
import math
import pickle

import numpy as np
import pytest

import fastloss as fl

ml_dtypes = pytest.importorskip("ml_dtypes")
BF16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = [np.dtype("f2"), BF16, np.dtype("f4"), np.dtype("f8")]
EPS = {np.dtype("f2"): 2.0**-11, BF16: 2.0**-8, np.dtype("f4"): 2.0**-24, np.dtype("f8"): 2.0**-53}
SIZES = (0, 1, 1023, 1025, 16385)


def normal(seed, shape, dtype="f8", scale=1.0):
    return np.array(scale * np.random.default_rng(seed).normal(size=shape)).astype(dtype)


def awkward(array):
    """The same numbers backwards, two elements apart, and with the axes the other way round in memory."""
    room = np.empty(tuple(2 * n for n in array.shape[::-1]), array.dtype)
    view = room.T[(..., *(slice(None, None, -2) for _ in array.shape))]
    view[...] = array
    return view


def bits(array):
    return array.tobytes()


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and bits(a) == bits(b)


def structures():
    """(gradient structure, flat list of its arrays) of every kind."""
    a, b, c = normal(1, (3, 4), "f4"), normal(2, (5,), BF16), normal(3, (), "f8")
    yield a, [a]
    yield [a, b, c], [a, b, c]
    yield (a, b), [a, b]
    yield {"w": a, 7: b}, [a, b]
    yield [[a, b], {"c": c}], [a, b, c]
    yield [a, [b], c], [a, b, c]


def like(structure, change):
    if isinstance(structure, dict):
        return {key: like(each, change) for key, each in structure.items()}
    if isinstance(structure, list | tuple):
        return type(structure)(like(each, change) for each in structure)
    return change(structure)


KINDS = range(6)


@pytest.fixture(params=KINDS)
def structure(request):
    return list(structures())[request.param]


@pytest.mark.parametrize(
    "name",
    [
        "LossScaler",
        "Lookahead",
        "SAM",
        "WeightAverage",
        "accumulate",
        "clip_grad_adaptive",
        "clip_grad_norm",
        "clip_grad_value",
    ],
)
def test_examples_run(name):
    assert name in fl.__all__
    assert hasattr(fl.optimizers, name)
    assert name not in fl.optimizers.__all__
    text = getattr(fl, name).__doc__
    assert all(f"{section}\n" in text for section in ("Parameters", "Raises", "Examples"))
    found = doctest.DocTestParser().get_doctest(text, {}, name, None, 0)
    assert found.examples
    out = []
    assert doctest.DocTestRunner().run(found, out=out.append).failed == 0, "".join(out)


# --- accumulate -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kept", DTYPES, ids=str)
@pytest.mark.parametrize("given", DTYPES, ids=str)
def test_accumulate_computes_in_the_wider_precision_and_rounds_once(kept, given, size):
    real = np.dtype("f8") if "f8" in (kept, given) else np.dtype("f4")
    into, grad = normal(1, size, kept), normal(2, size, given)
    expected = (into.astype("f8") + 0.375 * grad.astype("f8")).astype("f8")
    fl.accumulate(into, grad, scale=0.375)
    bound = EPS[kept] * np.abs(expected) + (2 * EPS[real] * (1 + np.abs(expected)) if kept != real else 2 * EPS[real])
    assert (np.abs(into.astype("f8") - expected) <= bound).all()


def test_a_sum_in_double_is_rounded_once_to_half_precision():
    """Rounded to float32 on the way it would be a tie, and go down."""
    for dtype, gap in ((BF16, 2.0**-8), (np.dtype("f2"), 2.0**-11)):
        into = np.ones(1, dtype)
        fl.accumulate(into, np.array([gap * (1 + 2.0**-40)]))
        assert into.astype("f8")[0] == 1 + 2 * gap


@pytest.mark.parametrize("layout", [awkward, np.asfortranarray, np.copy])
def test_accumulate_takes_any_layout(layout):
    into, grad = normal(1, (7, 5, 3), "f4"), normal(2, (7, 5, 3), "f4")
    strided = layout(into)
    fl.accumulate(strided, layout(grad), 1.7)
    fl.accumulate(into, grad, 1.7)
    assert same(np.ascontiguousarray(strided), into)


def test_accumulate_takes_any_structure(structure):
    into, flat = structure
    before = [array.astype("f8") for array in flat]
    fl.accumulate(into, like(into, lambda array: np.full(array.shape, 0.5, "f4")), scale=-3)
    for array, old in zip(flat, before, strict=True):
        assert np.allclose(array.astype("f8"), old - 1.5, rtol=2 * EPS[array.dtype], atol=2 * EPS[array.dtype])


def test_accumulate_takes_a_mixture_of_precisions_and_sparse_rows():
    into = {dtype.name: normal(1, (4, 3), dtype) for dtype in DTYPES}
    before = {name: array.astype("f8") for name, array in into.items()}
    grads = {dtype.name: normal(2, (4, 3), "f8" if k % 2 else "f4") for k, dtype in enumerate(DTYPES)}
    grads["float32"] = fl.SparseRows([2, 0, 2], np.ones((3, 3)))
    fl.accumulate(into, grads, 2.0)
    grads["float32"] = np.array([[1.0], [0], [2], [0]]) * np.ones(3)
    for name, array in into.items():
        expected = before[name] + 2 * grads[name]
        assert np.allclose(array.astype("f8"), expected, rtol=2 * EPS[array.dtype], atol=2 * EPS[array.dtype]), name


# --- clipping ---------------------------------------------------------------------------------------------------------------


def in_torch(arrays):
    torch = pytest.importorskip("torch")
    tensors = [torch.zeros(array.shape, dtype=torch.float64, requires_grad=True) for array in arrays]
    for tensor, array in zip(tensors, arrays, strict=True):
        tensor.grad = torch.from_numpy(array.astype("f8"))
    return torch, tensors


@pytest.mark.parametrize("norm_type", [0.5, 1.0, 2.0, 3.7, math.inf])
@pytest.mark.parametrize("max_norm", [0.37, 1e6])
def test_clip_grad_norm_does_as_torch(structure, norm_type, max_norm):
    grads, flat = structure
    torch, tensors = in_torch(flat)
    before = copy.deepcopy(flat)
    expected = torch.nn.utils.clip_grad_norm_(tensors, max_norm, norm_type).item()
    assert fl.clip_grad_norm(grads, max_norm, norm_type=norm_type) == pytest.approx(expected, rel=1e-13)
    for array, tensor, old in zip(flat, tensors, before, strict=True):
        if expected <= max_norm:
            assert same(array, old)
        else:  # torch adds 1e-6 to the norm
            assert np.allclose(array.astype("f8"), tensor.grad.numpy(), rtol=2 * EPS[array.dtype] + 2e-6, atol=0)


@pytest.mark.fault(31)
@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e160, 1e300])
@pytest.mark.parametrize("norm_type", [1.0, 2.0, 8.0, math.inf])
def test_norms_do_not_overflow(scale, norm_type):
    grads = [scale * np.array([3.0, -4.0]), scale * np.array([[12.0]])]
    expected = np.linalg.norm([3.0, 4.0, 12.0], norm_type)
    assert fl.clip_grad_norm(grads, 2 * expected * scale, norm_type) == pytest.approx(expected * scale, rel=1e-14)
    fl.clip_grad_norm(grads, 0.5 * expected * scale, norm_type)
    assert grads[1][0, 0] == pytest.approx(6 * scale)


def test_norms_that_are_not_finite():
    for bad, after in ((math.inf, [0.0, math.nan]), (math.nan, [math.nan, math.nan])):
        for norm_type in (1.0, 2.0, math.inf):
            grads = [np.array([1.0]), np.array([bad])]
            before = copy.deepcopy(grads)
            with pytest.raises(ValueError, match="clip_grad_norm: the norm of grads must be finite, got"):
                fl.clip_grad_norm(grads, 1.0, norm_type, error_if_nonfinite=True)
            assert all(map(same, grads, before))
            assert not math.isfinite(fl.clip_grad_norm(grads, 1.0, norm_type))
            assert np.array_equal(np.concatenate(grads), after, equal_nan=True)
    assert fl.clip_grad_norm([], 1.0) == 0.0
    assert fl.clip_grad_norm(np.zeros((0, 3)), 1.0) == 0.0
    zeros = np.zeros(3)
    assert fl.clip_grad_norm(zeros, 1.0) == 0.0
    assert not zeros.any()


@pytest.mark.parametrize("clip_value", [0.3, 1e9])
def test_clip_grad_value_does_as_torch(structure, clip_value):
    grads, flat = structure
    torch, tensors = in_torch(flat)
    torch.nn.utils.clip_grad_value_(tensors, clip_value)
    fl.clip_grad_value(grads, clip_value)
    for array, tensor in zip(flat, tensors, strict=True):
        assert np.allclose(array.astype("f8"), tensor.grad.numpy(), rtol=EPS[array.dtype], atol=0)


def test_clip_grad_value_keeps_nan_and_takes_infinity_for_large():
    grad = np.array([math.nan, math.inf, -math.inf, -0.5])
    fl.clip_grad_value(grad, 2.0)
    assert np.array_equal(grad, [math.nan, 2.0, -2.0, -0.5], equal_nan=True)


def paper_agc(w, g, clipping, eps):
    """Brock et al. (2021), equation 3, with a unit for each row, as in timm's adaptive_clip_grad."""

    def unitwise(x):
        return np.sqrt((x * x).sum()) if x.ndim <= 1 else np.sqrt((x * x).sum(axis=tuple(range(1, x.ndim)), keepdims=True))

    most = np.maximum(unitwise(w), eps) * clipping
    norm = unitwise(g)
    return np.where(norm < most, g, g * (most / np.maximum(norm, 1e-6)))


@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (6, 2, 3, 3), (0, 3), (3, 0), (70000, 2), (2, 70000)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", [np.copy, awkward])
def test_clip_grad_adaptive_does_as_the_paper(shape, dtype, layout):
    weights, grad = normal(1, shape, dtype), normal(2, shape, dtype, 0.3)
    if len(shape) > 1 and min(shape) > 0:
        weights[0] = 0  # eps holds
        grad[1] = grad[1] / 256  # not clipped
    expected = paper_agc(weights.astype("f8"), grad.astype("f8"), 0.07, 0.02)
    grad = layout(grad)
    fl.clip_grad_adaptive(layout(weights), grad, clipping=0.07, eps=0.02)
    assert np.allclose(
        grad.astype("f8"), expected, rtol=3 * max(EPS[dtype], 1e-15), atol=1e-7 if dtype.itemsize == 2 else 1e-30
    )


def test_clip_grad_adaptive_takes_any_structure(structure):
    grads, flat = structure
    weights = like(grads, lambda array: np.full(array.shape, 0.1, "f8"))
    expected = [paper_agc(np.full(array.shape, 0.1), array.astype("f8"), 0.5, 0.01) for array in flat]
    if isinstance(grads, list) and any(isinstance(each, list | dict) for each in grads):
        weights = [{"params": each, "lr": 0.1} for each in weights]
    fl.clip_grad_adaptive(weights, grads, clipping=0.5, eps=0.01)
    for array, right in zip(flat, expected, strict=True):
        assert np.allclose(array.astype("f8"), right, rtol=4 * EPS[array.dtype])


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1.0, 1e160, 1e300])
def test_norms_of_units_do_not_overflow(scale):
    grad = scale * np.array([[3.0, 4.0], [0.0, 0.0], [-6.0, 8.0], [0.0, 0.1]])
    fl.clip_grad_adaptive(np.array([[6.0, -8.0]] * 4) * scale, grad, clipping=0.2, eps=1e-307)
    assert grad / scale == pytest.approx(np.array([[1.2, 1.6], [0, 0], [-1.2, 1.6], [0, 0.1]]))


def test_clip_grad_adaptive_keeps_nan_in_its_unit():
    grad = np.array([[math.nan, 1.0], [3.0, 4.0]])
    fl.clip_grad_adaptive(np.ones((2, 2)), grad, clipping=0.5)
    assert math.isnan(grad[0, 0])
    assert grad[1] == pytest.approx(np.array([3.0, 4.0]) * 0.5 * math.sqrt(2) / 5)


# --- errors, before anything is written ----------------------------------------------------------------------------------------

READ_ONLY = np.ones(3)
READ_ONLY.flags.writeable = False
CALLS = {
    "into": lambda a: fl.accumulate([np.ones(3), a], [np.ones(3), np.ones(3)]),
    "grads": lambda a: fl.clip_grad_norm([np.ones(3), a], 0.1),
    "grads ": lambda a: fl.clip_grad_value([np.ones(3), a], 0.1),
    " grads": lambda a: fl.clip_grad_adaptive([np.ones(3), np.ones(3)], [np.ones(3), a]),
    "params": lambda a: fl.WeightAverage([np.ones(3), a]),
}


@pytest.mark.parametrize("what", CALLS)
@pytest.mark.parametrize(
    ("array", "error"),
    [
        ([1.0, 2.0, 3.0], TypeError),
        (np.ones(3, int), TypeError),
        (np.ones(3, complex), TypeError),
        (np.ma.ones(3), TypeError),
        (READ_ONLY, ValueError),
        (np.broadcast_to(np.float64(1), 3), ValueError),
        (np.ones(3, ">f8"), ValueError),
    ],
    ids=["list", "int", "complex", "masked", "read-only", "broadcast", "swapped"],
)
def test_arrays_that_cannot_be_written(what, array, error):
    with pytest.raises(error, match=rf": {what.strip()}\[1\](\[0\])? must be"):
        CALLS[what](array)


def refused(error, match, call, *arrays):
    before = [array.copy() for array in arrays]
    with pytest.raises(error, match=match):
        call()
    assert all(map(same, arrays, before))


def test_what_does_not_fit_is_refused():
    a, b = np.ones(3), np.ones(2, "f4")
    refused(ValueError, r"accumulate: grads must be a list of 2 arrays, got 1", lambda: fl.accumulate([a, b], [a + 1]), a, b)
    refused(
        ValueError,
        r"accumulate: the gradient of into\[1\] must have its shape \(2,\), got \(3,\)",
        lambda: fl.accumulate([a, b], [a + 1, a + 1]),
        a,
        b,
    )
    refused(
        TypeError,
        r"accumulate: the gradient of into\['b'\] must be a floating-point array",
        lambda: fl.accumulate({"a": a, "b": b}, {"a": a + 1, "b": np.ones(2, int)}),
        a,
        b,
    )
    refused(ValueError, r"accumulate: .* must not share memory", lambda: fl.accumulate([a, a], [a + 1, a + 1]), a)
    refused(
        ValueError,
        r"accumulate: the gradient of into\[1\] must not share memory",
        lambda: fl.accumulate([b, a], [b + 1, a]),
        a,
        b,
    )
    refused(ValueError, "accumulate: scale must be a real number, got nan", lambda: fl.accumulate(a, a + 1, math.nan), a)
    refused(ValueError, "share memory", lambda: fl.clip_grad_norm([a, a], 0.1), a)
    refused(ValueError, "clip_grad_norm: max_norm must be > 0, got -1", lambda: fl.clip_grad_norm(a, -1), a)
    refused(ValueError, "clip_grad_norm: norm_type must be > 0, got 0", lambda: fl.clip_grad_norm(a, 1, 0), a)
    refused(
        TypeError,
        "clip_grad_norm: error_if_nonfinite must be True or False, got 'no'",
        lambda: fl.clip_grad_norm(a, 1, error_if_nonfinite="no"),
        a,
    )
    refused(ValueError, "clip_grad_value: clip_value must be > 0, got 0", lambda: fl.clip_grad_value(a, 0), a)
    refused(ValueError, "clip_grad_value: clip_value must be > 0, got inf", lambda: fl.clip_grad_value(a, math.inf), a)
    refused(ValueError, "clip_grad_adaptive: clipping must be > 0", lambda: fl.clip_grad_adaptive(b, a, clipping=0), a)
    refused(ValueError, "clip_grad_adaptive: eps must be > 0", lambda: fl.clip_grad_adaptive(a + 1, a, eps=0), a)
    refused(
        ValueError,
        r"clip_grad_adaptive: the parameter of grads\[1\] must have its shape \(2,\), got \(3,\)",
        lambda: fl.clip_grad_adaptive([a / 100, a / 100], [a, b]),
        a,
        b,
    )
    refused(
        ValueError, "clip_grad_adaptive: params must be a list of 2", lambda: fl.clip_grad_adaptive([a / 100], [a, b]), a, b
    )


@pytest.mark.parametrize("name", ["SAM", "Lookahead"])
def test_what_is_no_optimizer_is_refused(name):
    with pytest.raises(TypeError, match=f"{name}: optimizer must be an optimizer, got ndarray"):
        getattr(fl, name)(np.ones(3))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda o: fl.SAM(o, rho=-1), "SAM: rho must be >= 0, got -1"),
        (lambda o: fl.SAM(o, adaptive=2), "SAM: adaptive must be True or False, got 2"),
        (lambda o: fl.Lookahead(o, k=0), r"Lookahead: k must be a whole number from 1 to 2\*\*53, got 0"),
        (lambda o: fl.Lookahead(o, k=2.0), r"Lookahead: k must be a whole number from 1 to 2\*\*53, got 2.0"),
        (lambda o: fl.Lookahead(o, alpha=0), r"Lookahead: alpha must be in \(0, 1\], got 0"),
        (lambda o: fl.WeightAverage(np.ones(2), decay=1), r"WeightAverage: decay must be in \[0, 1\), got 1"),
        (lambda o: fl.LossScaler(0), r"LossScaler: init_scale must be in \[1.17549e-38, 8.50706e\+37\], got 0"),
        (lambda o: fl.LossScaler(growth_factor=1), "LossScaler: growth_factor must be > 1, got 1"),
        (lambda o: fl.LossScaler(backoff_factor=1), r"LossScaler: backoff_factor must be in \(0, 1\), got 1"),
        (lambda o: fl.LossScaler(growth_interval=0), "LossScaler: growth_interval must be a whole number from 1"),
    ],
)
def test_hyperparameters_outside_their_domain(call, match):
    with pytest.raises((ValueError, TypeError), match=match):
        call(fl.SGD(np.ones(3)))


# --- the scale of a loss ----------------------------------------------------------------------------------------------------


def test_the_scale_follows_torchs_rule():
    """torch.amp.GradScaler.update, written out."""
    scaler = fl.LossScaler(96.0, growth_factor=3.0, backoff_factor=0.25, growth_interval=3)
    weights, twin = normal(1, (7,), "f4"), normal(1, (7,), "f4")
    optimizer = fl.AdamW(weights, lr=0.1, weight_decay=0.3)
    plain = fl.AdamW(twin, lr=0.1, weight_decay=0.3)
    scale, tracker = 96.0, 0
    for k in range(40):
        grad = normal(k, (7,), "f4")
        found_inf = k % 11 in (4, 5)
        result = scaler.step(
            optimizer, np.full(7, [math.inf, math.nan][k % 2], "f4") if found_inf else scale * grad, max_norm=0.8
        )
        assert result.skipped == found_inf
        if found_inf:
            scale, tracker = scale * 0.25, 0
        else:
            plain.step(grad, max_norm=0.8)
            assert result.norm == pytest.approx(np.linalg.norm(grad), rel=1e-6)
            tracker += 1
            if tracker == 3:
                scale, tracker = scale * 3.0, 0
        assert (scaler.scale, scaler.good_steps) == (scale, tracker)
    assert np.allclose(weights, twin, rtol=1e-5)
    assert optimizer.steps == plain.steps


def test_the_scale_agrees_with_gradscaler():
    torch = pytest.importorskip("torch")
    scaler = fl.LossScaler(96.0, growth_factor=3.0, backoff_factor=0.25, growth_interval=3)
    peer = torch.amp.GradScaler("cpu", init_scale=96.0, growth_factor=3.0, backoff_factor=0.25, growth_interval=3)
    weights, tensor = np.ones(2, "f4"), torch.ones(2, requires_grad=True)
    optimizer, plain = fl.SGD(weights, lr=0.25), torch.optim.SGD([tensor], lr=0.25)
    for k in range(25):
        by = math.nan if k % 6 == 5 else 0.5 + k
        peer.scale((tensor * by).sum()).backward()
        peer.step(plain)
        peer.update()
        plain.zero_grad()
        scaler.step(optimizer, np.full(2, by * scaler.scale, "f4"))
        assert scaler.scale == peer.get_scale()
        assert np.allclose(weights, tensor.detach().numpy(), rtol=1e-6)


def test_the_scale_stays_in_float32():
    scaler = fl.LossScaler(2.0**125, growth_factor=1e30, backoff_factor=1e-30, growth_interval=1)
    optimizer = fl.SGD(np.ones(2, "f4"), lr=0.0)
    scaler.step(optimizer, np.zeros(2, "f4"))
    assert scaler.scale == 2.0**126
    for _ in range(5):
        scaler.step(optimizer, np.full(2, np.inf, "f4"))
    assert scaler.scale == 2.0**-126


def test_the_scaler_goes_on_where_it_was():
    scaler = fl.LossScaler(96.0, 3.0, 0.25, 3)
    optimizer = fl.SGD(np.ones(2), lr=0.1)
    for _ in range(4):
        scaler.step(optimizer, np.ones(2))
    state = scaler.state_dict()
    assert state == {"scale": 288.0, "growth_factor": 3.0, "backoff_factor": 0.25, "growth_interval": 3, "good_steps": 1}
    other = fl.LossScaler()
    other.load_state_dict(state)
    assert vars(other) == vars(scaler)
    for bad in (None, {}, state | {"more": 1}, state | {"scale": -1.0}, state | {"good_steps": 1.5}):
        with pytest.raises((ValueError, TypeError), match="LossScaler: "):
            other.load_state_dict(bad)
        assert vars(other) == vars(scaler)
    before = vars(scaler).copy()
    with pytest.raises(ValueError, match="SGD: "):
        scaler.step(optimizer, np.ones(3))
    assert vars(scaler) == before


# --- averages ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [None, 0.83])
def test_averages_are_torchs(structure, decay):
    torch = pytest.importorskip("torch")
    given, flat = structure
    params = [{"params": each} for each in given] if isinstance(given, list) else given
    average = fl.WeightAverage(params, decay)
    multi = torch.optim.swa_utils.get_swa_avg_fn() if decay is None else torch.optim.swa_utils.get_ema_avg_fn(decay)
    expected = None
    for k in range(6):
        for array in flat:
            array[...] = normal(10 + k, array.shape, array.dtype)
        average.update()
        now = [torch.tensor(array.astype("f8")) for array in flat]
        expected = now if k == 0 else [multi(e, n, torch.tensor(k)) for e, n in zip(expected, now, strict=True)]
    assert average.updates == 6
    found = []
    like(average.averages, found.append)
    for array, mean, own in zip(found, expected, flat, strict=True):
        assert array.dtype == ("f8" if own.dtype == "f8" else "f4")
        assert np.allclose(
            array, mean.numpy(), rtol=1e-14 if array.dtype == "f8" else 1e-5, atol=1e-15 if array.dtype == "f8" else 1e-6
        )


@pytest.mark.parametrize("layout", [np.copy, awkward])
def test_swap_brings_the_parameters_back_bit_for_bit(layout):
    params = {dtype.name: layout(normal(1, (5, 3), dtype)) for dtype in DTYPES}
    average = fl.WeightAverage(params, 0.7)
    average.update()
    for array in params.values():
        np.multiply(array, 2, out=array)
        array[0] = [math.nan, -0.0, math.inf]
        array.view(f"u{array.itemsize}")[1, 1] = 3  # denormal
        array.view(f"u{array.itemsize}")[0, 0] ^= 5  # a NaN of its own
    before = [array.copy() for array in params.values()]
    with pytest.raises(KeyError), average.swap():
        for name, array in params.items():
            assert same(array.copy(), average.averages[name].astype(array.dtype))
            array[...] = 7
        with pytest.raises(RuntimeError, match="WeightAverage: update must"):
            average.update()
        with pytest.raises(RuntimeError, match="WeightAverage: swap must"), average.swap():
            pass
        raise KeyError
    assert all(map(same, map(np.copy, params.values()), before))
    average.update()


@pytest.mark.parametrize("decay", [None, 0.83])
def test_averages_go_on_where_they_were(decay):
    params = [normal(1, (9,), "f4"), normal(2, (3, 2), BF16)]
    average = fl.WeightAverage(params, decay)

    def go(target, steps):
        for k in steps:
            for array in params:
                array[...] = normal(k, array.shape, array.dtype)
            target.update()

    go(average, range(3))
    state = average.state_dict()
    other = fl.WeightAverage(params)
    other.load_state_dict(state)
    pickled = pickle.loads(pickle.dumps(average))
    go(average, range(3, 8))
    go(other, range(3, 8))
    assert all(map(same, average.averages, other.averages))
    assert other.decay == decay
    params[0][...] = 3.0
    pickled.update()
    assert pickled.updates == 4
    assert not same(pickled.averages[0], average.averages[0])
    for bad in (
        {},
        state | {"updates": -1},
        state | {"decay": 2.0},
        state | {"averages": {}},
        state | {"averages": state["averages"] | {"params[1]": np.ones(3)}},
        state | {"averages": state["averages"] | {"params[1]": np.ones((3, 2), int)}},
        state | {"averages": state["averages"] | {"params[1]": [1.0]}},
    ):
        with pytest.raises(ValueError, match="WeightAverage: "):
            other.load_state_dict(bad)
        assert all(map(same, average.averages, other.averages))
        assert other.updates == 8


# --- Lookahead --------------------------------------------------------------------------------------------------------------


def inner(params, name="AdamW", **options):
    if name == "AdamW":
        return fl.AdamW(params, lr=0.037, betas=(0.8, 0.95), eps=1e-4, weight_decay=0.07, **options)
    return fl.SGD(params, lr=0.037, momentum=0.6, dampening=0.1, weight_decay=0.07, **options)


def quadratic(arrays, k):
    """Gradients of a bowl with noise of its own in each step."""
    return [array.astype("f8") + 0.3 * normal(100 + k, array.shape) for array in arrays]


@pytest.mark.parametrize("name", ["AdamW", "SGD"])
def test_lookahead_does_as_the_paper(name):
    """Zhang et al. (2019), algorithm 1; the inner steps by the optimizer alone, which has tests of its own."""
    weights, fast = normal(1, (40,)), normal(1, (40,))
    lookahead, plain = fl.Lookahead(inner(weights, name), k=3, alpha=0.7), inner(fast, name)
    slow = fast.copy()
    for k in range(20):
        (grad,) = quadratic([fast], k)
        plain.step(grad)
        if k % 3 == 2:
            slow = slow + 0.7 * (fast - slow)
            fast[...] = slow
        lookahead.step(grad)
        assert np.allclose(weights, fast, rtol=1e-12, atol=1e-14)
        assert lookahead.since == (k + 1) % 3
    assert lookahead.steps == 20
    assert lookahead.param_groups is lookahead.optimizer.param_groups


@pytest.mark.parametrize("rounding", ["nearest", "stochastic", "compensated"])
def test_lookahead_in_mixed_precision(rounding):
    dtypes = DTYPES[1:] if rounding == "stochastic" else DTYPES
    params = [awkward(normal(k, (6, 5), dtype)) for k, dtype in enumerate(dtypes)]
    right = [array.astype("f8") for array in params]
    lookahead = fl.Lookahead(inner(params, rounding=rounding, copy_dtype=BF16), k=2, alpha=0.6)
    plain = fl.Lookahead(inner(right), k=2, alpha=0.6)
    for k in range(10):
        grads = quadratic(right, k)
        lookahead.step(grads)
        plain.step(grads)
        for array, twin, one in zip(params, right, lookahead.optimizer.copies, strict=True):
            assert np.allclose(array.astype("f8"), twin, atol=0.1 if array.dtype.itemsize == 2 else 1e-4)
            assert np.allclose(one.astype("f8"), array.astype("f8"), rtol=2**-7)
    if rounding == "compensated":  # what the parameters and their remainders stand for is much nearer
        remainder = lookahead.optimizer.state_dict()["state"]["params[1]"]["remainder"]
        assert np.abs(params[1].astype("f8") + remainder.astype("f8") - right[1]).max() < 2e-4


def test_lookahead_does_not_count_steps_left_out():
    weights = np.ones(3)
    lookahead = fl.Lookahead(fl.SGD(weights, lr=1.0), k=2, alpha=0.5)
    lookahead.step(np.ones(3))
    assert lookahead.step(np.full(3, np.nan), skip_nonfinite=True).skipped
    assert weights.tolist() == [0.0] * 3
    assert lookahead.step(np.ones(3), max_norm=1e9) == fl.StepResult(pytest.approx(math.sqrt(3)), False)
    assert weights.tolist() == [0.0] * 3


@pytest.mark.parametrize("at", range(4))
def test_lookahead_resumes_bit_for_bit(at):
    def make():
        params = {"a": normal(1, (33,), "f4"), "b": normal(2, (4, 3), BF16), "c": normal(3, (5,))}
        return params, fl.Lookahead(inner(params, rounding="stochastic", seed=5), k=3, alpha=0.7)

    def go(params, lookahead, steps):
        for k in steps:
            lookahead.step(dict(zip(params, quadratic(params.values(), k), strict=True)))

    params, lookahead = make()
    go(params, lookahead, range(3 + at))
    state, saved = lookahead.state_dict(), copy.deepcopy(params)
    go(params, lookahead, range(3 + at, 12))
    for way in ("state", "pickle"):
        others, other = make()
        go(others, other, range(1))
        for name, array in others.items():
            array[...] = saved[name]
        other.k, other.alpha = 9, 0.1
        other.load_state_dict(state)
        if way == "pickle":
            others, other = pickle.loads(pickle.dumps((others, other)))
        go(others, other, range(3 + at, 12))
        assert all(map(same, params.values(), others.values()))
        assert other.since == lookahead.since
    before = copy.deepcopy(lookahead.state_dict())
    for bad in (
        {},
        state | {"rule": "SAM"},
        state | {"k": 0},
        state | {"since": -1},
        state | {"slow": {}},
        state | {"slow": state["slow"] | {"params['a']": np.ones(2)}},
        state | {"optimizer": {}},
    ):
        with pytest.raises(ValueError, match=r"Lookahead: |AdamW: "):
            lookahead.load_state_dict(bad)
        after = lookahead.state_dict()
        assert pickle.dumps(after) == pickle.dumps(before)


# --- SAM --------------------------------------------------------------------------------------------------------------------


def bowl(w):
    return w * (1 + np.arange(w.size).reshape(w.shape) / w.size) - 0.3


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("maximize", [False, True])
def test_sam_does_as_the_paper(adaptive, maximize):
    """Foret et al. (2021), algorithm 1; Kwon et al. (2021), algorithm 1, with T_w = |w|."""
    start = [normal(1, (30,)), normal(2, (4, 5))]
    weights, right = copy.deepcopy(start), copy.deepcopy(start)
    sam = fl.SAM(inner(weights, maximize=maximize), rho=0.21, adaptive=adaptive)
    plain = inner(right, maximize=maximize)
    for _ in range(15):
        grads = [bowl(w) for w in right]
        by = [np.abs(w) if adaptive else np.ones_like(w) for w in right]
        norm = np.sqrt(sum(((t * g) ** 2).sum() for t, g in zip(by, grads, strict=True)))
        sign = -1 if maximize else 1
        neighbours = [w + sign * 0.21 * t**2 * g / norm for w, t, g in zip(right, by, grads, strict=True)]
        before = [w.copy() for w in weights]
        assert sam.ascend([bowl(w) for w in weights]) == pytest.approx(norm)
        assert sam.ascended
        for w, neighbour in zip(weights, neighbours, strict=True):
            assert np.allclose(w, neighbour, rtol=1e-12, atol=1e-13)
        sam.step([bowl(w) for w in weights])
        plain.step([bowl(w) for w in neighbours])
        assert not any(map(same, weights, before))
        for w, twin in zip(weights, right, strict=True):
            assert np.allclose(w, twin, rtol=1e-11, atol=1e-12)
    assert sam.steps == 15


@pytest.mark.parametrize("adaptive", [False, True])
def test_sam_puts_parameters_back_bit_for_bit(adaptive, structure):
    given, flat = structure
    grouped = isinstance(given, list) and any(isinstance(each, list | dict) for each in given)
    params = [{"params": each, "lr": 0.0} for each in given] if grouped else given
    flat[0].reshape(-1)[0] = -0.0
    sam = fl.SAM(fl.SGD(params, lr=0.0, copy_dtype="float32"), 0.7, adaptive)
    before = [array.copy() for array in flat]
    sam.ascend(like(given, lambda array: normal(5, array.shape, "f2")))
    assert not any(map(same, flat, before))
    copies = []
    like(sam.optimizer.copies, copies.append)
    for array, one in zip(flat, copies, strict=True):
        assert np.allclose(one, array.astype("f4"), rtol=2 * EPS[array.dtype] + 1e-6)
    result = sam.step(like(given, lambda array: np.full(array.shape, np.nan)), skip_nonfinite=True)
    assert result.skipped
    assert all(map(same, flat, before))
    for old, one in zip(before, copies, strict=True):
        assert same(old.astype("f4"), one)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sam_stays_without_a_direction(adaptive, dtype):
    for value in (0.0, -0.0, math.inf, math.nan):
        weights = np.array([1.0, -0.0, 1e-7]).astype(dtype)
        before = weights.copy()
        sam = fl.SAM(fl.SGD(weights, lr=0.5), 0.3, adaptive)
        norm = sam.ascend(np.full(3, value))
        assert norm == 0 if value == 0 else not math.isfinite(norm)
        assert same(weights, before)
        assert sam.ascended
        sam.step(np.zeros(3))
        assert np.array_equal(weights, before)
    if adaptive:
        weights[...] = 0
        assert sam.ascend(np.ones(3)) == 0
        assert not weights.any()


@pytest.mark.parametrize("tiny", [1e-45, 1e-40, 1e-30])
def test_sam_with_gradients_of_almost_nothing(tiny):
    weights = np.ones(2, "f4")
    fl.SAM(fl.SGD(weights), 0.3).ascend(np.full(2, tiny, "f4"))
    assert np.isfinite(weights).all()
    weights = np.ones(2)
    fl.SAM(fl.SGD(weights), 0.3).ascend(np.full(2, tiny))
    assert weights == pytest.approx(1 + 0.3 / math.sqrt(2))


@pytest.mark.parametrize("adaptive", [False, True])
def test_sam_takes_sparse_gradients(adaptive):
    weights, dense = normal(1, (5, 3)), normal(1, (5, 3))
    values = normal(2, (3, 3))
    grad = np.zeros((5, 3))
    np.add.at(grad, [3, 1, 3], values)
    sparse = fl.SAM(fl.SGD(weights, lr=0.1), 0.3, adaptive)
    norm = sparse.ascend(fl.SparseRows([3, 1, 3], values))
    assert norm == pytest.approx(fl.SAM(fl.SGD(dense, lr=0.1), 0.3, adaptive).ascend(grad))
    assert np.allclose(weights, dense, rtol=1e-14)


def test_sam_in_the_wrong_order():
    weights = np.ones(3)
    sam = fl.SAM(fl.SGD(weights, lr=0.5, momentum=0.9), rho=0.3)
    with pytest.raises(RuntimeError, match="SAM: step must come after ascend"):
        sam.step(np.ones(3))
    assert sam.steps == 0
    for bad, match in (
        (np.ones(2), r"SAM: the gradient of params must have its shape \(3,\), got \(2,\)"),
        (np.ones(3, int), "SAM: the gradient of params must be a floating-point array"),
        ([np.ones(3)], "SAM: "),
        (np.ones(3, complex), "SAM: the gradient of params must hold real numbers"),
        (weights, "SAM: the gradient of params must not share memory"),
    ):
        with pytest.raises((ValueError, TypeError), match=match):
            sam.ascend(bad)
        assert not sam.ascended
        assert weights.tolist() == [1.0] * 3
    sam.ascend(np.ones(3))
    with pytest.raises(RuntimeError, match="SAM: ascend must come before step"):
        sam.ascend(np.ones(3))
    for call in (sam.state_dict, lambda: sam.load_state_dict({})):
        with pytest.raises(RuntimeError, match="SAM: its state"):
            call()
    with pytest.raises(ValueError, match="SGD: the gradient of params"):
        sam.step(np.ones(2))
    assert weights.tolist() == [1.0] * 3
    assert not sam.ascended
    sam.rho = -1
    with pytest.raises(ValueError, match="SAM: rho"):
        sam.ascend(np.ones(3))


def test_sam_resumes_bit_for_bit():
    def make():
        weights = [normal(1, (33,), "f4"), normal(2, (4, 3), BF16)]
        return weights, fl.SAM(fl.Lookahead(inner(weights), k=2), 0.1, True)

    def go(weights, sam, steps):
        for k in steps:
            sam.ascend(quadratic(weights, k))
            sam.step(quadratic(weights, k))

    weights, sam = make()
    go(weights, sam, range(5))
    state, saved = sam.state_dict(), copy.deepcopy(weights)
    go(weights, sam, range(5, 9))
    others, other = make()
    other.rho, other.adaptive = 0.5, False
    other.load_state_dict(state)
    for array, value in zip(others, saved, strict=True):
        array[...] = value
    go(others, other, range(5, 9))
    assert all(map(same, weights, others))
    assert (other.rho, other.adaptive) == (0.1, True)
    with pytest.raises(ValueError, match="SAM: state_dict must be of rule 'SAM', got 'Lookahead'"):
        other.load_state_dict(state | {"rule": "Lookahead"})


def test_all_together():
    """Scaled, accumulated, clipped, looked ahead, averaged."""
    weights = normal(1, (20,), "f4")
    sam = fl.SAM(fl.Lookahead(inner(weights, "SGD"), k=4), rho=0.05)
    scaler, average = fl.LossScaler(1024.0), fl.WeightAverage(weights, 0.9)
    for _ in range(200):
        sam.ascend(scaler.scale * bowl(weights))
        total = np.zeros(20, "f4")
        for _ in range(2):
            fl.accumulate(total, scaler.scale * bowl(weights), 0.5)
        assert not scaler.step(sam, total, max_norm=1.0).skipped
        average.update()
    right = np.full(20, 0.3) / (1 + np.arange(20) / 20 + 0.07)
    assert np.allclose(weights, right, atol=0.02)
    assert np.allclose(average.averages, right, atol=0.02)
