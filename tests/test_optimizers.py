"""The optimizers against the papers' pseudo-code (see rules.py) and against torch.optim, and what else is true of all of them."""

import copy
import itertools
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from rules import PRINCIPAL, RULES, VARIANTS, assert_near, draw, ident, on_paper, run, torch_in_double, torch_variants

import fastloss as fl
from fastloss.formula import Each, Flag

SIZES = (0, 1, 1023, 1024, 1025, 16385)
STEPS = 20


each_variant = pytest.mark.parametrize(("name", "hyper"), VARIANTS, ids=ident)
each_rule = pytest.mark.parametrize(("name", "hyper"), PRINCIPAL, ids=[*map(ident, itertools.chain(*PRINCIPAL))][::2])
SGD, ADAM, ADAMW = (RULES[name].hyper | {"maximize": True} for name in ("SGD", "Adam", "AdamW"))


def test_the_table_of_variants_is_complete():
    assert set(RULES) == set(fl.optimizers.__all__)
    for name in fl.optimizers.__all__:
        rule, hyper = getattr(fl, name).rule, RULES[name].hyper
        unknown = {"step": None, **dict.fromkeys(rule.carried)}
        reached = {rule.choice(unknown | own) for other, own in VARIANTS if other == name}
        allowed = set()
        for choice in rule.choices():
            chosen = {k: v for k, v in zip(rule.parameters, choice, strict=True) if v is not None}
            values = hyper | ({"dampening": 0.0} if chosen.get("nesterov") else {}) | chosen
            if all(holds(**values) for holds, _ in rule.requires):
                allowed.add(choice)
        assert reached == allowed, name


# --- the values -----------------------------------------------------------------------------------------------------------


@each_variant
def test_float64_equals_the_pseudo_code(name, hyper):
    rng = np.random.default_rng(1)
    w = draw(rng, 2051, np.float64)
    grads = [draw(rng, w.shape, np.float64) for _ in range(STEPS)]
    ours, states = run(name, hyper, w, grads)
    theirs, expected, reach = on_paper(name, hyper, w, grads)
    assert set(states) == set(expected)
    for mine, exact, scale in [(ours, theirs, reach["param"]), *((states[s], expected[s], reach[s]) for s in expected)]:
        assert_near(mine, exact, 1e-14 * RULES[name].cancels, scale)


@each_variant
def test_float32_is_as_near_as_the_plain_formula(name, hyper):
    """Against float64, in ulp of an element's reach: what NumPy's float32 makes of the same pseudo-code, give or take."""
    rng = np.random.default_rng(2)
    w = draw(rng, 20_011, np.float32)
    grads = [draw(rng, w.shape, np.float32) for _ in range(STEPS)]
    ours, states = run(name, hyper, w, grads)
    theirs, expected, reach = on_paper(name, hyper, w, grads)
    plain, plain_states, _ = on_paper(name, hyper, w, grads, np.float32)
    rows = [(ours, theirs, plain, reach["param"])]
    rows += [(states[s], expected[s], plain_states[s], reach[s]) for s in expected]
    for mine, exact, simple, scale in rows:
        assert mine.dtype == simple.dtype == np.float32
        ulp = np.spacing(scale.astype(np.float32)).astype(np.float64)
        error, simple_error = np.abs(mine - exact) / ulp, np.abs(simple - exact) / ulp
        assert error.max() <= 1.5 * simple_error.max() + 1
        if not RULES[name].decoupled and not hyper.get("decoupled_weight_decay"):  # see below
            assert np.sqrt(np.mean(error**2)) <= np.sqrt(np.mean(simple_error**2)) + 0.1
        assert error.max() < STEPS * RULES[name].cancels


def test_decoupled_weight_decay_does_not_drift():
    """Parameters that only decay, in float32: at the rate that was asked for, to three digits. PyTorch's drift as well."""
    rng = np.random.default_rng(30)
    w = rng.uniform(1, 2, 1000).astype(np.float32)
    exact = w.astype(np.float64) * (1 - 3e-4 * 1e-2) ** 3000
    optimizer = fl.AdamW(w, lr=3e-4, weight_decay=1e-2)
    for _ in range(3000):
        optimizer.step(np.zeros_like(w))
    assert abs(np.mean(np.log(w / exact)) / (3000 * 3e-6)) < 1e-3


@pytest.mark.parametrize(
    ("name", "hyper", "arguments"), torch_variants(), ids=[f"{name}-{ident(hyper)}" for name, hyper, _ in torch_variants()]
)
@pytest.mark.parametrize(("dtype", "relative"), [(np.float64, 1e-14), (np.float32, 2e-6)], ids=["f64", "f32"])
def test_equals_torch(name, hyper, arguments, dtype, relative):
    rng = np.random.default_rng(3)
    params = [draw(rng, shape, dtype) for shape in ((1023,), (3, 5, 7), (1,), ())]
    starts = [p.copy() for p in params]
    by_step = [[draw(rng, p.shape, dtype) for p in params] for _ in range(STEPS)]
    with torch_in_double() as torch:
        tensors = [torch.from_numpy(p.copy()).requires_grad_() for p in params]
        theirs = getattr(torch.optim, name)(tensors, **arguments)
        for grads in by_step:
            for tensor, grad in zip(tensors, grads, strict=True):
                tensor.grad = torch.from_numpy(grad)
            theirs.step()
    ours = getattr(fl, name)(params, **hyper)
    for grads in by_step:
        ours.step(grads)
    for k, (mine, tensor) in enumerate(zip(params, tensors, strict=True)):
        *_, reach = on_paper(name, hyper, starts[k], [grads[k] for grads in by_step])
        assert_near(mine, tensor.detach().numpy().astype(np.float64), relative * RULES[name].cancels, reach["param"])
        besides = ("step", *RULES[name].torch)
        there = {s: v for s, v in theirs.state[tensor].items() if s not in besides and v is not None}
        here = ours.state_dict()["state"][f"params[{k}]"]
        assert set(here) == set(there)
        for state, value in there.items():
            assert_near(here[state], value.numpy().astype(np.float64), relative * RULES[name].cancels, reach[state])


@pytest.mark.parametrize(
    ("hyper", "start"),
    [(SGD | {"dampening": 0.0}, 0), (SGD | {"dampening": 0.0}, 7), (SGD, 0)],
    ids=["at once", "later", "dampened at once"],
)
def test_momentum_that_starts_later_equals_torch(hyper, start):
    """Dampened momentum that starts later differs, as SGD's documentation says: PyTorch does not dampen its first gradient."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(4)
    w = draw(rng, 301, np.float64)
    tensor = torch.from_numpy(w.copy()).requires_grad_()
    theirs = torch.optim.SGD([tensor], **hyper | {"momentum": 0.0})
    ours = fl.SGD(w, **hyper | {"momentum": 0.0})
    for t in range(STEPS):
        if t == start:
            theirs.param_groups[0]["momentum"] = ours.param_groups[0]["momentum"] = hyper["momentum"]
        if t == start + 5:  # and rests: the buffer is kept
            theirs.param_groups[0]["momentum"] = ours.param_groups[0]["momentum"] = 0.0
        if t == start + 8:
            theirs.param_groups[0]["momentum"] = ours.param_groups[0]["momentum"] = 0.5
        g = draw(rng, w.shape, np.float64)
        tensor.grad = torch.from_numpy(g)
        theirs.step()
        ours.step(g)
    np.testing.assert_allclose(w, tensor.detach().numpy(), rtol=1e-12)


@each_rule
def test_hyperparameters_may_change_between_steps(name, hyper):
    """A schedule, of every number: as if the pseudo-code had been given the new ones."""
    rng = np.random.default_rng(5)
    w = draw(rng, 1025, np.float64)
    expected, held = w.copy(), {}
    optimizer = getattr(fl, name)(w, **hyper)
    for t in range(1, STEPS + 1):
        now = dict(hyper)
        now[RULES[name].rate] = hyper[RULES[name].rate] / t
        if "weight_decay" in now:
            now["weight_decay"] = hyper["weight_decay"] * (1 + t % 3)
        now["maximize"] = t % 2 == 0
        if "betas" in now:
            now["betas"] = (0.5 + 0.4 / t, 0.9 + 0.05 / t, 0.97 + 0.02 / t)[: len(now["betas"])]
        if "momentum" in now:
            now["momentum"] = 0.9 - 0.5 / t
        if name.startswith("ScheduleFree"):  # which hold y and z: with another beta the same y is that of another x
            now |= {k: (hyper[k][0], *now[k][1:]) if k == "betas" else hyper[k] for k in ("betas", "momentum") if k in now}
        optimizer.param_groups[0].update(now)
        g = draw(rng, w.shape, np.float64)
        optimizer.step(g)
        expected = RULES[name].paper(expected, g, held, t, **now)
    np.testing.assert_allclose(w, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("inside", ["a list", "an array"])
def test_hyperparameters_changed_in_place_count(inside):
    w, other = np.ones(3), np.ones(3)
    if inside == "a list":
        changed, plain = fl.Adam(w, lr=0.1, betas=[0.9, 0.99]), fl.Adam(other, lr=0.1, betas=(0.9, 0.99))
    else:
        changed, plain = fl.Adam(w, lr=np.array(0.1)), fl.Adam(other, lr=0.1)
    for t in range(3):
        if t == 1 and inside == "a list":
            changed.param_groups[0]["betas"][0] = 0.3
            plain.param_groups[0]["betas"] = (0.3, 0.99)
        elif t == 1:
            changed.param_groups[0]["lr"][...] = 0.7
            plain.param_groups[0]["lr"] = 0.7
        g = np.array([1.0, -2.0, 3.0]) * (t + 1)
        changed.step(g)
        plain.step(g)
    np.testing.assert_array_equal(w, other)


# --- structure ------------------------------------------------------------------------------------------------------------


@each_rule
def test_many_tensors_of_odd_sizes(name, hyper):
    rng = np.random.default_rng(6)
    sizes = SIZES * 7 + (37, 5, 0, 1)
    params = [draw(rng, size, (np.float32, np.float64)[k % 2]) for k, size in enumerate(sizes)]
    alone = [p.copy() for p in params]
    grads_by_step = [[draw(rng, p.shape, p.dtype) for p in params] for _ in range(3)]
    together = getattr(fl, name)(params, **hyper)
    singles = [getattr(fl, name)(p, **hyper) for p in alone]
    for grads in grads_by_step:
        together.step(grads)
        for single, g in zip(singles, grads, strict=True):
            single.step(g)
    for p, q in zip(params, alone, strict=True):
        assert p.tobytes() == q.tobytes()
    assert together.steps == 3


@each_rule
def test_the_order_and_the_company_of_tensors_do_not_matter(name, hyper):
    rng = np.random.default_rng(7)
    params = {size: draw(rng, size, np.float32) for size in SIZES}
    originals = {size: p.copy() for size, p in params.items()}
    grads = [{size: draw(rng, size, np.float32) for size in SIZES} for _ in range(3)]
    optimizer = getattr(fl, name)(list(params.values()), **hyper)
    for g in grads:
        optimizer.step(list(g.values()))
    for size, p in params.items():
        theirs, _, reach = on_paper(name, hyper, originals[size], [g[size] for g in grads])
        assert_near(p, theirs, 1e-5, np.maximum(reach["param"], hyper[RULES[name].rate]))


@each_rule
def test_array_list_dict_and_groups_agree(name, hyper):
    rate = RULES[name].rate
    rng = np.random.default_rng(8)
    a, b = draw(rng, (3, 4), np.float64), draw(rng, 7, np.float64)
    one, two = ([draw(rng, p.shape, np.float64) for p in (a, b)] for _ in range(2))
    cls = getattr(fl, name)
    copies = [(a.copy(), b.copy()) for _ in range(5)]
    as_list = cls([copies[0][0], copies[0][1]], **hyper)
    as_tuple = cls(tuple(copies[1]), **hyper)
    as_dict = cls({"a": copies[2][0], 2: copies[2][1]}, **hyper)
    as_groups = cls([{"params": copies[3][0]}, {"params": [copies[3][1]]}], **hyper)
    as_named_groups = cls([{"params": {"a": copies[4][0]}, rate: hyper[rate]}, {"params": {"b": copies[4][1]}}], **hyper)
    for ga, gb in (one, two):
        as_list.step((ga, gb))
        as_tuple.step([ga, gb])
        as_dict.step({2: gb, "a": ga})
        as_groups.step([ga, [gb]])
        as_named_groups.step([{"a": ga}, {"b": gb}])
    single = cls(a, **hyper)
    single.step(one[0])
    single.step(two[0])
    for pa, pb in copies:
        np.testing.assert_array_equal(pa, a)
        np.testing.assert_array_equal(pb, copies[0][1])


@each_rule
def test_groups_have_their_own_hyperparameters(name, hyper):
    rng = np.random.default_rng(9)
    rate = RULES[name].rate
    own = [{}, {rate: 0.2}, {"maximize": not hyper["maximize"]}, dict(RULES[name].settings[-1])]
    if "weight_decay" in hyper:
        own[1]["weight_decay"] = 0.5
    if "betas" in hyper:
        own[3]["betas"] = (0.2, 0.3, 0.4)[: len(hyper["betas"])]
    params = [[draw(rng, 1025, np.float64), draw(rng, 3, np.float64)] for _ in own]
    grads_by_step = [[[draw(rng, p.shape, np.float64) for p in group] for group in params] for _ in range(STEPS)]
    expected = [
        [on_paper(name, hyper | o, p, [g[i][k] for g in grads_by_step])[0] for k, p in enumerate(group)]
        for i, (o, group) in enumerate(zip(own, params, strict=True))
    ]
    optimizer = getattr(fl, name)([{"params": group, **o} for group, o in zip(params, own, strict=True)], **hyper)
    for grads in grads_by_step:
        optimizer.step(grads)
    for group, exact in zip(params, expected, strict=True):
        for p, e in zip(group, exact, strict=True):
            np.testing.assert_allclose(p, e, rtol=1e-11, atol=1e-13)
    assert [g[rate] for g in optimizer.param_groups] == [hyper[rate], 0.2, hyper[rate], hyper[rate]]


@each_rule
def test_no_elements_and_no_tensors(name, hyper):
    cls = getattr(fl, name)
    nothing = cls([], **hyper)
    nothing.step([])
    assert nothing.steps == 1
    for shape in ((3, 0), (0, 3)):
        empty = cls(np.zeros(shape), **hyper)
        empty.step(np.zeros(shape))
        assert empty.steps == 1
        assert all(s.shape == shape for s in empty.state_dict()["state"]["params"].values())
    number = np.array(2.0)
    optimizer = cls(number, **hyper)
    optimizer.step(np.array(3.0))
    optimizer.step(np.array(3.0))  # the first may but look
    assert number != 2.0
    with pytest.raises(ValueError, match="shape"):
        empty.step(np.zeros((3, 0)))


# --- dtypes and layouts ---------------------------------------------------------------------------------------------------


def half_types():
    yield np.float16
    ml_dtypes = pytest.importorskip("ml_dtypes")
    yield ml_dtypes.bfloat16


@pytest.mark.fault(11)
@each_rule
def test_half_precision_is_computed_in_float32_and_rounded_once(name, hyper):
    rng = np.random.default_rng(10)
    for half in half_types():
        w = draw(rng, 1025, np.float32).astype(half)
        wide = w.astype(np.float32)
        ours, theirs = getattr(fl, name)(w, **hyper), getattr(fl, name)(wide, **hyper)
        for _ in range(STEPS):
            g = draw(rng, w.shape, np.float32).astype(half)
            ours.step(g)
            theirs.step(g.astype(np.float32))
            assert w.dtype == half
            assert w.tobytes() == wide.astype(half).tobytes()
            wide[...] = w.astype(np.float32)
        here, there = ours.state_dict()["state"]["params"], theirs.state_dict()["state"]["params"]
        for state in there:
            assert here[state].dtype == np.float32
            assert here[state].tobytes() == there[state].tobytes()


@each_rule
def test_gradients_of_another_floating_dtype(name, hyper):
    """Each is loaded by its own type, into the parameter's precision: fault 15."""
    rng = np.random.default_rng(11)
    kinds = [np.float32, np.float64, *half_types()]
    for kind, grad_kind in itertools.product(kinds, kinds):
        w = draw(rng, 1030, np.float32).astype(kind)
        other = w.copy()
        work = np.float64 if kind is np.float64 else np.float32
        ours, theirs = getattr(fl, name)(w, **hyper), getattr(fl, name)(other, **hyper)
        for _ in range(3):
            g = draw(rng, w.shape, np.float64).astype(grad_kind)
            ours.step(g)
            theirs.step(g.astype(work))
        assert w.tobytes() == other.tobytes(), (kind, grad_kind)


def layouts(array):
    """The same elements, laid out otherwise."""
    shape = array.shape
    yield np.asfortranarray(array)
    yield np.repeat(array, 2, axis=1)[:, ::2]
    yield np.ascontiguousarray(array[::-1, ::-1])[::-1, ::-1]
    yield np.ascontiguousarray(array.T).T
    wide = np.zeros((shape[0], 3, shape[1], 2), array.dtype)
    wide[:, 1, :, 1] = array
    yield wide[:, 1, :, 1]


@pytest.mark.fault(6)
@each_rule
@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16])
def test_layouts_equal_the_contiguous_result_bitwise(name, hyper, kind):
    rng = np.random.default_rng(12)
    start = draw(rng, (37, 61), kind)
    grads = [draw(rng, start.shape, kind) for _ in range(3)]
    plain = start.copy()
    optimizer = getattr(fl, name)(plain, **hyper)
    for g in grads:
        optimizer.step(g)
    for laid_out in layouts(start):
        w = laid_out if not np.shares_memory(laid_out, start) else laid_out.copy(order="K")
        optimizer = getattr(fl, name)(w, **hyper)
        for g in grads:
            optimizer.step(g)
        assert np.ascontiguousarray(w).tobytes() == plain.tobytes()
    for k in range(5):
        w = start.copy()
        optimizer = getattr(fl, name)(w, **hyper)
        for g in grads:
            optimizer.step(list(layouts(g))[k])
        assert w.tobytes() == plain.tobytes()


def test_strided_parameters_leave_what_lies_between():
    wide = np.full((4, 10), 7.0)
    fl.SGD(wide[::2, 1::3], lr=0.5).step(np.ones((2, 3)))
    assert (wide[::2, 1::3] == 6.5).all()
    wide[::2, 1::3] = 7.0
    assert (wide == 7.0).all()


def test_broadcast_swapped_and_unaligned_gradients_and_lists():
    w, expected = np.ones((2, 3), np.float32), np.full((2, 3), 1 - 0.25 * 0.5, np.float32)
    unaligned = np.zeros(6 * 4 + 1, np.uint8)[1:].view(np.float32).reshape(2, 3)
    unaligned[...] = 0.5
    read_only = np.full((2, 3), 0.5)
    read_only.flags.writeable = False
    for g in (
        np.broadcast_to(np.float32(0.5), (2, 3)),
        np.full((2, 3), 0.5, ">f4"),
        np.full((2, 3), 0.5, ">f8"),
        unaligned,
        read_only,
        [[0.5] * 3] * 2,
    ):
        w[...] = 1
        fl.SGD(w, lr=0.25).step(g)
        assert w.tobytes() == expected.tobytes()


def test_byte_orders_said_aloud():
    native = "<f4" if sys.byteorder == "little" else ">f4"
    w, other = np.ones(5, np.dtype("f4").newbyteorder(native[0])), np.ones(5, np.float32)
    optimizer, twin = fl.AdamW(w, lr=0.1), fl.AdamW(other, lr=0.1)
    saved = optimizer.state_dict()
    saved["state"]["params"] = {name: a.astype(native) for name, a in saved["state"]["params"].items()}
    optimizer.load_state_dict(saved)
    for one in (optimizer, twin):
        one.step(np.ones(5, native))
    np.testing.assert_array_equal(w, other)


def test_gradients_of_many_dimensions():
    shape = (2,) * 10
    rng = np.random.default_rng(13)
    w = rng.standard_normal(shape)
    g = np.repeat(rng.standard_normal(shape), 2, axis=-1)[..., ::2].transpose(3, 1, 4, 0, 9, 2, 8, 5, 7, 6)
    other = w.copy()
    fl.SGD(w, lr=0.1).step(np.ascontiguousarray(g))
    fl.SGD(other, lr=0.1).step(g)
    np.testing.assert_array_equal(w, other)


def test_the_result_does_not_depend_on_the_threads():
    rng = np.random.default_rng(14)
    sizes = (300_000, 16385, 5, 0, 65_536, 1)
    before = fl.get_num_threads()
    for name, hyper in PRINCIPAL:
        seen = set()
        for threads in (1, 2, 3, 8, 1, 2):
            fl.set_num_threads(threads)
            rng = np.random.default_rng(15)
            params = [draw(rng, size, np.float32) for size in sizes]
            optimizer = getattr(fl, name)(params, **hyper)
            for _ in range(3):
                optimizer.step([draw(rng, p.shape, np.float32) for p in params])
            seen.add(b"".join(p.tobytes() for p in params))
        fl.set_num_threads(before)
        assert len(seen) == 1, name


LEVEL_PROGRAM = """
import sys
import numpy as np, fastloss as fl
rng = np.random.default_rng(0)
for name, hyper in {rules!r}:
    for dtype in (np.float32, np.float64, np.float16):
        w = rng.standard_normal(1030).astype(dtype)
        optimizer = getattr(fl, name)(w, **hyper)
        for _ in range(20):
            optimizer.step(rng.standard_normal(w.shape).astype(dtype))
        sys.stdout.buffer.write(w.astype(np.float64).tobytes())
"""


def test_every_level_of_the_processor_agrees():
    from fastloss._kernels.cpu import engine, levels

    own = next(level for level, name in levels.NAMES.items() if name == engine.ISA)
    results = []
    for level, name in levels.NAMES.items():
        if 0 < level <= own:
            done = subprocess.run(
                [sys.executable, "-P", "-c", LEVEL_PROGRAM.format(rules=PRINCIPAL)],
                env=os.environ | {"FASTLOSS_ISA": name},
                capture_output=True,
                check=True,
            )
            results.append(np.frombuffer(done.stdout).reshape(-1, 3, 1030))
    if len(results) < 2:
        pytest.skip("one level only")
    for other in results[1:]:
        for k, tolerance in enumerate((3e-6, 1e-14, 4e-3)):
            np.testing.assert_allclose(other[:, k], results[0][:, k], rtol=tolerance, atol=tolerance)


# --- numbers that are not ordinary ----------------------------------------------------------------------------------------


@pytest.mark.fault(20)
@each_rule
def test_nan_and_inf_stay_in_their_place(name, hyper):
    rng = np.random.default_rng(16)
    # What is cautious counts over the tensor, and others move by that.
    hyper = hyper | ({"cautious": False} if "cautious" in hyper else {})
    for dtype in (np.float32, np.float64):
        w = draw(rng, 1025, dtype)
        clean = w.copy()
        ours, theirs = getattr(fl, name)(w, **hyper), getattr(fl, name)(clean, **hyper)
        for _ in range(3):
            g = draw(rng, w.shape, dtype)
            theirs.step(g)
            g = g.copy()
            g[[0, 500, 1024]] = np.nan, np.inf, -np.inf
            ours.step(g)
        if RULES[name].spreads:
            assert np.isnan(w).all()
            continue
        assert RULES[name].signs or not np.isfinite(w[[500, 1024]]).any()
        assert np.isnan(w[0])
        others = np.ones(w.shape, bool)
        others[[0, 500, 1024]] = False
        assert w[others].tobytes() == clean[others].tobytes()


@pytest.mark.fault(33)
@pytest.mark.parametrize("name", ["Adam", "AdamW"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_second_moment_of_zero_moves_nothing(name, dtype):
    for amsgrad in (False, True):
        w = np.array([1.5, -2.5, 0.0, -0.0], dtype)
        optimizer = getattr(fl, name)(w, lr=0.1, eps=0.0, betas=(0.9, 0.99), weight_decay=0.0, amsgrad=amsgrad)
        # the square of the second underflows
        tiny = np.finfo(dtype).smallest_subnormal
        for _ in range(3):
            optimizer.step(np.array([0.0, tiny, 0.0, -tiny], dtype))
        np.testing.assert_array_equal(w, np.array([1.5, -2.5, 0.0, 0.0], dtype))
        # and it recovers
        optimizer.step(np.ones(4, dtype))
        assert np.isfinite(w).all()
        assert (w < [1.5, -2.5, 0.0, 0.0]).all()


@pytest.mark.fault(24)
@each_rule
@pytest.mark.parametrize("size", [3, 300_000])
def test_denormals_are_0_within_a_step_and_nowhere_else(name, hyper, size):
    """Moments that decay end in 0, in no number that slows a step down; the caller's floating-point mode is as before."""
    tiny = np.float32(1e-42)
    w = np.ones(size, np.float32)
    optimizer = getattr(fl, name)(w, **hyper)
    for t in range(2000):
        optimizer.step(np.full(size, 1e-30 if t < 2 else 0.0, np.float32))
        if t % 100 == 0:
            assert (np.full(7, tiny) * np.float32(0.5) > 0).all()
    for state in optimizer.state_dict()["state"]["params"].values():
        assert (np.abs(state[state != 0]) >= np.finfo(np.float32).tiny).all()
    value, grad = fl.squared_error.value_and_grad(np.full(8, np.float32(2e-42)), np.zeros(8, np.float32), reduction="sum")
    assert (grad == 2 * np.float32(2e-42)).all() and value >= 0


@each_rule
def test_large_gradients_and_exact_zeros(name, hyper):
    for dtype in (np.float32, np.float64):
        huge = np.finfo(dtype).max
        w = np.zeros(8, dtype)
        optimizer = getattr(fl, name)(w, **hyper | {RULES[name].rate: 1e-3})
        optimizer.step(np.zeros(8, dtype))
        assert w.tobytes() == np.zeros(8, dtype).tobytes() or (w == 0).all()
        optimizer.step(np.full(8, np.sqrt(huge) / 4, dtype))
        assert np.isfinite(w).all()


# --- the step count and the state -----------------------------------------------------------------------------------------


@pytest.mark.fault(30)
@each_rule
@pytest.mark.parametrize("steps", [2**31 - 2, 2**31 + 5, 2**53 - 1])
def test_step_counts_beyond_32_bits(name, hyper, steps):
    rng = np.random.default_rng(17)
    w = draw(rng, 1025, np.float64)
    start = w.copy()
    optimizer = getattr(fl, name)(w, **hyper)
    first, second, third = (draw(rng, w.shape, np.float64) for _ in range(3))
    optimizer.step(first)
    held = {}
    before = RULES[name].paper(start, first, held, 1, **hyper)
    state = optimizer.state_dict()
    state["steps"] = steps
    optimizer.load_state_dict(state)
    expected = before
    for t, g in ((steps + 1, second), (steps + 2, third)):
        optimizer.step(g)
        expected = RULES[name].paper(expected, g, held, t, **hyper)
    assert optimizer.steps == steps + 2
    np.testing.assert_allclose(w, expected, rtol=1e-11, atol=1e-13)


def new(name, hyper, dtype=np.float32, seed=18):
    rng = np.random.default_rng(seed)
    params = {"a": draw(rng, (5, 7), dtype), "b": draw(rng, 1025, dtype)}
    grads = [{k: draw(rng, p.shape, dtype) for k, p in params.items()} for _ in range(10)]
    return params, grads, getattr(fl, name)(params, **hyper)


@each_variant
def test_a_run_goes_on_bitwise_from_its_state(name, hyper):
    for dtype in (np.float32, np.float64, np.float16):
        whole, grads, optimizer = new(name, hyper, dtype)
        for g in grads:
            optimizer.step(g)
        halves, _, first = new(name, hyper, dtype)
        for g in grads[:5]:
            first.step(g)
        saved = first.state_dict()
        # another optimizer, of other hyperparameters, that has gone elsewhere
        second = getattr(fl, name)(halves, **hyper | {RULES[name].rate: 0.5, "maximize": not hyper["maximize"]})
        second.load_state_dict(saved)
        for g in grads[5:]:
            second.step(g)
        assert second.steps == 10
        assert second.param_groups[0][RULES[name].rate] == hyper[RULES[name].rate]
        for key in whole:
            assert halves[key].tobytes() == whole[key].tobytes()
        mine, theirs = second.state_dict(), optimizer.state_dict()
        assert mine["groups"] == theirs["groups"]
        for key, states in theirs["state"].items():
            for state, array in states.items():
                assert mine["state"][key][state].tobytes() == array.tobytes()


@each_rule
def test_state_dict_is_a_copy_and_plain(name, hyper):
    _, grads, optimizer = new(name, hyper)
    optimizer.step(grads[0])
    saved = optimizer.state_dict()
    frozen = {k: {s: a.copy() for s, a in v.items()} for k, v in saved["state"].items()}
    assert set(frozen) == {"params['a']", "params['b']"}
    optimizer.step(grads[1])
    for key, states in frozen.items():
        for state, array in states.items():
            assert type(array) is np.ndarray
            assert saved["state"][key][state].tobytes() == array.tobytes()
            saved["state"][key][state][...] = 99
    assert not any((a == 99).any() for v in optimizer.state_dict()["state"].values() for a in v.values())
    optimizer.load_state_dict(saved)
    for states in saved["state"].values():
        for array in states.values():
            array[...] = -1
    assert all((a == 99).all() for v in optimizer.state_dict()["state"].values() for a in v.values())
    rate = RULES[name].rate
    saved["groups"][0][rate] = 77.0
    assert optimizer.param_groups[0][rate] == hyper[rate]


@pytest.mark.fault(51)
@each_rule
def test_the_round_trip_keeps_every_bit(name, hyper):
    rng = np.random.default_rng(19)
    for dtype, whole in ((np.float32, np.uint32), (np.float64, np.uint64)):
        w = np.zeros((3, 341), dtype)
        optimizer = getattr(fl, name)(w, **hyper)
        optimizer.step(w.copy())
        saved = optimizer.state_dict()
        for array in saved["state"]["params"].values():
            patterns = rng.integers(0, 2**64, array.shape, np.uint64).astype(whole)
            patterns.flat[:4] = 1 << (8 * array.itemsize - 1), 1, 0, 2 ** (8 * array.itemsize) - 1
            nan = np.array(np.nan, dtype).view(whole) | whole(0x12345)
            patterns.flat[4:6] = nan, nan | whole(1 << (8 * array.itemsize - 1))
            array.view(whole)[...] = patterns
        optimizer.load_state_dict(saved)
        again = optimizer.state_dict()["state"]["params"]
        for state, array in saved["state"]["params"].items():
            assert again[state].tobytes() == array.tobytes()


def test_loading_leaves_nothing_of_what_was_there_before():
    """A state of the old run that the loaded one does not have is gone: here the largest second moment."""
    rng = np.random.default_rng(20)
    grads = [draw(rng, 9, np.float64) for _ in range(6)]
    plain = fl.Adam(np.ones(9), **ADAM | {"amsgrad": False})
    plain.step(grads[0])
    saved = plain.state_dict()
    results = []
    for used in (False, True):
        w = np.ones(9)
        optimizer = fl.Adam(w, **ADAM)
        if used:
            for g in grads:
                optimizer.step(1000 * g)
            w[...] = 1
        optimizer.load_state_dict(saved)
        optimizer.param_groups[0]["amsgrad"] = True
        optimizer.step(grads[1])
        results.append(w)
    np.testing.assert_array_equal(*results)


def test_a_state_that_rests_is_saved_too():
    rng = np.random.default_rng(21)
    grads = [draw(rng, 9, np.float64) for _ in range(6)]
    results = []
    for reloaded in (False, True):
        w = np.ones(9)
        optimizer = fl.SGD(w, **SGD)
        for t, g in enumerate(grads):
            optimizer.param_groups[0]["momentum"] = 0.0 if t in (2, 3) else 0.8
            optimizer.step(g)
            if t == 3 and reloaded:
                saved = optimizer.state_dict()
                optimizer = fl.SGD(w, **SGD)
                optimizer.load_state_dict(saved)
        results.append(w)
    np.testing.assert_array_equal(*results)


def altered(saved, change):
    out = copy.deepcopy(saved)
    change(out)
    return out


def first_number(d):
    """The learning rate, whatever the rule calls it."""
    return next(iter(d["groups"][0]))


def first_state(d):
    return next(iter(d["state"]["params['b']"]))


BAD_STATES = {
    "another rule": lambda d: d.update(rule="another"),
    "rule missing": lambda d: d.pop("rule"),
    "state missing": lambda d: d.pop("state"),
    "groups missing": lambda d: d.pop("groups"),
    "an extra key": lambda d: d.update(version=2),
    "negative steps": lambda d: d.update(steps=-1),
    "fractional steps": lambda d: d.update(steps=1.5),
    "steps that are a bool": lambda d: d.update(steps=True),
    "steps that are text": lambda d: d.update(steps="3"),
    "no steps": lambda d: d.update(steps=None),
    "too many groups": lambda d: d["groups"].append(dict(d["groups"][0])),
    "no groups": lambda d: d.update(groups=[]),
    "a hyperparameter missing": lambda d: d["groups"][0].pop(first_number(d)),
    "an unknown hyperparameter": lambda d: d["groups"][0].update(unheard_of=1.0),
    "a hyperparameter outside its domain": lambda d: d["groups"][0].update({first_number(d): -1.0}),
    "a hyperparameter that is NaN": lambda d: d["groups"][0].update({first_number(d): float("nan")}),
    "a tensor missing": lambda d: d["state"].pop("params['b']"),
    "a tensor too many": lambda d: d["state"].update({"params['c']": d["state"]["params['b']"]}),
    "a state missing": lambda d: d["state"]["params['b']"].pop(first_state(d)),
    "a shape": lambda d: d["state"]["params['b']"].update({first_state(d): np.zeros(1024, np.float32)}),
    "a shape that would broadcast": lambda d: d["state"]["params['b']"].update({first_state(d): np.zeros(1, np.float32)}),
    "integers": lambda d: d["state"]["params['b']"].update({first_state(d): np.zeros(1025, int)}),
    "complex numbers": lambda d: d["state"]["params['b']"].update({first_state(d): np.zeros(1025, complex)}),
    "a list": lambda d: d["state"]["params['b']"].update({first_state(d): [0.0] * 1025}),
    "states that are not a dict": lambda d: d["state"].update({"params['b']": [1, 2]}),
    "groups that are none": lambda d: d.update(groups=None),
    "groups that are not dicts": lambda d: d.update(groups=[5]),
    "an unknown state": lambda d: d["state"]["params['b']"].update(velocity=np.zeros(1025, np.float32)),
    "a masked array": lambda d: d["state"]["params['b']"].update({first_state(d): np.ma.zeros(1025, np.float32)}),
    "state that is not a dict": lambda d: d.update(state=[]),
}


@pytest.mark.fault(49)
@each_rule
@pytest.mark.parametrize("bad", BAD_STATES)
def test_bad_state_dicts_load_nothing(name, hyper, bad):
    params, grads, optimizer = new(name, hyper)
    optimizer.step(grads[0])
    saved = optimizer.state_dict()
    optimizer.step(grads[1])
    before = optimizer.state_dict()
    broken = altered(saved, BAD_STATES[bad])
    # everything that could be loaded differs
    broken.get("groups") and [g.update(lr=0.5) for g in broken["groups"] if isinstance(g, dict) and g.get("lr", -1) > 0]
    with pytest.raises((ValueError, TypeError), match=name):
        optimizer.load_state_dict(broken)
    after = optimizer.state_dict()
    assert after["steps"] == before["steps"] == 2
    assert after["groups"] == before["groups"]
    for key, states in before["state"].items():
        assert set(after["state"][key]) == set(states)
        for state, array in states.items():
            assert after["state"][key][state].tobytes() == array.tobytes()
    # and the run goes on as if nothing had been tried
    twin_params, twin_grads, twin = new(name, hyper)
    for g in twin_grads[:3]:
        twin.step(g)
    optimizer.step(grads[2])
    for key in params:
        assert params[key].tobytes() == twin_params[key].tobytes()


@pytest.mark.parametrize("given", [None, 5, [], {}, "state"], ids=repr)
def test_what_is_no_state_dict(given):
    with pytest.raises((ValueError, TypeError), match="SGD: state_dict must"):
        fl.SGD(np.ones(2)).load_state_dict(given)


def test_unknown_keys_that_cannot_be_sorted():
    with pytest.raises((ValueError, TypeError), match="SGD: state_dict must"):
        fl.SGD(np.ones(2)).load_state_dict({1: 2, "rule": "SGD"})


# --- what must be refused -------------------------------------------------------------------------------------------------


def masked():
    return np.ma.masked_array(np.ones(3), [0, 1, 0])


def read_only():
    array = np.ones(3)
    array.flags.writeable = False
    return array


class Subclass(np.ndarray):
    pass


BAD_PARAMETERS = {
    "complex": (np.ones(3, complex), TypeError),
    "longdouble": (np.ones(3, np.longdouble), TypeError),
    "object": (np.ones(3, object), TypeError),
    "text": (np.array(["a", "b"]), TypeError),
    "datetime": (np.zeros(3, "M8[s]"), TypeError),
    "structured": (np.zeros(3, "f4,f4"), TypeError),
    "integers": (np.ones(3, int), TypeError),
    "bool": (np.ones(3, bool), TypeError),
    "number": (1.5, TypeError),
    "scalar": (np.float64(1.5), TypeError),
    "none": (None, TypeError),
    "list of numbers": ([1.0, 2.0], TypeError),
    "list of lists": ([[1.0, 2.0]], TypeError),
    "text itself": ("params", TypeError),
    "generator": ((np.ones(2) for _ in range(2)), TypeError),
    "masked": (masked(), TypeError),
    "subclass": (np.ones(3).view(Subclass), TypeError),
    "read-only": (read_only(), ValueError),
    "broadcast": (np.broadcast_to(1.0, (3,)), ValueError),
    "stride 0": (np.lib.stride_tricks.as_strided(np.ones(3), (3,), (0,)), ValueError),
    "overlaps itself": (np.lib.stride_tricks.as_strided(np.ones(9), (3, 3), (8, 16)), ValueError),
    "swapped": (np.ones(3, ">f4"), ValueError),
    "unaligned": (np.zeros(13, np.uint8)[1:].view(np.float32), ValueError),
}


@pytest.mark.parametrize("case", BAD_PARAMETERS)
@pytest.mark.parametrize("name", fl.optimizers.__all__)
def test_bad_parameters(name, case):
    array, error = BAD_PARAMETERS[case]
    with pytest.raises(error, match=f"^{name}: params"):
        getattr(fl, name)(array)
    if case != "generator":
        for params in ([np.ones(2), array], {"w": array}, [{"params": array}]):
            with pytest.raises(error, match=f"^{name}: "):
                getattr(fl, name)(params)


def test_memmaps_and_series_are_no_parameters(tmp_path):
    mapped = np.memmap(tmp_path / "w", np.float32, "w+", shape=(3,))
    with pytest.raises(TypeError, match="SGD: params must be a NumPy array"):
        fl.SGD(mapped)
    w = np.ones(3, np.float32)
    mapped[:] = 0.5
    fl.SGD(w, lr=1.0).step(mapped)
    assert (w == 0.5).all()
    pandas = pytest.importorskip("pandas")
    with pytest.raises(TypeError, match="SGD: params must be a NumPy array"):
        fl.SGD(pandas.Series([1.0, 2.0]))
    fl.SGD(w, lr=1.0).step(pandas.Series([0.5, 0.5, 0.5], dtype="float32"))
    assert (w == 0.0).all()


@pytest.mark.fault(34)
def test_the_same_memory_twice():
    w = np.ones((4, 6))
    for params in (
        [w, w],
        {"a": w, "b": w},
        [w, w[:2]],
        [w[1:3], w[2:]],
        [w, w.T],
        [w[::-1], w[0]],
        [{"params": w}, {"params": [np.ones(2), w[0]]}],
        [w, w.view(np.float32)],
    ):
        with pytest.raises(ValueError, match=r"SGD: params.* must not share memory"):
            fl.SGD(params)
    fl.SGD([w[:2], w[2:]]).step([np.ones((2, 6))] * 2)


@pytest.mark.fault(34)
def test_a_gradient_in_memory_that_the_step_writes():
    base = np.ones(24)
    v = np.ones(5)
    optimizer = fl.SGD([base[4:16], v], lr=0.5)
    for g in (base[4:16], base[0:12], base[12:24], base[15:3:-1], base.view(np.float32)[8:20]):
        with pytest.raises(ValueError, match=r"SGD: the gradient of params\[0\] must not share memory"):
            optimizer.step([g, np.ones(5)])
    with pytest.raises(ValueError, match=r"SGD: the gradient of params\[1\] must not share memory"):
        optimizer.step([np.ones(12), base[6:11]])
    assert optimizer.steps == 0
    assert (base == 1).all()
    optimizer.step([np.concatenate([base[:4], base[16:], base[:0]]), v.copy()])
    twice = np.ones(12)
    pair = fl.SGD([np.ones(12), np.ones(12)])
    pair.step([twice, twice])


def bad_gradients():
    shape = (3, 4)
    good = np.ones(shape, np.float32)
    yield "shape", np.ones((4, 3), np.float32), ValueError
    yield "broadcastable", np.ones((1, 4), np.float32), ValueError
    yield "number", 1.0, ValueError
    yield "flat", np.ones(12, np.float32), ValueError
    yield "one more dimension", good[None], ValueError
    yield "empty", np.ones((0, 4), np.float32), ValueError
    yield "integers", np.ones(shape, int), TypeError
    yield "bool", np.ones(shape, bool), TypeError
    yield "complex", np.ones(shape, complex), TypeError
    yield "longdouble", np.ones(shape, np.longdouble), TypeError
    yield "object", np.ones(shape, object), TypeError
    yield "text", np.full(shape, "1"), TypeError
    yield "datetime", np.zeros(shape, "M8[s]"), TypeError
    yield "masked", np.ma.masked_array(good, good == 2), TypeError
    yield "none", None, TypeError


@pytest.mark.fault(35)
@each_rule
@pytest.mark.parametrize(("case", "bad", "error"), list(bad_gradients()), ids=[case for case, _, _ in bad_gradients()])
def test_a_bad_fifth_gradient_touches_nothing(name, hyper, case, bad, error):
    """Fault 35: neither parameters nor states nor the count, and the run goes on."""
    rng = np.random.default_rng(22)
    params = [draw(rng, (3, 4), np.float32) for _ in range(10)]
    twins = [p.copy() for p in params]
    grads = [[draw(rng, (3, 4), np.float32) for _ in params] for _ in range(2)]
    ours, theirs = getattr(fl, name)(params, **hyper), getattr(fl, name)(twins, **hyper)
    ours.step(grads[0])
    theirs.step(grads[0])
    before = ours.state_dict()
    with pytest.raises(error, match=rf"^{name}: "):
        ours.step([*grads[1][:4], bad, *grads[1][5:]])
    assert ours.steps == 1
    for p, q in zip(params, twins, strict=True):
        assert p.tobytes() == q.tobytes()
    after = ours.state_dict()["state"]
    for key, states in before["state"].items():
        for state, array in states.items():
            assert after[key][state].tobytes() == array.tobytes()
    ours.step(grads[1])
    theirs.step(grads[1])
    for p, q in zip(params, twins, strict=True):
        assert p.tobytes() == q.tobytes()


def test_errors_name_the_tensor():
    params = {"weight": np.ones((2, 3)), "bias": np.ones(2)}
    optimizer = fl.SGD([{"params": params}, {"params": [np.ones(1)]}])
    with pytest.raises(ValueError, match=r"SGD: the gradient of params\[0\]\['bias'\] must have its shape \(2,\), got \(3,\)"):
        optimizer.step([{"weight": np.ones((2, 3)), "bias": np.ones(3)}, [np.ones(1)]])
    with pytest.raises(TypeError, match=r"SGD: the gradient of params\[1\]\[0\] must be a floating-point array"):
        optimizer.step([{"weight": np.ones((2, 3)), "bias": np.ones(2)}, [np.ones(1, int)]])


@pytest.mark.parametrize(
    "bad", [np.ma.ones(1), np.ones(1, complex), np.ones(1, object), None], ids=["masked", "complex", "object", "none"]
)
def test_errors_name_the_tensor_of_what_is_no_real_array(bad):
    optimizer = fl.SGD([np.ones(1), np.ones(1)])
    with pytest.raises(TypeError, match=r"SGD: the gradient of params\[1\] must"):
        optimizer.step([np.ones(1), bad])


def test_the_structure_of_the_gradients():
    a, b = np.ones(2), np.ones(3)
    listed, named = fl.SGD([a, b]), fl.SGD({"a": np.ones(2), "b": np.ones(3)})
    grouped = fl.SGD([{"params": [np.ones(2)]}, {"params": {"b": np.ones(3)}}])
    single = fl.SGD(np.ones(2))
    ga, gb = np.ones(2), np.ones(3)
    for optimizer, grads in (
        (listed, [ga]),
        (listed, [ga, gb, gb]),
        (listed, ga),
        (listed, {"a": ga, "b": gb}),
        (listed, None),
        (listed, [gb, ga]),
        (named, [ga, gb]),
        (named, {"a": ga}),
        (named, {"a": ga, "b": gb, "c": gb}),
        (named, {"a": ga, "c": gb}),
        (named, None),
        (grouped, [ga, gb]),
        (grouped, [[ga]]),
        (grouped, [[ga], [gb]]),
        (grouped, {"a": ga}),
        (grouped, [[ga], {"b": gb}, []]),
        (grouped, None),
        (single, [ga]),
        (single, {"params": ga}),
        (single, None),
    ):
        with pytest.raises((ValueError, TypeError), match=r"^SGD: "):
            optimizer.step(grads)
        assert optimizer.steps == 0
    assert (a == 1).all()
    assert (b == 1).all()


@pytest.mark.parametrize("name", fl.optimizers.__all__)
def test_unknown_hyperparameters(name):
    cls = getattr(fl, name)
    with pytest.raises(TypeError, match=f"{name}: hyperparameters must be among {RULES[name].rate}, .*got 'learning_rate'"):
        cls(np.ones(2), learning_rate=0.1)
    with pytest.raises(
        TypeError, match=rf"{name}: params\[1\] must hold 'params' and {RULES[name].rate}, .*got 'learning_rate'"
    ):
        cls([{"params": np.ones(2)}, {"params": np.ones(2), "learning_rate": 0.1}])
    with pytest.raises(TypeError, match="step"):
        cls(np.ones(2), step=3)


def outside(domain):
    """What a hyperparameter must not be."""
    if isinstance(domain, Flag):
        return [2, "yes", None, 0.5]
    if isinstance(domain, Each):
        good = domain.default
        elements = [(*good[:k], bad, *good[k + 1 :]) for k in range(len(good)) for bad in outside(domain.domain)]
        return [*elements, good[:1], (*good, good[-1]), good[0], None, "ab"]
    ends = [(domain.low, domain.open_low, -1e-30), (domain.high, domain.open_high, 0.5)]
    beyond = [end if is_open else end + further for end, is_open, further in ends if is_open or np.isfinite(end)]
    return [*beyond, float("nan"), float("inf"), -float("inf"), "0.1", None, True, [0.1], 1j, np.ones(1)]


@pytest.mark.parametrize("name", fl.optimizers.__all__)
def test_hyperparameters_outside_their_domain(name):
    cls = getattr(fl, name)
    tried = 0
    for hyper, domain in cls.rule.hyperparameters.items():
        for bad in outside(domain):
            with pytest.raises((ValueError, TypeError), match=rf"^{name}: {hyper}.* must be "):
                cls(np.ones(2), **{hyper: bad})
            with pytest.raises((ValueError, TypeError), match=rf"^{name}: {hyper}.* must be "):
                cls([{"params": np.ones(2)}, {"params": np.ones(2), hyper: bad}])
            # and when it is changed later
            w = np.ones(2)
            optimizer = cls(w)
            optimizer.step(np.ones(2))
            before = w.copy()
            good = optimizer.param_groups[0][hyper]
            optimizer.param_groups[0][hyper] = bad
            with pytest.raises((ValueError, TypeError), match=rf"^{name}: {hyper}.* must be "):
                optimizer.step(np.ones(2))
            np.testing.assert_array_equal(w, before)
            assert optimizer.steps == 1
            optimizer.param_groups[0][hyper] = good
            optimizer.step(np.ones(2))
            assert optimizer.steps == 2
            tried += 1
    assert tried > 10


def test_a_flag_that_is_an_array():
    with pytest.raises(TypeError, match="SGD: maximize must be True or False"):
        fl.SGD(np.ones(2), maximize=np.array([True, False]))


def test_numbers_of_every_kind_are_hyperparameters():
    for lr in (1, 0, np.float32(0.5), np.int64(1), np.array(0.25), np.float16(0.5)):
        w = np.ones(2)
        fl.SGD(w, lr=lr).step(np.ones(2))
        assert (w == 1 - float(lr)).all()
    fl.Adam(np.ones(2), betas=[np.float32(0.5), 0], amsgrad=np.True_).step(np.ones(2))


def test_nesterov_needs_momentum_without_dampening():
    for hyper in ({"nesterov": True}, {"nesterov": True, "momentum": 0.9, "dampening": 0.1}):
        with pytest.raises(ValueError, match="SGD: nesterov must go with momentum > 0 and dampening = 0"):
            fl.SGD(np.ones(2), **hyper)
    optimizer = fl.SGD(np.ones(2), nesterov=True, momentum=0.9)
    optimizer.param_groups[0]["momentum"] = 0.0
    with pytest.raises(ValueError, match="nesterov"):
        optimizer.step(np.ones(2))


def test_repr_names_the_rule_and_its_numbers():
    text = repr(fl.Adam([np.ones(2), np.ones(3)], lr=0.25))
    assert text.startswith("Adam(2 arrays")
    assert "lr=0.25" in text


# --- threads and processes ------------------------------------------------------------------------------------------------


@pytest.mark.fault(37)
@pytest.mark.parametrize("size", [10, 200_000])
def test_two_threads_step_one_optimizer(size):
    """Fault 37: no crash, no step is lost. The sum of equal steps does not depend on their order."""
    w = np.zeros(size)
    optimizer = fl.SGD(w, lr=1.0)
    rounds = 2000 if size < 100 else 50
    failures = []

    def work():
        try:
            for _ in range(rounds):
                optimizer.step(np.ones(size))
        except BaseException as error:
            failures.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        sys.setswitchinterval(interval)
    assert not failures
    assert not any(thread.is_alive() for thread in threads)
    assert optimizer.steps == 3 * rounds
    assert (w == -3.0 * rounds).all()


def test_many_threads_on_their_own_arrays():
    rng = np.random.default_rng(23)
    start, grads = draw(rng, 120_001, np.float32), [draw(rng, 120_001, np.float32) for _ in range(10)]
    expected, _ = run("AdamW", ADAMW, start, grads)
    results = [None] * 6

    def work(k):
        results[k], _ = run("AdamW", ADAMW, start, grads)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(results))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(r is not None and r.tobytes() == expected.tobytes() for r in results)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_child_of_fork_goes_on():
    """Fault 38: after use with threads, with a time limit; the child's result is the parent's."""
    rng = np.random.default_rng(24)
    w, grads = draw(rng, 400_000, np.float32), draw(rng, 400_000, np.float32)
    optimizer = fl.AdamW(w, **ADAMW)
    optimizer.step(grads)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        try:
            for _ in range(3):
                optimizer.step(grads)
            fl.Adam([np.ones(200_000)]).step([np.ones(200_000)])
            os.write(write, w[:8].tobytes() + optimizer.steps.to_bytes(2, "little"))
        finally:
            os._exit(0)
    os.close(write)
    for _ in range(3):
        optimizer.step(grads)
    with os.fdopen(read, "rb") as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    assert status == 0
    assert told == w[:8].tobytes() + (4).to_bytes(2, "little")


def test_arrays_cannot_be_resized_under_the_optimizer():
    w = np.ones(1000)
    optimizer = fl.SGD(w)
    with pytest.raises(ValueError, match="resize"):
        w.resize(10)
    optimizer.step(np.ones(1000))


def test_the_environment_is_left_alone():
    """Row 48: errors raised by NumPy's floating-point checks, and warnings as errors."""
    import warnings

    w = np.array([1e38, 1e-38, 0.0, 1.0], np.float32)
    with np.errstate(all="raise"), warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer = fl.Adam(w, lr=1e30, eps=0.0)
        optimizer.step(np.array([1e38, 1e-38, 0.0, np.inf], np.float32))
        optimizer.state_dict()
        np.float32(1.0) / np.float32(3.0)
