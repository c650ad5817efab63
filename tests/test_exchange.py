"""State to and from torch.optim and Optax: five steps there, five more in both, and the other way round.

Every hyperparameter is away from its default.
"""

import copy
import doctest
import subprocess
import sys

import numpy as np
import pytest

import fastloss as fl
from fastloss.state import optax_state, torch_state

STEPS = 5
SHAPES = ((3, 5), (7,), ())

ADAM = {"lr": 0.013, "betas": (0.83, 0.967), "eps": 3e-4, "weight_decay": 0.071, "maximize": True}
# For every rule that PyTorch has too, the hyperparameters of some variants.
TORCH = {
    "SGD": [
        {"lr": 0.037, "momentum": 0.81, "dampening": 0.23, "weight_decay": 0.061, "maximize": True},
        {"lr": 0.037, "momentum": 0.81, "nesterov": True, "weight_decay": 0.061, "maximize": True},
        {"lr": 0.037, "weight_decay": 0.061, "maximize": True},
    ],
    "Adam": [ADAM, ADAM | {"amsgrad": True}],
    "AdamW": [ADAM, ADAM | {"amsgrad": True}],
    "NAdam": [ADAM | {"momentum_decay": 0.013}, ADAM | {"momentum_decay": 0.013, "decoupled_weight_decay": True}],
    "RAdam": [ADAM, ADAM | {"decoupled_weight_decay": True}],
    "Adamax": [ADAM],
    "RMSprop": [
        {"lr": 0.013, "alpha": 0.87, "eps": 3e-4, "weight_decay": 0.071, "momentum": 0.7, "centered": True, "maximize": True},
        {"lr": 0.013, "alpha": 0.87, "eps": 3e-4, "weight_decay": 0.071, "maximize": True},
    ],
    "Adagrad": [
        {"lr": 0.13, "lr_decay": 0.1, "eps": 3e-4, "weight_decay": 0.071, "initial_accumulator_value": 0.3, "maximize": True}
    ],
    "Adadelta": [{"lr": 0.7, "rho": 0.83, "eps": 3e-4, "weight_decay": 0.071, "maximize": True}],
    "Rprop": [{"lr": 0.013, "etas": (0.6, 1.3), "step_sizes": (1e-4, 0.5), "maximize": True}],
    "ASGD": [{"lr": 0.037, "lambd": 0.02, "alpha": 0.6, "t0": 3.0, "weight_decay": 0.061, "maximize": True}],
}
# For every rule that Optax has too, our hyperparameters, and Optax's.
OPTAX = {
    "SGD": [({"lr": 0.037, "momentum": 0.81, "nesterov": True}, "sgd", {"momentum": 0.81, "nesterov": True})],
    "Adam": [({"lr": 0.037, "betas": (0.83, 0.967), "eps": 3e-4}, "adam", {"b1": 0.83, "b2": 0.967, "eps": 3e-4})],
    "AdamW": [
        (
            {"lr": 0.037, "betas": (0.83, 0.967), "eps": 3e-4, "weight_decay": 0.07},
            "adamw",
            {"b1": 0.83, "b2": 0.967, "eps": 3e-4, "weight_decay": 0.07},
        )
    ],
    "RAdam": [],  # without Optax's threshold, which is another: only the state is the same
    "LAMB": [
        (
            {"lr": 0.037, "betas": (0.83, 0.967), "eps": 3e-4, "weight_decay": 0.071},
            "lamb",
            {"b1": 0.83, "b2": 0.967, "eps": 3e-4, "weight_decay": 0.071},
        )
    ],
    "Adamax": [({"lr": 0.037, "betas": (0.83, 0.967), "eps": 3e-4}, "adamax", {"b1": 0.83, "b2": 0.967, "eps": 3e-4})],
    "Lion": [
        ({"lr": 0.037, "betas": (0.83, 0.967), "weight_decay": 0.07}, "lion", {"b1": 0.83, "b2": 0.967, "weight_decay": 0.07})
    ],
    "RMSprop": [
        (
            {"lr": 0.037, "alpha": 0.87, "eps": 3e-4, "momentum": 0.7, "centered": True},
            "rmsprop",
            {"decay": 0.87, "eps": 3e-4, "momentum": 0.7, "centered": True, "eps_in_sqrt": False},
        )
    ],
    "Adagrad": [],  # Optax has eps under the root
    "Adadelta": [({"lr": 0.7, "rho": 0.83, "eps": 3e-4}, "adadelta", {"rho": 0.83, "eps": 3e-4})],
}


def cases(table):
    return [
        pytest.param(name, *(case if isinstance(case, tuple) else (case,)), id=f"{name}-{k}")
        for name, variants in table.items()
        if name in fl.optimizers.__all__
        for k, case in enumerate(variants)
    ]


def draw(seed=0, dtype=np.float64):
    """Parameters, and gradients for ten steps."""
    rng = np.random.default_rng(seed)
    params = [np.asarray(rng.normal(size=shape)).astype(dtype) for shape in SHAPES]
    return params, [[np.asarray(rng.normal(size=shape)).astype(dtype) for shape in SHAPES] for _ in range(2 * STEPS)]


def assert_close(ours, theirs, dtype=np.float64):
    for mine, other in zip(ours, theirs, strict=True):
        tolerance = 1e-12 if dtype == np.float64 else 2e-5
        np.testing.assert_allclose(mine, np.asarray(other), rtol=tolerance, atol=tolerance)


# --- PyTorch --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def torch():
    found = pytest.importorskip("torch")
    before = found.get_default_dtype()
    # The numbers that it keeps beside the tensors, such as NAdam's product and ASGD's rate, are of the default dtype.
    found.set_default_dtype(found.float64)
    yield found
    found.set_default_dtype(before)


def in_torch(torch, name, params, **hyper):
    tensors = [torch.from_numpy(p.copy()).requires_grad_() for p in params]
    return tensors, getattr(torch.optim, name)(tensors, **hyper)


def step_torch(torch, optimizer, tensors, grads):
    for tensor, grad in zip(tensors, grads, strict=True):
        tensor.grad = torch.from_numpy(grad.copy())
    optimizer.step()


def as_tensors(torch, state):
    """As the docstring of `to_torch_state` says."""
    state["state"] = {
        index: {name: torch.from_numpy(array) for name, array in held.items()} for index, held in state["state"].items()
    }
    return state


def values(tensors):
    return [tensor.detach().numpy() for tensor in tensors]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("name", "hyper"), cases(TORCH))
def test_torch_goes_on_here(torch, name, hyper, dtype):
    params, grads = draw(dtype=dtype)
    tensors, theirs = in_torch(torch, name, params, **hyper)
    for g in grads[:STEPS]:
        step_torch(torch, theirs, tensors, g)
    here = [p.copy() for p in values(tensors)]
    # with other hyperparameters, but those that choose which states there are
    chooses = {k: hyper[k] for k in ("momentum", "amsgrad", "centered") if k in hyper}
    ours = getattr(fl, name)(here, **chooses)
    fl.from_torch_state(ours, theirs.state_dict())
    assert ours.steps == (STEPS if name != "SGD" else int("momentum" in hyper))
    for key, value in hyper.items():
        assert ours.param_groups[0][key] == value
    for g in grads[STEPS:]:
        step_torch(torch, theirs, tensors, g)
        ours.step(g)
    assert_close(here, values(tensors), dtype)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("steps", [0, 1, STEPS])
@pytest.mark.parametrize(("name", "hyper"), cases(TORCH))
def test_torch_goes_on_from_here(torch, name, hyper, steps, dtype):
    here, grads = draw(dtype=dtype)
    ours = getattr(fl, name)(here, **hyper)
    for g in grads[:steps]:
        ours.step(g)
    tensors, theirs = in_torch(torch, name, here)
    exported = fl.to_torch_state(ours)
    for held in exported["state"].values():
        assert all(type(array) is np.ndarray for array in held.values())
    theirs.load_state_dict(as_tensors(torch, exported))
    for g in grads[STEPS:]:
        step_torch(torch, theirs, tensors, g)
        ours.step(g)
    assert_close(here, values(tensors), dtype)
    # the names are PyTorch's, and so are the hyperparameters
    there, exported = theirs.state_dict(), fl.to_torch_state(ours)
    for index, held in there["state"].items():
        assert set(exported["state"][index]) == {key for key, value in held.items() if value is not None}
    assert there["param_groups"][0].keys() >= exported["param_groups"][0].keys()


def test_every_optimizer_that_torch_has_is_tried(torch):
    shared = [name for name in fl.optimizers.__all__ if hasattr(torch.optim, name)]
    assert shared
    assert set(shared) <= set(TORCH)


@pytest.mark.parametrize("name", fl.optimizers.__all__)
def test_there_and_back(name):
    """Every rule, PyTorch's or not, through arrays alone."""
    params, grads = draw()
    ours = getattr(fl, name)(params)
    for g in grads[:STEPS]:
        ours.step(g)
    other = getattr(fl, name)([np.zeros(shape) for shape in SHAPES])
    fl.from_torch_state(other, fl.to_torch_state(ours), steps=STEPS)
    before, after = ours.state_dict(), other.state_dict()
    assert (before["steps"], before["groups"]) == (after["steps"], after["groups"])
    for tensor, states in before["state"].items():
        assert {s: a.tobytes() for s, a in states.items()} == {s: a.tobytes() for s, a in after["state"][tensor].items()}


def test_groups_and_dictionaries_of_torch(torch):
    params, grads = draw()
    tensors = [torch.from_numpy(p.copy()).requires_grad_() for p in params]
    theirs = torch.optim.AdamW([{"params": tensors[:2], "lr": 0.25}, {"params": tensors[2], "eps": 0.5}], weight_decay=0.1)
    here = [p.copy() for p in params]
    ours = fl.AdamW([{"params": {"z": here[0], "a": here[1]}}, {"params": here[2]}])
    for g in grads[:STEPS]:
        step_torch(torch, theirs, tensors, g)
    for mine, tensor in zip(here, tensors, strict=True):
        mine[...] = tensor.detach().numpy()
    fl.from_torch_state(ours, theirs.state_dict())
    assert [(g["lr"], g["eps"], g["weight_decay"]) for g in ours.param_groups] == [(0.25, 1e-8, 0.1), (1e-3, 0.5, 0.1)]
    for g in grads[STEPS:]:
        step_torch(torch, theirs, tensors, g)
        ours.step([{"a": g[1], "z": g[0]}, g[2]])
    assert_close(here, values(tensors))
    theirs.load_state_dict(as_tensors(torch, fl.to_torch_state(ours)))
    assert [g["params"] for g in fl.to_torch_state(ours)["param_groups"]] == [[0, 1], [2]]
    for g in grads:
        step_torch(torch, theirs, tensors, g)
        ours.step([{"a": g[1], "z": g[0]}, g[2]])
    assert_close(here, values(tensors))


def test_tensors_of_torch_bit_for_bit(torch):
    """bfloat16, NaN payloads and negative zeros, views; numbers that are tensors."""
    w = torch.zeros(8, dtype=torch.bfloat16).requires_grad_()
    theirs = torch.optim.Adam([w], lr=torch.tensor(0.25))
    w.grad = torch.ones(8, dtype=torch.bfloat16)
    theirs.step()
    patterns = np.array([0x8000, 0x7FC1, 0xFFC2, 0x7F80, 0x0001, 0x3F81, 0xC123, 0], np.uint16)
    state = theirs.state_dict()
    state["state"][0]["exp_avg"] = torch.from_numpy(patterns.view(np.int16)).view(torch.bfloat16)
    state["state"][0]["exp_avg_sq"] = torch.from_numpy(np.arange(16.0))[::2].requires_grad_()
    ours = fl.Adam([np.zeros(8, np.float32)])
    fl.from_torch_state(ours, state)
    held = ours.state_dict()["state"]["params[0]"]
    np.testing.assert_array_equal(held["exp_avg"].view(np.uint32), patterns.astype(np.uint32) << 16)
    np.testing.assert_array_equal(held["exp_avg_sq"], np.arange(16.0)[::2])
    assert ours.param_groups[0]["lr"] == 0.25
    state["state"][0]["exp_avg"] = torch.zeros(8).to_sparse()
    with pytest.raises(TypeError, match=r"from_torch_state: exp_avg of params\[0\] must be a dense tensor"):
        fl.from_torch_state(ours, state)


def test_step_counts_that_float32_does_not_have():
    ours = fl.Adam(np.zeros(2))
    for steps in (2**24, 2**24 + 1, 2**53 - 1):
        ours.load_state_dict(ours.state_dict() | {"steps": steps})
        exported = fl.to_torch_state(ours)
        assert exported["state"][0]["step"].shape == ()
        assert exported["state"][0]["step"].dtype == (np.float32 if steps == 2**24 else np.float64)
        other = fl.Adam(np.zeros(2))
        fl.from_torch_state(other, exported)
        assert other.steps == steps


def test_what_torch_has_not_begun(torch):
    params, grads = draw()
    _, theirs = in_torch(torch, "Adam", params, **ADAM)
    ours = fl.Adam(params)
    fl.from_torch_state(ours, theirs.state_dict())
    assert (ours.steps, ours.param_groups[0]["eps"]) == (0, 3e-4)
    ours.step(grads[0])
    with pytest.raises(
        ValueError, match="from_torch_state: opt must be new to take over a state without arrays, got one after 1"
    ):
        fl.from_torch_state(ours, theirs.state_dict())
    assert ours.steps == 1


def test_steps_of_sgd_are_given():
    state = {"state": {0: {"momentum_buffer": np.ones(2)}}, "param_groups": [{"momentum": 0.5, "params": [0]}]}
    ours = fl.SGD(np.zeros(2))
    for given, steps in ((None, 1), (7, 7), (np.int64(3), 3)):
        fl.from_torch_state(ours, state, steps=given)
        assert ours.steps == steps
    for bad in (-1, 1.5, float("nan"), float("inf"), "3", [1, 2]):
        with pytest.raises(ValueError, match="from_torch_state: steps must be a whole number, not negative, got"):
            fl.from_torch_state(ours, state, steps=bad)
    # saved by old versions of PyTorch
    fl.from_torch_state(fl.SGD(np.zeros(2)), {"state": {0: {"momentum_buffer": None}}, "param_groups": [{"params": [0]}]})


class Kept(fl.SGD):
    """Stands for a rule with numbers that are carried from step to step."""

    kept = None

    def state_dict(self):
        return copy.deepcopy(self.kept)

    def load_state_dict(self, state_dict):
        self.kept = state_dict


NAdam = type("NAdam", (Kept,), {})
ASGD = type("ASGD", (Kept,), {})


@pytest.mark.parametrize(
    ("cls", "states", "carried"), [(NAdam, ("exp_avg", "exp_avg_sq"), {"mu_product": 1.0}), (ASGD, ("ax",), {})]
)
def test_numbers_that_torch_keeps_for_each_tensor(torch, cls, states, carried):
    """Those that are carried here are a group's; those that follow from the step count are nobody's."""
    name = cls.__name__
    params, grads = draw()
    tensors, theirs = in_torch(torch, name, params, **TORCH[name][0])
    for g in grads[:STEPS]:
        step_torch(torch, theirs, tensors, g)
    ours = cls(params)
    group = {key: 0.0 for key in TORCH[name][0]} | ({"carried": carried} if carried else {})
    zeros = {f"params[{k}]": {state: np.zeros(shape) for state in states} for k, shape in enumerate(SHAPES)}
    ours.kept = {"rule": name, "steps": 0, "groups": [group], "state": zeros}
    fl.from_torch_state(ours, theirs.state_dict())
    there = theirs.state_dict()["state"]
    assert ours.kept["steps"] == STEPS
    assert set(ours.kept["state"]["params[1]"]) == set(states)
    for number in carried:
        assert ours.kept["groups"][0]["carried"][number] == float(there[1][number]) != carried[number]
    again_tensors, again = in_torch(torch, name, values(tensors))
    exported = fl.to_torch_state(ours)
    for index, held in exported["state"].items():
        assert set(held) == set(there[index])
        for key, array in held.items():
            np.testing.assert_allclose(array, there[index][key].numpy(), rtol=1e-6)
    again.load_state_dict(as_tensors(torch, exported))
    for g in grads[STEPS:]:
        step_torch(torch, theirs, tensors, g)
        step_torch(torch, again, again_tensors, g)
    np.testing.assert_allclose(values(again_tensors)[0], values(tensors)[0], rtol=1e-6)


def good_torch_state():
    held = {"step": 3, "exp_avg": np.ones(2), "exp_avg_sq": np.ones(2)}
    return {"state": {0: dict(held), 1: dict(held)}, "param_groups": [{"lr": 0.5, "params": [0, 1]}]}


BAD_TORCH_STATES = {
    "no states": (lambda d: d.pop("state"), "state and param_groups"),
    "no groups": (lambda d: d.pop("param_groups"), "state and param_groups"),
    "states that are a list": (lambda d: d.update(state=[]), "state must be a dictionary"),
    "a state that is a list": (lambda d: d["state"].update({0: []}), "state must be a dictionary of dictionaries"),
    "groups that are a number": (lambda d: d.update(param_groups=5), "param_groups must be a list"),
    "a group that is a number": (lambda d: d.update(param_groups=[5]), "param_groups must be a list"),
    "a group without tensors": (lambda d: d["param_groups"][0].pop("params"), "with params"),
    "too few tensors": (lambda d: d["param_groups"][0].update(params=[0]), r"groups of \[2\] tensors, got \[1\]"),
    "too many groups": (lambda d: d["param_groups"].append({"params": []}), r"groups of \[2\] tensors, got \[2, 0\]"),
    "a state of no tensor": (lambda d: d["state"].update({2: {}}), "of the tensors in param_groups, got 2"),
    "a tensor without a state": (lambda d: d["state"].pop(1), r"every tensor must have a state .* got none for params\[1\]"),
    "different steps": (lambda d: d["state"][1].update(step=4), r"step must be one number, .* got \[3, 4\]"),
    "no steps": (lambda d: [s.pop("step") for s in d["state"].values()], "step must be one number"),
    "half a step": (lambda d: [s.update(step=2.5) for s in d["state"].values()], "steps must be a whole number"),
    "a shape": (lambda d: d["state"][1].update(exp_avg=np.ones(3)), r"exp_avg of params\[1\] must be"),
    "integers": (lambda d: d["state"][1].update(exp_avg=np.ones(2, int)), r"exp_avg of params\[1\] must be"),
    "text": (lambda d: d["state"][1].update(exp_avg="12"), r"exp_avg of params\[1\] must be"),
    "a state missing": (lambda d: d["state"][1].pop("exp_avg_sq"), r"params\[1\] must hold exp_avg, exp_avg_sq"),
    "an unknown state": (lambda d: d["state"][1].update(square_avg=np.ones(2)), r"params\[1\] must hold"),
    "a hyperparameter outside its domain": (lambda d: d["param_groups"][0].update(lr=-1.0), "lr must be"),
}


def test_coupled_decay_is_another_rule():
    ours = fl.AdamW(np.ones(2))
    state = fl.to_torch_state(ours)
    state["param_groups"][0]["decoupled_weight_decay"] = False
    with pytest.raises(ValueError, match="decoupled_weight_decay must be True for AdamW, got False"):
        fl.from_torch_state(ours, state)


@pytest.mark.parametrize("case", BAD_TORCH_STATES)
def test_bad_torch_states_load_nothing(case):
    change, match = BAD_TORCH_STATES[case]
    ours = fl.Adam([np.zeros(2), np.zeros(2)], lr=0.125)
    ours.step([np.ones(2), np.ones(2)])
    before = ours.state_dict()
    state = good_torch_state()
    fl.from_torch_state(fl.Adam([np.zeros(2), np.zeros(2)]), state)
    change(state)
    with pytest.raises((ValueError, TypeError), match=match):
        fl.from_torch_state(ours, state)
    after = ours.state_dict()
    assert (after["steps"], after["groups"]) == (1, before["groups"])
    for name, states in before["state"].items():
        for key, array in states.items():
            assert after["state"][name][key].tobytes() == array.tobytes()


@pytest.mark.parametrize("bad", [None, 5, [], "state", {}], ids=repr)
def test_what_is_no_torch_state(bad):
    with pytest.raises(ValueError, match="from_torch_state: torch_state must be a dictionary of state and param_groups, got"):
        fl.from_torch_state(fl.SGD(np.zeros(2)), bad)


# --- Optax ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def optax():
    found = pytest.importorskip("optax")
    jax = pytest.importorskip("jax")
    with jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64():
        yield found


def structures():
    """(what the user holds, made of three arrays) in every structure."""
    yield "list", list
    yield "dictionary", lambda a: {"z": a[0], "a": a[1], "mu": a[2]}
    yield "array", lambda a: a[0]


each_structure = pytest.mark.parametrize("structure", [s for _, s in structures()], ids=[name for name, _ in structures()])


def leaves(tree):
    return list(tree.values()) if isinstance(tree, dict) else tree if isinstance(tree, list) else [tree]


def optimizer_of_optax(optax, factory, hyper, own):
    """Wrapped and chained, as users have it: the fields lie deep."""
    return optax.chain(
        optax.clip_by_global_norm(1e9), optax.chain(getattr(optax, factory)(hyper["lr"], **own), optax.identity())
    )


def step_optax(optax, optimizer, params, state, grads):
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state


def like(tree, other):
    """NumPy's copies of the arrays of `other`, in the order of `tree`: JAX sorts dictionaries."""
    if isinstance(tree, dict):
        return {key: np.array(other[key]) for key in tree}
    return [np.array(array) for array in other] if isinstance(tree, list) else np.array(other)


@each_structure
@pytest.mark.parametrize(("name", "hyper", "factory", "own"), cases(OPTAX))
def test_optax_goes_on_here_and_back(optax, name, hyper, factory, own, structure):
    import jax.numpy as jnp
    from jax import tree_util

    arrays, grads = draw()
    optimizer = optimizer_of_optax(optax, factory, hyper, own)
    params = tree_util.tree_map(jnp.asarray, structure(arrays))
    state = optimizer.init(params)
    for g in grads[:STEPS]:
        params, state = step_optax(optax, optimizer, params, state, structure(g))
    here = like(structure(arrays), params)
    ours = getattr(fl, name)(here, **hyper)
    fl.from_optax_state(ours, state, steps=STEPS)
    assert ours.steps == STEPS
    for g in grads[STEPS:]:
        params, state = step_optax(optax, optimizer, params, state, structure(g))
        ours.step(structure(g))
    assert_close(leaves(here), leaves(like(here, params)))
    # and back, into a state that has just begun
    exported = fl.to_optax_state(ours)
    fresh = optax.tree_utils.tree_set(optimizer.init(params), **exported)
    params = tree_util.tree_map(jnp.asarray, like(here, here))
    for g in grads:
        params, fresh = step_optax(optax, optimizer, params, fresh, structure(g))
        ours.step(structure(g))
    assert_close(leaves(here), leaves(like(here, params)))


def test_every_counterpart_of_optax_is_tried():
    assert set(OPTAX) == set(optax_state.COUNTERPARTS)


def test_the_tables_name_states_that_the_rules_have():
    for name in fl.optimizers.__all__:
        rule = getattr(fl, name).rule
        if name in optax_state.COUNTERPARTS:
            assert set(optax_state.COUNTERPARTS[name].fields) <= set(rule.states)
        if name in torch_state.COUNTERPARTS:
            known = {*rule.states, *rule.hyperparameters, *getattr(rule, "carried", ())}
            assert set(torch_state.COUNTERPARTS[name].renamed) <= known


def test_groups_are_a_list_for_optax(optax):
    import jax.numpy as jnp

    arrays, grads = draw()
    own = {"b1": 0.83, "b2": 0.967, "eps": 3e-4}
    here = [p.copy() for p in arrays]
    ours = fl.Adam([{"params": {"b": here[0], "a": here[1]}}, {"params": here[2]}], lr=0.037, betas=(0.83, 0.967), eps=3e-4)
    optimizer = optax.adam(0.037, **own)
    params = [{"b": jnp.asarray(arrays[0]), "a": jnp.asarray(arrays[1])}, jnp.asarray(arrays[2])]
    state = optimizer.init(params)
    for g in grads[:STEPS]:
        params, state = step_optax(optax, optimizer, params, state, [{"b": g[0], "a": g[1]}, g[2]])
    for mine, other in zip(here, [params[0]["b"], params[0]["a"], params[1]], strict=True):
        mine[...] = other
    fl.from_optax_state(ours, state)
    for g in grads[STEPS:]:
        params, state = step_optax(optax, optimizer, params, state, [{"b": g[0], "a": g[1]}, g[2]])
        ours.step([{"b": g[0], "a": g[1]}, g[2]])
    assert_close(here, [params[0]["b"], params[0]["a"], params[1]])
    exported = fl.to_optax_state(ours)
    assert [set(exported["mu"][0]), exported["mu"][1].shape] == [{"a", "b"}, ()]
    assert exported["count"].dtype == np.int32
    with pytest.raises(ValueError, match="mu must be a list of 2 entries, one for each group"):
        fl.from_optax_state(ours, exported | {"mu": exported["mu"][0]})


@each_structure
@pytest.mark.parametrize("name", [name for name in optax_state.COUNTERPARTS if name in fl.optimizers.__all__])
def test_there_and_back_by_the_names_of_optax(name, structure):
    arrays, grads = draw()
    ours, other = (getattr(fl, name)(structure([p.copy() for p in arrays]), lr=0.5) for _ in range(2))
    for g in grads[:STEPS]:
        ours.step(structure(g))
    fl.from_optax_state(other, fl.to_optax_state(ours), steps=STEPS)
    before, after = ours.state_dict(), other.state_dict()
    assert (before["steps"], before["groups"]) == (after["steps"], after["groups"])
    for tensor, states in before["state"].items():
        assert {s: a.tobytes() for s, a in states.items()} == {s: a.tobytes() for s, a in after["state"][tensor].items()}


RMSprop = type("RMSprop", (Kept,), {})


def test_what_optax_multiplies_by_the_learning_rate(optax):
    ours = RMSprop([np.zeros(3)])
    held = {"square_avg": np.ones(3), "momentum_buffer": np.full(3, 2.0)}
    ours.kept = {"rule": "RMSprop", "steps": 4, "groups": [{"lr": 0.25}], "state": {"params[0]": held}}
    exported = fl.to_optax_state(ours)
    assert set(exported) == {"nu", "trace"}
    assert exported["trace"][0].tolist() == [-0.5] * 3
    fl.from_optax_state(ours, exported, steps=9)
    assert ours.kept["steps"] == 9
    assert ours.kept["state"]["params[0]"]["momentum_buffer"].tolist() == [2.0] * 3
    ours.kept["groups"][0]["lr"] = 0.0
    with pytest.raises(ValueError, match="from_optax_state: lr must not be 0"):
        fl.from_optax_state(ours, exported)


def test_steps_beyond_the_count_of_optax():
    ours = fl.Adam(np.zeros(2))
    ours.load_state_dict(ours.state_dict() | {"steps": 2**40})
    assert fl.to_optax_state(ours)["count"] == 2**31 - 1


def test_what_optax_does_not_have():
    with pytest.raises(ValueError, match="to_optax_state: Adam must have states that Optax has, got max_exp_avg_sq"):
        fl.to_optax_state(fl.Adam(np.zeros(2), amsgrad=True))
    other = type("Other", (Kept,), {})(np.zeros(2))
    for who, call in (("to", fl.to_optax_state), ("from", lambda opt: fl.from_optax_state(opt, {}))):
        with pytest.raises(ValueError, match=f"{who}_optax_state: opt must be one of SGD, .* got Other"):
            call(other)


def good_optax_state():
    return {"count": 3, "mu": {"w": np.ones(2), "b": np.ones(())}, "nu": {"w": np.ones(2), "b": np.ones(())}}


BAD_OPTAX_STATES = {
    "no count": (lambda d: d.pop("count"), "count must be there, and the same throughout, got none"),
    "two counts": (lambda d: d.update(inner={"count": 4}), r"got \[3, 4\]"),
    "a negative count": (lambda d: d.update(count=-3), "steps must be a whole number"),
    "no moment": (lambda d: d.pop("mu"), "must hold exp_avg, exp_avg_sq"),
    "a moment twice": (lambda d: d.update(inner=[{"mu": d["mu"]}]), "mu must be there once, got 2"),
    "a tensor missing": (lambda d: d["mu"].pop("b"), r"mu must be a dictionary of \['b', 'w'\], got \['w'\]"),
    "a tensor too many": (lambda d: d["mu"].update(c=np.ones(2)), "mu must be a dictionary"),
    "a list": (lambda d: d.update(nu=[np.ones(2), np.ones(())]), "nu must be a dictionary .* got list"),
    "a shape": (lambda d: d["nu"].update(w=np.ones(3)), r"exp_avg_sq of params\['w'\] must be"),
    "integers": (lambda d: d["nu"].update(w=np.ones(2, int)), r"exp_avg_sq of params\['w'\] must be"),
}


@pytest.mark.parametrize("case", BAD_OPTAX_STATES)
def test_bad_optax_states_load_nothing(case):
    change, match = BAD_OPTAX_STATES[case]
    ours = fl.Adam({"w": np.zeros(2), "b": np.zeros(())})
    state = good_optax_state()
    fl.from_optax_state(ours, state)
    before = ours.state_dict()
    change(state)
    with pytest.raises((ValueError, TypeError), match=match):
        fl.from_optax_state(ours, state)
    assert ours.steps == before["steps"] == 3
    assert all((a == 1).all() for held in ours.state_dict()["state"].values() for a in held.values())
    with pytest.raises(ValueError, match="mu must be a list of 2 arrays, got"):
        fl.from_optax_state(fl.Adam([np.zeros(2), np.zeros(())]), good_optax_state())


@pytest.mark.parametrize("bad", [None, 5, fl.SGD, np.zeros(2)], ids=lambda b: type(b).__name__)
def test_what_is_no_optimizer(bad):
    for name in ("to_torch_state", "to_optax_state", "from_torch_state", "from_optax_state"):
        with pytest.raises(TypeError, match=f"^{name}: opt must be an optimizer of fastloss, got"):
            getattr(fl, name)(bad, *([{}] if name.startswith("from") else []))


def test_neither_torch_nor_optax_is_imported():
    program = """
import sys, numpy as np, fastloss as fl
o = fl.Adam(np.zeros(2)); o.step(np.ones(2))
fl.from_torch_state(o, fl.to_torch_state(o)); fl.from_optax_state(o, fl.to_optax_state(o))
assert not {"torch", "optax", "jax", "ml_dtypes", "safetensors"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.parametrize("name", fl.state.__all__)
def test_examples_run(name):
    example = doctest.DocTestParser().get_doctest(getattr(fl, name).__doc__, {"np": np}, name, None, 0)
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0
