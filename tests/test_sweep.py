"""What a step does besides its rule: unscale, measure, clip, leave out, average, round, copy, and move some rows alone.

What a rule computes is tested in test_optimizers.py; here a step with an option equals one without it on arrays prepared by hand,
bit for bit.
"""

import itertools
import math

import numpy as np
import pytest

import fastloss as fl

HYPER = {"lr": 0.013, "betas": (0.83, 0.967), "eps": 3e-4, "weight_decay": 0.071}
# A rule that looks at single elements, one that counts over its tensor, one that measures it.
RULES = {
    "AdamW": lambda params, **options: fl.AdamW(params, **HYPER | options),
    "cautious AdamW": lambda params, **options: fl.AdamW(params, cautious=True, amsgrad=True, **HYPER | options),
    "LAMB": lambda params, **options: fl.LAMB(params, **HYPER | options),
}
each_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
each_whole = pytest.mark.parametrize("rule", [RULES["cautious AdamW"], RULES["LAMB"]], ids=["cautious AdamW", "LAMB"])
SIZES = [(7,), (33, 5), (), (0,), (40_000,), (3, 4, 5)]
KINDS = ["float64", "float32", "float16", "bfloat16"]


def kind(name):
    return np.dtype(getattr(pytest.importorskip("ml_dtypes"), name) if name == "bfloat16" else name)


def draw(shapes, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(dtype) for shape in shapes]


def norm_of(grads):
    return math.sqrt(math.fsum(float(x) ** 2 for g in grads for x in np.asarray(g, np.float64).ravel()))


def assert_bits(a, b):
    assert a.dtype == b.dtype and a.shape == b.shape
    np.testing.assert_array_equal(a.reshape(-1).view(f"u{a.dtype.itemsize}"), b.reshape(-1).view(f"u{b.dtype.itemsize}"))


def states(optimizer):
    return [array for held in optimizer.state_dict()["state"].values() for array in held.values()]


def assert_same(one, other, params, others):
    for a, b in zip([*params, *states(one)], [*others, *states(other)], strict=True):
        assert_bits(a, b)


# --- unscale, measure, clip -----------------------------------------------------------------------------------------------


@each_rule
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("options", list(itertools.product((None, 512.0, 0.37), (None, 1.7, 1e9), (None, 0.6))), ids=str)
def test_gradients_are_unscaled_then_clipped_by_norm_then_by_value(options, maximize, dtype, rule):
    scale, max_norm, clip_value = options
    ours, plain = draw(SIZES, dtype), draw(SIZES, dtype)
    one, other = rule(ours, maximize=maximize), rule(plain)
    for t in range(3):
        grads = draw(SIZES, dtype, seed=10 + t)
        result = one.step(grads, grad_scale=scale, max_norm=max_norm, clip_value=clip_value)
        factor, norm = 1 / (scale or 1), norm_of(grads) / (scale or 1)
        if max_norm is None:
            assert result == fl.StepResult(None, False)
        else:
            np.testing.assert_allclose(result.norm, norm, rtol=1e-12)
            factor *= max_norm / result.norm if result.norm > max_norm else 1
        prepared = [g * dtype(-factor if maximize else factor) for g in grads]
        other.step([np.clip(g, -clip_value, clip_value) if clip_value else g for g in prepared])
    assert_same(one, other, ours, plain)


@pytest.mark.parametrize("name", KINDS)
def test_the_norm_of_gradients_of_every_dtype(name):
    grads = draw(SIZES, kind(name), seed=3)
    result = fl.SGD(draw(SIZES, np.float64 if name == "float64" else np.float32), lr=0.1).step(
        grads, max_norm=1e9, grad_scale=8.0
    )
    np.testing.assert_allclose(result.norm, norm_of(grads) / 8, rtol=1e-12)


def test_the_norm_does_not_depend_on_threads_or_layout():
    grads = draw([(300, 500), (100_000,)])
    awkward = [np.asfortranarray(grads[0]), np.repeat(grads[1], 2)[::2]]
    before = fl.get_num_threads()
    try:
        norms = []
        for threads, given in itertools.product((1, 2, 3), (grads, awkward)):
            fl.set_num_threads(threads)
            norms.append(fl.SGD(draw([(300, 500), (100_000,)]), lr=0.1).step(given, max_norm=1.0).norm)
    finally:
        fl.set_num_threads(before)
    assert len(set(norms)) == 1


@pytest.mark.fault(31)
@pytest.mark.parametrize("size", [1e-200, 3e200, 1e-310])
def test_the_norm_of_doubles_whose_squares_are_none(size):
    grads = [np.array([3.0, -4.0]) * size, np.zeros(0), np.array(12.0 * size)]
    result = fl.SGD([np.zeros(2), np.zeros(0), np.array(0.0)], lr=0.1).step(grads, max_norm=1.0)
    np.testing.assert_allclose(result.norm, 13 * size, rtol=1e-9)


def test_gradients_of_nothing_have_norm_0():
    w = np.ones(3)
    assert fl.SGD(w, lr=0.1).step(np.zeros(3), max_norm=1.0) == fl.StepResult(0.0, False)
    assert fl.SGD([], lr=0.1).step([], max_norm=1.0).norm == 0
    assert (w == 1).all()


def test_groups_of_either_direction_are_clipped_together():
    a, b, grad = np.zeros(2), np.zeros(2), np.array([3.0, 4.0])
    optimizer = fl.SGD([{"params": a}, {"params": b, "maximize": True}], lr=1.0)
    result = optimizer.step([grad, grad], max_norm=1.0)
    np.testing.assert_allclose(result.norm, math.sqrt(50))
    np.testing.assert_allclose(a, -grad / math.sqrt(50))
    np.testing.assert_allclose(b, grad / math.sqrt(50))


@pytest.mark.fault(32)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", KINDS)
def test_a_step_with_nan_or_infinity_is_left_out_whole(name, bad):
    params = draw(SIZES)
    optimizer = fl.AdamW(params, ema_decay=0.9, **HYPER)
    optimizer.step(draw(SIZES, seed=1))
    before, held = [p.copy() for p in params], [s.copy() for s in states(optimizer)]
    for k, place in ((0, 0), (1, -1), (2, 0), (4, 39_999), (4, 20_000), (5, 30)):
        grads = draw(SIZES, kind(name), seed=2)
        grads[k].reshape(-1)[place] = bad
        result = optimizer.step(grads, skip_nonfinite=True, max_norm=1.0, grad_scale=4.0)
        assert result.skipped and not math.isfinite(result.norm)
        assert optimizer.steps == 1
        for now, then in zip([*params, *states(optimizer)], [*before, *held], strict=True):
            assert_bits(now, then)
    assert not optimizer.step(draw(SIZES, seed=2), skip_nonfinite=True).skipped
    assert optimizer.steps == 2


def test_without_the_option_nan_stays_in_its_place():
    w = np.ones(5, np.float32)
    result = fl.SGD(w, lr=0.1).step(np.array([0, np.nan, 0, np.inf, 0], np.float32), clip_value=2.0)
    assert result == (None, False)
    np.testing.assert_array_equal(w, np.array([1, np.nan, 1, 1 - np.float32(0.1) * 2, 1], np.float32))


@pytest.mark.parametrize("option", ["grad_scale", "max_norm", "clip_value"])
@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf, "1", None.__class__])
def test_bad_options_touch_nothing(option, bad):
    w = np.ones(3)
    optimizer = fl.AdamW(w, **HYPER)
    with pytest.raises((ValueError, TypeError), match=f"AdamW: {option} must be"):
        optimizer.step(np.ones(3), **{option: bad})
    assert (w == 1).all() and optimizer.steps == 0


# --- averages and copies --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_average_follows_the_parameters(dtype):
    params = dict(zip("abcdef", draw(SIZES, dtype), strict=True))
    optimizer = fl.AdamW(params, ema_decay=0.9, **HYPER)
    expected = {name: array.copy() for name, array in params.items()}
    for t in range(5):
        optimizer.ema_decay = 0.9 - 0.1 * t
        optimizer.step(dict(zip("abcdef", draw(SIZES, dtype, seed=t), strict=True)))
        for name, array in expected.items():
            expected[name] = array + dtype(1.0 - optimizer.ema_decay) * (params[name] - array)
    for name, array in optimizer.ema.items():
        np.testing.assert_array_max_ulp(array, expected[name].reshape(array.shape), 2)
    goes_on = fl.AdamW({name: array.copy() for name, array in params.items()}, ema_decay=0.5, **HYPER)
    goes_on.load_state_dict(optimizer.state_dict())
    for name, array in goes_on.ema.items():
        assert_bits(array, optimizer.ema[name])


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_copies_are_the_parameters_rounded(name):
    params = draw(SIZES)
    optimizer = fl.AdamW([{"params": params[:2]}, {"params": params[2:]}], copy_dtype=kind(name), **HYPER)
    for t in range(3):
        for given, copies in zip((params[:2], params[2:]), optimizer.copies, strict=True):
            for array, copy in zip(given, copies, strict=True):
                assert_bits(copy, array.astype(kind(name)))
        grads = draw(SIZES, seed=t)
        optimizer.step([grads[:2], grads[2:]])


def test_what_was_not_asked_for_is_not_there():
    optimizer = fl.SGD(np.ones(3), lr=0.1)
    for name in ("ema", "copies"):
        with pytest.raises(AttributeError, match=f"SGD: {name} must be asked for"):
            getattr(optimizer, name)


# --- storage --------------------------------------------------------------------------------------------------------------


def rounded(x, dtype):
    """To the nearest, once; NumPy's bfloat16 goes from float64 through float32."""
    if dtype.name != "bfloat16":
        return x.astype(dtype)
    mantissa, exponent = np.frexp(x.astype(np.float64))
    return np.ldexp(np.rint(np.ldexp(mantissa, 8)), exponent - 8).astype(dtype)


@each_rule
@pytest.mark.parametrize("mixture", list(itertools.product(KINDS, repeat=3)), ids="-".join)
def test_every_mixture_of_dtypes_is_computed_in_one_and_rounded_once(mixture, rule):
    param_dtype, grad_dtype, state_dtype = map(kind, mixture)
    precision = np.dtype(np.float64 if param_dtype == np.float64 else np.float32)
    ours = draw([(1030,), (5, 7)], param_dtype)
    optimizer = rule(ours, state_dtype=state_dtype)
    assert {s.dtype for s in states(optimizer)} == {state_dtype}
    for t in range(4):
        grads = draw([(1030,), (5, 7)], grad_dtype, seed=t)
        wide = [p.astype(precision) for p in ours]
        twin = rule(wide)
        saved = optimizer.state_dict()
        saved["state"] = {n: {k: a.astype(precision) for k, a in s.items()} for n, s in saved["state"].items()}
        twin.load_state_dict(saved)
        twin.step([g.astype(precision) for g in grads])
        optimizer.step(grads)
        for array, expected in zip([*ours, *states(optimizer)], [*wide, *states(twin)], strict=True):
            assert_bits(array, rounded(expected, array.dtype))


def test_states_by_name():
    optimizer = fl.AdamW(np.ones(3, np.float32), state_dtype={"exp_avg": "bfloat16", "ema": np.float64}, ema_decay=0.9)
    optimizer.step(np.ones(3))
    dtypes = {name: a.dtype.name for name, a in optimizer.state_dict()["state"]["params"].items()}
    assert dtypes == {"ema": "float64", "exp_avg": "bfloat16", "exp_avg_sq": "float32"}


# The random numbers, written out: any engine must draw these.


def mixed(seed, step):
    h = (seed + step * 0x9E3779B97F4A7C15) % 2**64
    h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    h = (h ^ (h >> 27)) * 0x94D049BB133111EB % 2**64
    return (h ^ (h >> 31)) % 2**32


def noise(index, key):
    h = (index * 0x9E3779B9 + key) & 0xFFFFFFFF
    h = (h ^ (h >> 16)) * 0x7FEB352D & 0xFFFFFFFF
    h = (h ^ (h >> 15)) * 0x846CA68B & 0xFFFFFFFF
    return h ^ (h >> 16)


def dithered(x, key):
    pattern = x.view(np.uint32).astype(np.uint64)
    drawn = noise(np.arange(x.size, dtype=np.uint64), np.uint64(key)) & np.uint64(0xFFFF)
    return ((pattern + drawn) & np.uint64(0xFFFF0000)).astype(np.uint32).view(np.float32)


@pytest.mark.parametrize("threads", [1, 3])
def test_random_rounding_draws_the_numbers_of_seed_step_tensor_and_element(threads):
    dtype, shapes = kind("bfloat16"), [(100_000,), (37,)]
    before = fl.get_num_threads()
    fl.set_num_threads(threads)
    try:
        ours = draw(shapes, dtype)
        optimizer = fl.SGD(ours, lr=0.01, rounding="stochastic", seed=12345)
        for step in range(1, 4):
            grads = draw(shapes, seed=step)
            expected = []
            for k, (w, g) in enumerate(zip(ours, grads, strict=True)):
                wide = w.astype(np.float32)
                fl.SGD(wide, lr=0.01).step(g)
                key = mixed((12345 + k * 0x9E3779B97F4A7C15) % 2**64, step)
                expected.append(dithered(wide, key).astype(dtype))
            optimizer.step(grads)
            for array, wanted in zip(ours, expected, strict=True):
                assert_bits(array, wanted)
    finally:
        fl.set_num_threads(before)


def test_random_rounding_is_right_on_average():
    dtype, size, steps = kind("bfloat16"), 100_000, 16
    w = np.ones(size, dtype)
    optimizer = fl.SGD(w, lr=1.0, rounding="stochastic", seed=3)
    for _ in range(steps):
        optimizer.step(np.full(size, -1e-4, np.float32))
    # To the nearest 1 would stay 1 for ever. One step's rounding has a deviation of sqrt(p (1 - p)) units of 2^-7.
    deviation = 2**-7 * math.sqrt(1e-4 * 2**7 * steps / size)
    assert abs(w.astype(np.float64).mean() - (1 + steps * 1e-4)) < 5 * deviation
    still = np.ones(size, dtype)
    fl.SGD(still, lr=1.0).step(np.full(size, -1e-4, np.float32))
    assert (still == 1).all()


def test_random_rounding_keeps_nan_and_infinity_and_exact_numbers():
    dtype = kind("bfloat16")
    w = np.array([1.0, 1.0, 1.0, 0.0, -0.0, 1.5, -(2.0**-100)], dtype)
    before = w.copy()
    optimizer = fl.SGD(w, lr=1.0, rounding="stochastic")
    for _ in range(50):
        w[:3] = 1
        optimizer.step(np.array([np.nan, np.inf, -np.inf, 0, 0, 0, 0], np.float32))
        np.testing.assert_array_equal(w[:3].astype(np.float32), [np.nan, -np.inf, np.inf])
        assert_bits(w[3:], before[3:])


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_what_is_rounded_off_is_kept(name):
    dtype = kind(name)
    w = draw([(5000,)], dtype)[0]
    master, plain = w.astype(np.float32), w.copy()
    optimizer, exact = fl.AdamW(w, rounding="compensated", lr=1e-4), fl.AdamW(master, lr=1e-4)
    nearest = fl.AdamW(plain, lr=1e-4)
    for t in range(200):
        grad = draw([(5000,)], seed=t)[0] + np.float32(0.3)
        for one in (optimizer, exact, nearest):
            one.step(grad)
    remainder = optimizer.state_dict()["state"]["params"]["remainder"]
    assert remainder.dtype == dtype
    unit = np.spacing(np.abs(master)) * 2.0 ** (13 if name == "float16" else 16)
    # What float16 keeps of it ends at 2^-24.
    least = 2.0**-19 if name == "float16" else 0
    assert (np.abs(w.astype(np.float64) + remainder.astype(np.float64) - master) <= unit / 4 + least).all()
    assert np.abs(plain.astype(np.float64) - master).mean() > 4 * np.abs(w.astype(np.float64) - master).mean()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounding": "up"}, "rounding must be 'nearest', 'stochastic' or 'compensated', got 'up'"),
        ({"rounding": "stochastic", "params": np.ones(2, np.float16)}, "rounding must be .* for params of float16"),
        ({"seed": -1}, "seed must be a whole number from 0"),
        ({"seed": 1.5}, "seed must be a whole number from 0"),
        ({"ema_decay": 1.5}, "ema_decay must be in"),
        ({"state_dtype": np.int32}, "state_dtype must be float64, float32"),
        ({"state_dtype": {"velocity": np.float32}}, "state_dtype must be for states among exp_avg"),
        ({"copy_dtype": "int8"}, "copy_dtype must be float64, float32"),
        ({"decay_mask": [True]}, "decay_mask must be True or False for params"),
    ],
)
def test_bad_ways_to_keep_things(options, message):
    params = options.pop("params", np.ones(2, np.float32))
    with pytest.raises((ValueError, TypeError), match=f"AdamW: {message}"):
        fl.AdamW(params, **options)


# --- some rows alone ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("rows", [[0, 3, 4, 5, 19], [19, 2, 7], [], list(range(20))], ids=str)
def test_sparse_rows_move_alone(rows, order):
    w = np.asarray(draw([(20, 6, 3)])[0], order=order)
    rng = np.random.default_rng(5)
    optimizer = fl.AdamW({"table": w, "bias": np.ones(3, np.float32)}, **HYPER)
    optimizer.step({"table": rng.normal(size=w.shape), "bias": np.ones(3)})
    expected = w.copy()
    twin = fl.AdamW({"table": expected, "bias": np.ones(3, np.float32)}, **HYPER)
    twin.load_state_dict(optimizer.state_dict())
    values = rng.normal(size=(len(rows), 6, 3)).astype(np.float32)
    whole = np.zeros_like(w)
    whole[rows] = values
    before, held = w.copy(), optimizer.state_dict()["state"]["params['table']"]
    result = optimizer.step({"table": fl.SparseRows(rows, values), "bias": np.ones(3)}, max_norm=2.0)
    other = twin.step({"table": whole, "bias": np.ones(3)}, max_norm=2.0)
    np.testing.assert_allclose(result.norm, other.norm, rtol=1e-14)
    still = np.setdiff1d(np.arange(20), rows)
    assert_bits(np.ascontiguousarray(w[still]), np.ascontiguousarray(before[still]))
    assert_bits(np.ascontiguousarray(w[rows]), np.ascontiguousarray(expected[rows]))
    now, then = (o.state_dict()["state"]["params['table']"] for o in (optimizer, twin))
    for name, array in now.items():
        assert_bits(array[still], held[name][still])
        assert_bits(array[rows], then[name][rows])


def test_rows_that_are_there_twice_are_summed():
    w, other = np.ones((5, 2)), np.ones((5, 2))
    values = np.arange(8.0).reshape(4, 2)
    fl.SGD(w, lr=0.1).step(fl.SparseRows([3, 1, 3, 3], values))
    fl.SGD(other, lr=0.1).step(np.array([[0, 0], [2, 3], [0, 0], [10, 13], [0, 0.0]]))
    assert_bits(w, other)


@pytest.mark.parametrize(
    ("rows", "values", "message"),
    [
        ([5], np.ones((1, 2)), "rows of the gradient of params must be from 0 to 4, got 5"),
        ([-1], np.ones((1, 2)), "must be from 0 to 4, got -1"),
        ([1.0], np.ones((1, 2)), "must be whole numbers of shape"),
        ([[1]], np.ones((1, 2)), "must be whole numbers of shape"),
        ([1, 2], np.ones((1, 2)), r"must have the shape \(2, 2\), got \(1, 2\)"),
        ([1], np.ones((1, 3)), r"must have the shape \(1, 2\), got \(1, 3\)"),
        ([1], np.ones((1, 2), int), "must be a floating-point array"),
    ],
)
def test_bad_rows(rows, values, message):
    w = np.ones((5, 2))
    with pytest.raises((ValueError, TypeError), match=message):
        fl.SGD(w, lr=0.1).step(fl.SparseRows(rows, values))
    assert (w == 1).all()


@each_rule
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (20_000,)], ids=str)
def test_independent_problems_with_their_own_learning_rates(shape, dtype, rule):
    count = 9
    w = draw([(count, *shape)], dtype)[0]
    alone = [np.array(row) for row in w]
    rates = np.linspace(0, 0.3, count)
    together, apart = rule(w), [rule(row, lr=lr) for row, lr in zip(alone, rates, strict=True)]
    rng = np.random.default_rng(2)
    for t in range(4):
        moves = rng.random(count) < 0.6 if t == 3 else None
        grad = rng.normal(size=w.shape).astype(dtype)
        together.step(grad, row_lr=rates, row_mask=moves)
        for r in range(count):
            if moves is None or moves[r]:
                apart[r].step(grad[r])
    for r in range(count):
        assert_bits(np.array(w[r]), alone[r])
        for name, array in together.state_dict()["state"]["params"].items():
            assert_bits(np.array(array[r]), apart[r].state_dict()["state"]["params"][name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"row_lr": np.ones(3)}, "row_lr must hold a number for each of 4 rows"),
        ({"row_lr": -np.ones(4)}, "row_lr must be >= 0"),
        ({"row_mask": np.ones(4)}, "row_mask must hold True or False for each of 4 rows"),
    ],
)
def test_bad_options_of_rows(options, message):
    w = np.ones((4, 2))
    with pytest.raises((ValueError, TypeError), match=f"SGD: {message}"):
        fl.SGD(w, lr=0.1).step(np.ones((4, 2)), **options)
    with pytest.raises(ValueError, match="must go with parameters of one number of rows"):
        fl.SGD([w, np.ones((3, 2))], lr=0.1).step([w.copy(), np.ones((3, 2))], row_mask=np.ones(4, bool))
    assert (w == 1).all()


# --- rules that look at whole tensors ---------------------------------------------------------------------------------------


@each_whole
@pytest.mark.parametrize("options", [{}, {"max_norm": 1.0}, {"clip_value": 0.5, "grad_scale": 0.3}], ids=str)
def test_what_is_summed_does_not_depend_on_threads_or_layout(rule, options):
    shapes = [(300, 500), (100_000,), (3,), (70, 70, 70), (0,)]
    before = fl.get_num_threads()
    results = []
    try:
        for threads, awkward in itertools.product((1, 2, 3, 5), (False, True)):
            fl.set_num_threads(threads)
            params = draw(shapes)
            optimizer = rule(params)
            for t in range(3):
                grads = draw(shapes, seed=1 + t)
                if awkward:
                    grads = [np.asfortranarray(grads[0]), np.repeat(grads[1], 2)[::2], grads[2][::-1][::-1], *grads[3:]]
                optimizer.step(grads, **options)
            results.append(b"".join(array.tobytes() for array in (*params, *states(optimizer))))
    finally:
        fl.set_num_threads(before)
    assert len(set(results)) == 1


@each_whole
def test_each_tensor_is_looked_at_by_itself(rule):
    together, alone = draw(SIZES), draw(SIZES)
    groups = [{"params": together[:3]}, {"params": together[3:], "lr": 0.07, "weight_decay": 0.0}]
    one = rule(groups)
    others = [rule(w, **({} if k < 3 else {"lr": 0.07, "weight_decay": 0.0})) for k, w in enumerate(alone)]
    for t in range(3):
        grads = draw(SIZES, seed=t)
        one.step([grads[:3], grads[3:]])
        for other, grad in zip(others, grads, strict=True):
            other.step(grad)
    for a, b in zip(together, alone, strict=True):
        assert_bits(a, b)


def test_groups_that_look_and_groups_that_do_not():
    together, alone = draw(SIZES), draw(SIZES)
    one = fl.AdamW([{"params": [w], "cautious": k % 2 == 1} for k, w in enumerate(together)], **HYPER)
    others = [fl.AdamW(w, cautious=k % 2 == 1, **HYPER) for k, w in enumerate(alone)]
    for t in range(3):
        grads = draw(SIZES, seed=t)
        one.step([[grad] for grad in grads])
        for other, grad in zip(others, grads, strict=True):
            other.step(grad)
    for a, b in zip(together, alone, strict=True):
        assert_bits(a, b)


@each_whole
@pytest.mark.parametrize("rows", [[0, 3, 4, 5, 19], [19, 2, 7], [], list(range(20))], ids=str)
def test_of_sparse_rows_those_that_move_are_looked_at(rows, rule):
    w = draw([(20, 700)])[0]
    rng = np.random.default_rng(5)
    optimizer = rule([w, np.ones(3, np.float32)])
    optimizer.step([rng.normal(size=w.shape), np.ones(3)])
    before, held = w.copy(), optimizer.state_dict()["state"]["params[0]"]
    moving = w[sorted(rows)]
    twin = rule([moving, np.ones(3, np.float32)])
    saved = optimizer.state_dict()
    saved["state"]["params[0]"] = {name: array[sorted(rows)] for name, array in held.items()}
    twin.load_state_dict(saved)
    values = rng.normal(size=(len(rows), 700)).astype(np.float32)
    optimizer.step([fl.SparseRows(rows, values), np.ones(3)], max_norm=2.0)
    twin.step([values[np.argsort(rows)], np.ones(3)], max_norm=2.0)
    still = np.setdiff1d(np.arange(20), rows)
    assert_bits(w[still], before[still])
    # The sums of 20 rows are added up in another order than those of one array.
    np.testing.assert_allclose(w[sorted(rows)], moving, rtol=2e-6)
    now, then = (o.state_dict()["state"]["params[0]"] for o in (optimizer, twin))
    for name, array in now.items():
        assert_bits(array[still], held[name][still])
        assert_bits(array[sorted(rows)], then[name])


@each_whole
def test_masked_rows_are_problems_of_their_own(rule):
    rng = np.random.default_rng(6)
    w = draw([(9, 300)])[0]
    alone = [row.copy() for row in w]
    together, apart = rule(w), [rule(row) for row in alone]
    for _ in range(4):
        moves = rng.random(9) < 0.6
        grad = rng.normal(size=w.shape)
        together.step(grad, row_mask=moves)
        for r in np.flatnonzero(moves):
            # The count of the steps is that of all.
            saved = apart[r].state_dict()
            apart[r].load_state_dict(saved | {"steps": together.steps - 1})
            apart[r].step(grad[r])
    for r in range(9):
        assert_bits(w[r], alone[r])


@each_whole
@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_what_rounding_took_is_looked_at_too(rule, name):
    dtype = kind(name)
    w = draw([(3000,)], dtype)[0]
    optimizer = rule(w, rounding="compensated")
    for t in range(3):
        saved = optimizer.state_dict()
        held = saved["state"]["params"]
        wide = w.astype(np.float32) + held.pop("remainder").astype(np.float32)
        twin = rule(wide)
        twin.load_state_dict(saved)
        grad = draw([(3000,)], seed=t)[0]
        optimizer.step(grad)
        twin.step(grad)
        assert_bits(w, rounded(wide, dtype))
        for state, array in twin.state_dict()["state"]["params"].items():
            assert_bits(optimizer.state_dict()["state"]["params"][state], array)


@each_whole
def test_a_step_that_is_left_out_or_refused_has_written_nothing(rule):
    params = draw(SIZES)
    optimizer = rule(params, ema_decay=0.9)
    optimizer.step(draw(SIZES, seed=1))
    before, held = [p.copy() for p in params], states(optimizer)
    grads = draw(SIZES, seed=2)
    grads[4][20_000] = np.nan
    assert optimizer.step(grads, skip_nonfinite=True).skipped
    with pytest.raises(ValueError, match=r"the gradient of params\[5\] must have its shape"):
        optimizer.step([*draw(SIZES, seed=2)[:-1], np.ones(3)])
    for now, then in zip([*params, *states(optimizer)], [*before, *held], strict=True):
        assert_bits(now, then)


def test_nan_goes_into_all_that_is_made_of_its_sum():
    w, other = np.ones(5), np.ones(5)
    fl.LAMB([w, other], lr=0.1).step([np.array([0, np.nan, 1, 1, 1.0]), np.ones(5)])
    assert np.isnan(w).all() and np.isfinite(other).all()
    cautious = np.ones(5)
    fl.AdamW(cautious, cautious=True).step(np.array([0, np.nan, 1, 1, 1.0]))
    np.testing.assert_array_equal(np.isnan(cautious), [False, True, False, False, False])


# --- hyperparameters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [lambda array: array.ndim > 1, {"w": True, "b": False}], ids=["function", "structure"])
def test_decay_for_some_parameters(mask):
    params = {"w": np.ones((3, 2)), "b": np.ones(3)}
    grads = {"w": np.full((3, 2), 0.5), "b": np.full(3, 0.5)}
    optimizer = fl.AdamW(params, decay_mask=mask, **HYPER)
    w, b = np.ones((3, 2)), np.ones(3)
    for _ in range(3):
        optimizer.step(grads)
    decayed, bare = fl.AdamW(w, **HYPER), fl.AdamW(b, **HYPER | {"weight_decay": 0.0})
    for _ in range(3):
        decayed.step(grads["w"])
        bare.step(grads["b"])
    assert_bits(params["w"], w)
    assert_bits(params["b"], b)


def test_a_hyperparameter_may_be_a_function_of_the_steps():
    w, other = np.ones(3), np.ones(3)
    optimizer, by_hand = fl.AdamW(w, lr=lambda step: 0.1 / (1 + step), weight_decay=0.3), fl.AdamW(other, weight_decay=0.3)
    for t in range(5):
        by_hand.param_groups[0]["lr"] = 0.1 / (1 + t)
        optimizer.step(np.ones(3))
        by_hand.step(np.ones(3))
    assert_bits(w, other)
    saved = optimizer.state_dict()
    assert saved["groups"][0]["lr"] == 0.1 / 6
    optimizer.load_state_dict(saved)
    assert callable(optimizer.param_groups[0]["lr"])
    with pytest.raises(ValueError, match="AdamW: lr must be >= 0"):
        fl.AdamW(w, lr=lambda step: -1.0)


def after_five(value):
    """A function of the steps that gives something else from the fifth on."""
    return lambda step: 0.1 if step < 5 else value() if callable(value) else value


@pytest.mark.parametrize("value", [-1.0, math.nan, None, "0.1", lambda: 1 / 0], ids=type)
def test_functions_of_the_steps_are_looked_at_before_anything_is_loaded(value):
    done = fl.AdamW(np.ones(3))
    for _ in range(7):
        done.step(np.ones(3))
    w = np.full(3, 2.0)
    optimizer = fl.AdamW(w, lr=after_five(value), eps=1e-4, ema_decay=0.5, copy_dtype=np.float32)
    optimizer.step(np.ones(3))
    before, copies = optimizer.state_dict(), optimizer.copies.copy()
    saved = done.state_dict()
    saved["state"]["params"]["ema"] = np.zeros(3)
    with pytest.raises((ValueError, TypeError, ZeroDivisionError)):
        optimizer.load_state_dict(saved)
    after = optimizer.state_dict()
    assert (after["steps"], after["groups"]) == (before["steps"], before["groups"]) and callable(
        optimizer.param_groups[0]["lr"]
    )
    for name, array in after["state"]["params"].items():
        assert_bits(array, before["state"]["params"][name])
    assert_bits(optimizer.copies, copies)
    optimizer.step(np.ones(3))
    assert optimizer.steps == 2


def test_nothing_is_loaded_into_groups_that_were_taken_apart():
    optimizer = fl.AdamW(np.ones(3))
    saved = optimizer.state_dict()
    optimizer.step(np.ones(3))
    del optimizer.param_groups[0]["eps"]
    with pytest.raises(ValueError, match=r"AdamW: param_groups\[0\] must hold 'params' and lr"):
        optimizer.load_state_dict(saved)
    optimizer.param_groups[0]["eps"] = 1e-8
    optimizer.ema_decay = 2.0
    with pytest.raises(ValueError, match="AdamW: ema_decay must be"):
        optimizer.load_state_dict(saved)
    optimizer.ema_decay = None
    assert optimizer.steps == 1 and optimizer.state_dict()["state"]["params"]["exp_avg"].any()


@pytest.mark.parametrize(
    "carried", [None, {}, {"mu_product": np.nan}, {"mu_product": "1"}, {"mu_product": 0.5, "lr_max": 0.1}], ids=str
)
def test_bad_carried_numbers_load_nothing(carried):
    w = np.ones(3)
    optimizer = fl.NAdam(w)
    optimizer.step(np.ones(3))
    saved, held = optimizer.state_dict(), optimizer.state_dict()
    saved["groups"][0]["carried"] = carried
    with pytest.raises((ValueError, TypeError), match=r"NAdam: (carried|mu_product) must be"):
        optimizer.load_state_dict(saved)
    assert optimizer.state_dict()["groups"] == held["groups"] and optimizer.steps == 1
    optimizer.step(np.ones(3))
