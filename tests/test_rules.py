"""What single rules promise beyond what is true of all (test_optimizers.py): many tensors, edges, and methods beside a step."""

import copy
import pickle

import numpy as np
import pytest
from rules import RULES, VARIANTS, assert_near, draw, ident, on_paper, run

import fastloss as fl

SIZES = (1, 7, 1025, 20_000)
STEPS = 20

each_variant = pytest.mark.parametrize(("name", "hyper"), VARIANTS, ids=ident)


@each_variant
def test_many_tensors_equal_the_pseudo_code(name, hyper):
    rng = np.random.default_rng(40)
    for dtype, relative in ((np.float64, 1e-13), (np.float32, 2e-5)):
        params = [draw(rng, size, dtype) for size in SIZES]
        starts = [p.copy() for p in params]
        by_step = [[draw(rng, size, dtype) for size in SIZES] for _ in range(STEPS)]
        optimizer = getattr(fl, name)(params, **hyper)
        for grads in by_step:
            optimizer.step(grads)
        states = optimizer.state_dict()["state"]
        for k, (start, param) in enumerate(zip(starts, params, strict=True)):
            exact, expected, reach = on_paper(name, hyper, start, [grads[k] for grads in by_step])
            assert_near(param, exact, relative, reach["param"])
            for state, values in expected.items():
                assert_near(states[f"params[{k}]"][state], values, relative, reach[state])


# --- optax, where it has the rule in the same form ------------------------------------------------------------------------


def optax_rules():
    """(name, ours, theirs) with the numbers of the table. To MADGRAD's learning rate optax, as the authors' code, adds eps."""
    lr, betas, eps, decay = 0.013, (0.83, 0.967), 3e-4, 0.071
    adam = {"b1": betas[0], "b2": betas[1], "eps": eps}
    ours = {"lr": lr, "betas": betas, "eps": eps}
    yield "AdamW", ours | {"weight_decay": decay}, lambda o: o.adamw(lr, **adam, weight_decay=decay)
    yield "Lion", {"lr": lr, "betas": betas, "weight_decay": decay}, lambda o: o.lion(lr, *betas, weight_decay=decay)
    yield "AdaBelief", ours, lambda o: o.adabelief(lr, **adam, eps_root=eps)
    yield "ADOPT", ours, lambda o: o.contrib.adopt(lr, **adam)
    yield (
        "AdEMAMix",
        ours | {"betas": (*betas, 0.991), "alpha": 3.7, "weight_decay": decay},
        lambda o: o.contrib.ademamix(lr, **adam, b3=0.991, alpha=3.7, weight_decay=decay),
    )
    yield "LAMB", ours | {"weight_decay": decay}, lambda o: o.lamb(lr, **adam, weight_decay=decay)
    yield "MADGRAD", {"lr": lr, "momentum": 0.71, "eps": eps}, lambda o: o.contrib.madgrad(lr - eps, momentum=0.71, eps=eps)
    yield "ScheduleFreeSGD", {"lr": lr, "momentum": 0.71}, lambda o: o.contrib.schedule_free_sgd(lr, b1=0.71)
    yield "ScheduleFreeAdamW", ours, lambda o: o.contrib.schedule_free_adamw(lr, **adam)


@pytest.mark.parametrize(("name", "ours", "theirs"), list(optax_rules()), ids=lambda x: x if isinstance(x, str) else "")
def test_equals_optax(name, ours, theirs):
    jax = pytest.importorskip("jax")
    optax = pytest.importorskip("optax")
    pytest.importorskip("optax.contrib")
    rng = np.random.default_rng(41)
    w = rng.normal(size=257)
    grads = [rng.normal(size=257) for _ in range(STEPS)]
    mine, _ = run(name, ours, w, grads)
    with jax.enable_x64(True):
        rule = theirs(optax)
        param = jax.numpy.asarray(w)
        state = rule.init(param)
        for g in grads:
            updates, state = rule.update(jax.numpy.asarray(g), state, param)
            param = optax.apply_updates(param, updates)
        # Some numbers of a step are float32 there.
        np.testing.assert_allclose(mine, np.asarray(param), rtol=1e-6, atol=1e-7)


# --- edges ----------------------------------------------------------------------------------------------------------------

WITH_EPS = [name for name, rule in RULES.items() if "eps" in rule.hyper]
STILL = {"eps": 0.0, "weight_decay": 0.0, "initial_accumulator_value": 0.0}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", WITH_EPS)
def test_no_gradient_and_no_eps_moves_nothing(name, dtype):
    """0 / 0 is no move, and later gradients find everything finite."""
    for hyper in [own for other, own in VARIANTS if other == name]:
        w = np.array([1.5, -2.5, 0.0, 1e-3], dtype)
        optimizer = getattr(fl, name)(w, **hyper | {k: v for k, v in STILL.items() if k in hyper})
        for _ in range(3):
            optimizer.step(np.zeros(4, dtype))
        np.testing.assert_allclose(w, np.array([1.5, -2.5, 0.0, 1e-3], dtype), rtol=4 * np.finfo(dtype).eps)
        before = w.copy()
        for _ in range(3):
            optimizer.step(np.ones(4, dtype))
        assert np.isfinite(w).all()
        if name not in ("Adadelta", "Sophia"):  # nothing else gives their first move a length
            assert (w > before if hyper["maximize"] else w < before).all()


def test_ftrl_without_any_regularisation_keeps_what_has_no_gradient():
    w = np.array([1.5, -2.5, 0.0])
    optimizer = fl.FTRL(w, alpha=0.1, beta=0.0)
    optimizer.step(np.zeros(3))
    np.testing.assert_array_equal(w, [1.5, -2.5, 0.0])
    optimizer.step(np.ones(3))
    np.testing.assert_allclose(w, [1.4, -2.6, -0.1], rtol=1e-12)


def test_ftrl_makes_zeros():
    rng = np.random.default_rng(42)
    w = np.zeros(1000)
    optimizer = fl.FTRL(w, alpha=0.1, l1=3.0)
    for _ in range(STEPS):
        optimizer.step(rng.normal(size=1000))
    assert 100 < (w == 0).sum() < 900


def test_the_variance_of_equal_gradients():
    """Rounding makes it negative in one element of three."""
    rng = np.random.default_rng(43)
    for dtype in (np.float32, np.float64):
        g = rng.normal(size=3000).astype(dtype)
        w = np.zeros_like(g)
        optimizer = fl.RMSprop(w, centered=True, alpha=0.5, eps=1e-3)
        for _ in range(200):
            optimizer.step(g)
        assert np.isfinite(w).all()


@pytest.mark.parametrize("name", ["Adam", "AdamW", "Lion"])
def test_cautious_moves_go_against_the_gradient(name):
    rng = np.random.default_rng(44)
    w = rng.normal(size=2000).astype(np.float32)
    optimizer = getattr(fl, name)(w, lr=0.1, weight_decay=0.0, cautious=True)
    rested = 0
    for _ in range(STEPS):
        before = w.copy()
        g = rng.normal(size=2000).astype(np.float32) * np.float32(1e-30)  # whose products underflow
        optimizer.step(g)
        moved = w - before
        assert (moved * np.sign(g) <= 0).all()
        rested += (moved == 0).sum()
    assert name != "Lion" or 1000 < rested < 1000 * STEPS


def test_cautious_moves_are_those_of_the_plain_rule_as_much_longer_as_others_rest():
    rng = np.random.default_rng(45)
    starts = [rng.normal(size=size) for size in (2000, 40_000, 1)]
    for name in ("Adam", "AdamW", "Lion"):
        plain, cautious = ([w.copy() for w in starts] for _ in range(2))
        first, second = (getattr(fl, name)(p, weight_decay=0.0, cautious=c) for p, c in ((plain, False), (cautious, True)))
        for _ in range(STEPS):
            grads = [rng.normal(size=w.size) for w in starts]
            before = [p.copy() for p in plain]
            for p, start in zip(cautious, before, strict=True):
                p[...] = start
            first.step(grads)
            second.step(grads)
            for p, c, start, g in zip(plain, cautious, before, grads, strict=True):
                rests = (start - p) * g <= 0
                np.testing.assert_array_equal(c == start, rests)
                longer = p.size / ((~rests).sum() + 1)
                np.testing.assert_allclose((c - start)[~rests], longer * (p - start)[~rests], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("name", ["Adam", "AdamW", "Lion"])
def test_cautious_may_begin_and_end_between_steps(name):
    rng = np.random.default_rng(56)
    w, other = np.ones(5000), np.ones(5000)
    optimizer = getattr(fl, name)(w)
    for t in range(4):
        optimizer.param_groups[0]["cautious"] = t % 2 == 1
        twin = getattr(fl, name)(other, cautious=t % 2 == 1)
        twin.load_state_dict(optimizer.state_dict())
        g = rng.normal(size=5000)
        optimizer.step(g)
        twin.step(g)
        np.testing.assert_array_equal(w, other)


@pytest.mark.parametrize("size", [1e-25, 1.0, 1e25])
def test_norms_of_float32_are_beyond_its_range(size):
    """Of squares that float32 does not hold the parameter's norm is made all the same."""
    rng = np.random.default_rng(57)
    w = (rng.normal(size=3000) * size).astype(np.float32)
    expected, held = w.astype(np.float64), {}
    hyper = {"lr": 0.1, "betas": (0.83, 0.967), "eps": 3e-4, "weight_decay": 0.0}
    optimizer = fl.LAMB(w, **hyper)
    for t in range(1, 5):
        g = rng.normal(size=3000).astype(np.float32)
        optimizer.step(g)
        expected = RULES["LAMB"].paper(expected, g.astype(np.float64), held, t, **hyper, maximize=False)
    np.testing.assert_allclose(w, expected, rtol=1e-4, atol=1e-6 * size)


def test_a_tensor_of_zeros_moves_as_adam_does():
    w, other = np.zeros(5), np.zeros(5)
    g = np.arange(5.0) - 2
    fl.LAMB(w, lr=0.1).step(g)
    fl.Adam(other, lr=0.1, eps=1e-6).step(g)
    np.testing.assert_allclose(w, other, rtol=1e-14)


def test_adam_with_decoupled_decay_is_adamw():
    rng = np.random.default_rng(46)
    for cautious in (False, True):
        hyper = {"lr": 0.01, "weight_decay": 0.3, "amsgrad": True, "cautious": cautious}
        w = draw(rng, 1025, np.float32)
        grads = [draw(rng, w.shape, np.float32) for _ in range(STEPS)]
        ours, _ = run("Adam", hyper | {"decoupled_weight_decay": True}, w, grads)
        theirs, _ = run("AdamW", hyper, w, grads)
        assert ours.tobytes() == theirs.tobytes()


def test_rprop_does_not_lose_a_sign_to_underflow():
    """The product of two gradients underflows, their agreement does not."""
    w = np.zeros(2, np.float32)
    optimizer = fl.Rprop(w, lr=1.0)
    optimizer.step(np.array([1e-30, 1e-30], np.float32))
    optimizer.step(np.array([1e-30, -1e-30], np.float32))
    np.testing.assert_array_equal(w, np.array([-2.2, -1.0], np.float32))


def test_what_pairs_of_numbers_must_be():
    for cls, hyper, message in (
        (fl.Rprop, {"etas": (1.2, 0.5)}, "Rprop: etas must be"),
        (fl.Rprop, {"step_sizes": (2.0, 1.0)}, "Rprop: step_sizes must be"),
        (fl.ScheduleFreeAdamW, {"betas": (0.0, 0.9)}, r"ScheduleFreeAdamW: betas\[0\] must be > 0"),
    ):
        with pytest.raises(ValueError, match=message):
            cls(np.ones(2), **hyper)


@pytest.mark.parametrize("betas", [(0.0, 0.9, 0.99), (0.9, 0.0, 0.0), (0.0, 0.0, 0.0), (0.9, 0.99, 0.5)])
def test_ademamix_warms_up_from_and_to_nothing(betas):
    rng = np.random.default_rng(47)
    w = rng.normal(size=9)
    optimizer = fl.AdEMAMix(w, betas=betas, beta3_warmup=5.0, alpha_warmup=3.0)
    for _ in range(8):
        optimizer.step(rng.normal(size=9))
    assert np.isfinite(w).all()
    states = optimizer.state_dict()["state"]["params"]
    assert all(np.isfinite(s).all() for s in states.values())


def test_numbers_carried_from_step_to_step_are_those_of_each_group():
    rng = np.random.default_rng(48)
    for name in ("NAdam", "ScheduleFreeSGD", "ScheduleFreeAdamW"):
        hypers = [RULES[name].hyper, RULES[name].hyper | {"lr": 0.11, "momentum_decay": 0.3, "r": 1.5}]
        known = getattr(fl, name).rule.hyperparameters
        hypers = [{k: v for k, v in hyper.items() if k in known} | {"maximize": False} for hyper in hypers]
        params = [draw(rng, 33, np.float64) for _ in hypers]
        starts = [p.copy() for p in params]
        optimizer = getattr(fl, name)([{"params": p, **hyper} for p, hyper in zip(params, hypers, strict=True)])
        grads = [[draw(rng, 33, np.float64) for _ in hypers] for _ in range(STEPS)]
        for g in grads:
            optimizer.step(g)
        for k, hyper in enumerate(hypers):
            exact, _, reach = on_paper(name, hyper, starts[k], [g[k] for g in grads])
            assert_near(params[k], exact, 1e-13, reach["param"])


# --- Sophia ---------------------------------------------------------------------------------------------------------------

SOPHIA = RULES["Sophia"].hyper | {"eps": 1e-3, "maximize": False}


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_sophia_with_a_hessian_equals_the_pseudo_code(dtype):
    rng = np.random.default_rng(49)
    w = draw(rng, 2051, dtype)
    expected, held = w.astype(np.float64), {}
    optimizer = fl.Sophia(w, **SOPHIA)
    work = np.float64 if dtype is np.float64 else np.float32
    for t in range(1, STEPS + 1):
        if t % 3 == 1:
            estimate = draw(rng, w.shape, work)  # of both signs
            held["h"] = SOPHIA["betas"][1] * held.get("h", 0.0) + (1 - SOPHIA["betas"][1]) * estimate.astype(np.float64)
            optimizer.update_hessian(estimate)
            assert optimizer.steps == t - 1
        g = draw(rng, w.shape, work)
        optimizer.step(g)
        expected = RULES["Sophia"].paper(expected, g.astype(np.float64), held, t, **SOPHIA)
    tolerance = {np.float16: 2e-2, np.float32: 1e-5, np.float64: 1e-13}[dtype]
    np.testing.assert_allclose(w, expected, rtol=tolerance, atol=tolerance)
    states = optimizer.state_dict()["state"]["params"]
    assert states["hessian"].dtype == work
    relative = {np.float64: 1e-14}.get(dtype, 1e-5)
    np.testing.assert_allclose(states["hessian"], held["h"], rtol=relative, atol=relative)


def test_sophias_hessian_in_every_structure():
    rng = np.random.default_rng(50)
    one, two = rng.normal(size=(3, 4)), rng.normal(size=5)
    estimates = rng.normal(size=(3, 4)), rng.normal(size=5).astype(np.float32)
    beta = SOPHIA["betas"][1]
    for params, given in (
        ([one.copy(), two.copy()], list(estimates)),
        ((one.copy(), two.copy()), tuple(estimates)),
        ({"a": one.copy(), 2: two.copy()}, {2: estimates[1], "a": estimates[0]}),
        ([{"params": one.copy()}, {"params": [two.copy()]}], [estimates[0], [estimates[1]]]),
        ([{"params": {"a": one.copy()}}, {"params": (two.copy(),)}], [{"a": estimates[0]}, [estimates[1]]]),
    ):
        optimizer = fl.Sophia(params, **SOPHIA)
        optimizer.update_hessian(given)
        for array, estimate in zip(optimizer.state_dict()["state"].values(), estimates, strict=True):
            np.testing.assert_allclose(array["hessian"], (1 - beta) * estimate.astype(np.float64), rtol=1e-15)
    grouped = fl.Sophia([{"params": one.copy()}, {"params": two.copy(), "betas": (0.9, 0.5)}])
    grouped.update_hessian(list(estimates))
    states = grouped.state_dict()["state"]
    np.testing.assert_allclose(states["params[1]"]["hessian"], 0.5 * estimates[1].astype(np.float64), rtol=1e-15)
    fl.Sophia([]).update_hessian([])


def test_a_bad_hessian_touches_nothing():
    rng = np.random.default_rng(51)
    params = [rng.normal(size=4), rng.normal(size=5)]
    optimizer = fl.Sophia(params)
    optimizer.update_hessian([np.ones(4), np.ones(5)])
    before = optimizer.state_dict()["state"]
    for bad in ([np.ones(4), np.ones(4)], [np.ones(4)], np.ones(4), [np.ones(4), np.ones(5, int)], None, {"a": np.ones(4)}):
        with pytest.raises((ValueError, TypeError), match=r"^Sophia\.update_hessian: "):
            optimizer.update_hessian(bad)
    with pytest.raises(ValueError, match="betas"):
        optimizer.param_groups[0]["betas"] = (0.9, 1.0)
        optimizer.update_hessian([np.ones(4), np.ones(5)])
    optimizer.param_groups[0]["betas"] = (0.9, 0.99)
    for name, states in optimizer.state_dict()["state"].items():
        np.testing.assert_array_equal(states["hessian"], before[name]["hessian"])


def test_sophia_goes_on_from_its_state():
    rng = np.random.default_rng(52)
    w = rng.normal(size=100)
    grads, estimates = rng.normal(size=(10, 100)), rng.normal(size=(10, 100))
    results = []
    for interrupted in (False, True):
        now = w.copy()
        optimizer = fl.Sophia(now, lr=0.1)
        for t in range(10):
            if interrupted and t == 5:
                saved = optimizer.state_dict()
                optimizer = fl.Sophia(now)
                optimizer.load_state_dict(saved)
            if interrupted and t == 7:
                optimizer = pickle.loads(pickle.dumps(optimizer))
                now = optimizer.param_groups[0]["params"]
            optimizer.update_hessian(estimates[t])
            optimizer.step(grads[t])
        results.append(now)
    np.testing.assert_array_equal(*results)


# --- without a schedule ---------------------------------------------------------------------------------------------------

each_schedule_free = pytest.mark.parametrize("name", ["ScheduleFreeSGD", "ScheduleFreeAdamW"])


@each_schedule_free
@pytest.mark.parametrize("warmup_steps", [0.0, 7.0])
def test_the_mean_of_the_steps(name, warmup_steps):
    """`evaluation_params` is the paper's x, and z and x make up the array."""
    rng = np.random.default_rng(53)
    hyper = RULES[name].hyper | {"warmup_steps": warmup_steps, "maximize": False}
    for dtype, relative in ((np.float64, 1e-13), (np.float32, 3e-5)):
        w = draw(rng, 1025, dtype)
        expected, held = w.astype(np.float64), {}
        optimizer = getattr(fl, name)(w, **hyper)
        np.testing.assert_array_equal(optimizer.evaluation_params(), w)
        assert not np.shares_memory(optimizer.evaluation_params(), w)
        for t in range(1, STEPS + 1):
            g = draw(rng, w.shape, dtype)
            optimizer.step(g)
            expected = RULES[name].paper(expected, g.astype(np.float64), held, t, **hyper)
            mean = optimizer.evaluation_params()
            assert mean.dtype == dtype
            assert_near(mean, held["_x"], relative, np.abs(held["_x"]) + np.abs(held["z"]))
    saved = copy.deepcopy(optimizer.state_dict())
    again = getattr(fl, name)(w.copy(), **hyper)
    again.load_state_dict(saved)
    np.testing.assert_array_equal(again.evaluation_params(), mean)


@each_schedule_free
def test_the_means_structure_is_that_of_the_parameters(name):
    rng = np.random.default_rng(54)
    one, two = rng.normal(size=(3, 4)).astype(np.float16), rng.normal(size=5)
    cls = getattr(fl, name)
    listed = cls([one, two])
    listed.step([one.copy(), two.copy()])
    assert [m.shape for m in listed.evaluation_params()] == [(3, 4), (5,)]
    assert [m.dtype for m in listed.evaluation_params()] == [np.float16, np.float64]
    named = cls({"a": one.copy(), "b": two.copy()})
    assert {key: m.shape for key, m in named.evaluation_params().items()} == {"a": (3, 4), "b": (5,)}
    grouped = cls([{"params": one.copy()}, {"params": {"b": two.copy()}}])
    first, second = grouped.evaluation_params()
    assert first.shape == (3, 4)
    assert second["b"].shape == (5,)
    assert cls([]).evaluation_params() == []


@each_schedule_free
def test_no_learning_rate_is_no_weight(name):
    w = np.array([1.0, -2.0])
    optimizer = getattr(fl, name)(w, lr=0.0)
    for _ in range(3):
        optimizer.step(np.ones(2))
    np.testing.assert_array_equal(w, [1.0, -2.0])
    np.testing.assert_array_equal(optimizer.evaluation_params(), [1.0, -2.0])
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.step(np.ones(2))
    assert (w < [1.0, -2.0]).all()


@each_schedule_free
def test_the_mean_finds_the_minimum_without_a_schedule(name):
    """Of a quadratic with noisy gradients: nearer than the array that is trained."""
    rng = np.random.default_rng(55)
    target = rng.normal(size=500)
    w = np.zeros(500)
    optimizer = getattr(fl, name)(w, lr=0.1)
    for _ in range(1000):
        optimizer.step(w - target + rng.normal(size=500))
    mean = optimizer.evaluation_params()
    assert np.abs(mean - target).mean() < 0.1
    assert np.abs(mean - target).mean() < np.abs(w - target).mean()
