"""State on disk: every bit comes back, or an error says why not and nothing has changed."""

import builtins
import errno
import itertools
import json
import os
import pickle
import re
import stat
import subprocess
import sys
import textwrap
import threading
import tracemalloc

import numpy as np
import pytest

import fastloss as fl
from fastloss.state import saving, tensors

HYPER = {"lr": 0.1, "betas": (0.83, 1 / 3), "eps": 3e-4, "weight_decay": 5e-324, "amsgrad": True, "maximize": True}


def new(seed=0, steps=3, **changed):
    rng = np.random.default_rng(seed)
    params = {"layer.0/weight": rng.normal(size=(3, 5)).astype(np.float32), "bias": rng.normal(size=7)}
    optimizer = fl.Adam(params, **HYPER | changed)
    for _ in range(steps):
        optimizer.step({name: rng.normal(size=p.shape) for name, p in params.items()})
    return optimizer


def assert_same(ours, theirs):
    """Equal to the last bit."""
    assert {k: v for k, v in ours.items() if k != "state"} == {k: v for k, v in theirs.items() if k != "state"}
    assert list(ours["state"]) == list(theirs["state"])
    for name, states in ours["state"].items():
        assert list(states) == list(theirs["state"][name])
        for state, array in states.items():
            other = theirs["state"][name][state]
            assert (array.dtype.newbyteorder("="), array.shape) == (other.dtype.newbyteorder("="), other.shape)
            assert np.ascontiguousarray(array, array.dtype).tobytes() == other.astype(array.dtype).tobytes()


def rewritten(whole, change=lambda header: None, change_metadata=lambda metadata: None, data=lambda data: data):
    """The file with its header changed and the checksum made to agree, as an author with bad intent would."""
    import zlib

    length = int.from_bytes(whole[:8], "little")
    header, body = json.loads(whole[8 : 8 + length]), data(whole[8 + length :])
    change_metadata(header["__metadata__"])
    change(header)
    if isinstance(header.get("__metadata__"), dict) and "checksum" in header["__metadata__"]:
        header["__metadata__"]["checksum"] = f"{zlib.crc32(body, zlib.crc32(tensors._canonical(header))):08x}"
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def in_json(key, change):
    """A change of a dictionary that lies in the metadata as text."""

    def changed(metadata):
        inner = json.loads(metadata[key])
        change(inner)
        metadata[key] = json.dumps(inner)

    return changed


class Keeper(fl.SGD):
    """An optimizer whose state dictionary is whatever it was given."""

    kept = None

    def state_dict(self):
        return self.kept

    def load_state_dict(self, state_dict):
        self.kept = state_dict


def keeper(kept, params):
    optimizer = Keeper(params)
    optimizer.kept = kept
    return optimizer


def through_a_file(tmp_path, kept, params):
    fl.save_state(tmp_path / "s", keeper(kept, params))
    empty = keeper({"rule": kept["rule"], "state": {name: {} for name in kept["state"]}}, params)
    fl.load_state(tmp_path / "s", empty)
    return empty.kept


# --- round trips ----------------------------------------------------------------------------------------------------------


def test_a_run_goes_on_bitwise_from_its_file(tmp_path):
    path = tmp_path / "state.safetensors"
    whole, first = new(), new()
    fl.save_state(path, first)
    second = new(1, steps=1, lr=7.0, eps=1.0, amsgrad=False, maximize=False)
    for name, param in second.param_groups[0]["params"].items():
        param[...] = first.param_groups[0]["params"][name]
    fl.load_state(path, second)
    assert_same(second.state_dict(), whole.state_dict())
    for optimizer in (whole, second):
        optimizer.step({name: np.full(p.shape, 0.3) for name, p in optimizer.param_groups[0]["params"].items()})
    for name, param in whole.param_groups[0]["params"].items():
        assert second.param_groups[0]["params"][name].tobytes() == param.tobytes()
    assert os.listdir(tmp_path) == ["state.safetensors"]


@pytest.mark.fault(51)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_payloads_and_negative_zeros_of_an_optimizer(tmp_path, dtype):
    optimizer, other = fl.Adam(np.zeros(64, dtype)), fl.Adam(np.zeros(64, dtype))
    saved = optimizer.state_dict()
    whole = np.dtype(f"u{np.dtype(dtype).itemsize}")
    rng = np.random.default_rng(3)
    for array in saved["state"]["params"].values():
        patterns = rng.integers(0, 2**64, 64, np.uint64).astype(whole)
        patterns[:3] = np.array([-0.0, np.nan, -np.nan], dtype).view(whole)
        patterns[3:5] = np.array([np.inf, -np.inf], dtype).view(whole) | whole.type(0x1234)  # signalling
        array.view(whole)[...] = patterns
    optimizer.load_state_dict(saved)
    fl.save_state(tmp_path / "s", optimizer)
    fl.load_state(tmp_path / "s", other)
    assert_same(other.state_dict(), saved)


def bits(dtype, shape):
    """Any bits at all."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    return np.random.default_rng(5).integers(0, 256, size, np.uint8).view(dtype).reshape(shape)


def dtypes():
    return ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", pytest.importorskip("ml_dtypes").bfloat16]


LAYOUTS = {
    "contiguous": lambda a: a,
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "Fortran": np.asfortranarray,
    "transposed": lambda a: a.T,
    "strided": lambda a: a[::2, 1::2],
    "reversed": lambda a: a[::-1, ::-1],
    "broadcast": lambda a: np.broadcast_to(a[:, :1], a.shape),
    "0-d": lambda a: a[2, 3, ...],
    "empty": lambda a: a[:, 4:4],
    "no rows": lambda a: a[:0],
    "unaligned": lambda a: np.frombuffer(b"x" + a.tobytes(), np.uint8)[1:].view(a.dtype).reshape(a.shape),
    "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_arrays_of_every_dtype_and_layout(tmp_path, layout):
    for dtype in dtypes():
        array = LAYOUTS[layout](bits(dtype, (6, 8)))
        kept = {"rule": "Keeper", "steps": 1, "groups": [], "state": {"params": {"a": array, "b": bits("f8", (3,))}}}
        assert_same(through_a_file(tmp_path, kept, np.zeros(100)), kept)
    flags = {"rule": "Keeper", "state": {"params": {"a": LAYOUTS[layout](np.eye(6, 8, dtype=bool))}}}
    assert_same(through_a_file(tmp_path, flags, np.zeros(100)), flags)


def test_whatever_groups_and_states_hold_comes_back(tmp_path):
    floats = [0.1, 1 / 3, -0.0, 5e-324, 1.7976931348623157e308, 1e22, 2.0**53 + 2, 1e16]
    group = {
        "lr": 0.1,
        "flag": True,
        "none": None,
        "count": 2**70,
        "text": 'ü "\\\n\x00\ud800',
        "floats": floats,
        "carried": {"mu_product": 1 / 3, "sum": {"deep": [1.5, [None, {}]]}},
    }
    states = {"ema": np.arange(3.0), "compensation": np.float32([1, 2]), "": np.zeros(1)}
    kept = {"rule": "Any", "steps": 2**53, "groups": [group, {}], "later": {"version": [2]}, "state": {"params": states}}
    again = through_a_file(tmp_path, kept, np.zeros(3))
    assert_same(again, kept)
    assert json.dumps(again["groups"]) == json.dumps(kept["groups"])  # tells -0.0 from 0.0 and 1 from True
    assert [x.hex() for x in again["groups"][0]["floats"]] == [x.hex() for x in floats]


def test_numbers_of_every_kind_are_hyperparameters(tmp_path):
    betas = [np.float32(0.7), np.array(0.25)]
    optimizer = fl.Adam(np.zeros(2), lr=np.float32(0.1), betas=betas, amsgrad=np.True_, eps=np.int64(1))
    fl.save_state(tmp_path / "s", optimizer)
    again = fl.Adam(np.zeros(2))
    fl.load_state(tmp_path / "s", again)
    group = again.param_groups[0]
    assert (group["lr"], group["betas"]) == (float(np.float32(0.1)), (float(np.float32(0.7)), 0.25))
    assert (group["amsgrad"], group["eps"]) == (True, 1.0)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (float("nan"), ValueError),
        (-np.inf, ValueError),
        (1j, TypeError),
        (np.ones(2), TypeError),
        (object, TypeError),
        ({1: 2.0}, TypeError),
    ],
    ids=repr,
)
def test_what_json_does_not_hold_is_not_saved(tmp_path, value, error):
    kept = {"rule": "Any", "groups": [{"own": {"deep": [value]}}], "state": {"params": {}}}
    with pytest.raises(error, match=r"^save_state: groups\[0\]\['own'\]\['deep'\]\[0\]"):
        fl.save_state(tmp_path / "s", keeper(kept, np.zeros(2)))
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("dtype", ["c16", "O", "U3", "M8[s]", "longdouble"])
def test_arrays_that_the_format_does_not_have(tmp_path, dtype):
    kept = {"rule": "Any", "state": {"params": {"a": np.zeros(2, dtype)}}}
    with pytest.raises(TypeError, match=r"^save_state: params\.a must be an array of float64, .*got"):
        fl.save_state(tmp_path / "s", keeper(kept, np.zeros(2)))
    assert not os.listdir(tmp_path)


NAMES = [
    "layer.0/weight",
    "",
    "__metadata__",
    "a.exp_avg",
    "a",
    "ü 損失 🔥",
    "'\"\\\n\x00",
    "\ud800",
    "x" * 10_000,
    7,
    None,
    (1, "b"),
]


def test_names_of_all_characters(tmp_path):
    def build():
        return fl.Adam({name: np.full(k + 1, 1.0) for k, name in enumerate(NAMES)})

    optimizer = build()
    optimizer.step({name: np.full(k + 1, k + 0.5) for k, name in enumerate(NAMES)})
    fl.save_state(tmp_path / "s", optimizer)
    again = build()
    fl.load_state(tmp_path / "s", again)
    assert_same(again.state_dict(), optimizer.state_dict())


def test_names_that_meet_when_joined(tmp_path):
    state = {"a": {"b.c": np.zeros(1), "b.c'": np.ones(1)}, "a.b": {"c": np.full(1, 2.0), "c'": np.full(1, 3.0)}}
    kept = {"rule": "Any", "state": state}
    assert_same(through_a_file(tmp_path, kept, [np.zeros(1), np.zeros(1)]), kept)


@pytest.mark.parametrize("params", [[], {}, [np.zeros(0)], np.zeros(()), np.zeros((0, 3)), [np.zeros(1, np.float16)]], ids=repr)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_little_or_nothing_to_save(tmp_path, params, momentum):
    optimizer = fl.SGD(params, momentum=momentum)
    fl.save_state(tmp_path / "s", optimizer)
    again = fl.SGD(params, momentum=momentum, lr=3.0)
    fl.load_state(tmp_path / "s", again)
    assert_same(again.state_dict(), optimizer.state_dict())


def test_groups_of_parameters(tmp_path):
    def build(lr):
        return fl.SGD([{"params": {"w": np.ones((2, 3)), "b": np.ones(3)}, "lr": lr}, {"params": np.ones(4)}], momentum=0.9)

    optimizer = build(0.25)
    optimizer.step([{"w": np.ones((2, 3)), "b": np.full(3, 2.0)}, np.full(4, 3.0)])
    fl.save_state(tmp_path / "s", optimizer)
    again = build(0.5)
    fl.load_state(tmp_path / "s", again)
    assert_same(again.state_dict(), optimizer.state_dict())
    assert [group["lr"] for group in again.param_groups] == [0.25, 1e-3]


def test_other_readers_of_the_format_see_the_same(tmp_path):
    safetensors = pytest.importorskip("safetensors")
    from safetensors.numpy import load_file

    optimizer = new()
    fl.save_state(tmp_path / "s", optimizer)
    expected = {f"{n}.{s}": array for n, states in optimizer.state_dict()["state"].items() for s, array in states.items()}
    found = load_file(tmp_path / "s")
    assert set(found) == set(expected)
    for key, array in expected.items():
        assert (found[key].dtype, found[key].shape, found[key].tobytes()) == (array.dtype, array.shape, array.tobytes())
    with safetensors.safe_open(tmp_path / "s", "np") as file:
        assert file.metadata()["format"] == "fastloss.optimizer"
        assert file.metadata()["version"] == "1"


def test_bfloat16_without_its_package(tmp_path, monkeypatch):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    kept = {"rule": "Any", "state": {"params": {"a": np.ones(2, ml_dtypes.bfloat16)}}}
    fl.save_state(tmp_path / "b", keeper(kept, np.zeros(2)))
    fl.save_state(tmp_path / "f", new())
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ImportError, match=r"^load_state: '.*b': ml_dtypes must be installed .*fastloss\[state\]"):
        fl.load_state(tmp_path / "b", keeper({"rule": "Any", "state": {"params": {}}}, np.zeros(2)))
    fl.load_state(tmp_path / "f", new(1))


# --- what stands around an optimizer --------------------------------------------------------------------------------------

WEIGHTS = {"w": (3, 5), "b": (7,), "half": (4,)}


def weights_of_all_kinds(seed=0):
    rng = np.random.default_rng(seed)
    dtypes = (np.float32, np.float64, np.float16)
    return {name: rng.normal(size=shape).astype(dtype) for (name, shape), dtype in zip(WEIGHTS.items(), dtypes, strict=True)}


def gradients(seed):
    rng = np.random.default_rng(100 + seed)
    return {name: rng.normal(size=shape) for name, shape in WEIGHTS.items()}


def adamw(params, **options):
    return fl.AdamW(params, lr=0.03, rounding="compensated", ema_decay=0.75, cautious=True, **options)


def grouped(params):
    groups = [{"params": {name: array}, "lr": 0.1 / (k + 1)} for k, (name, array) in enumerate(params.items())]
    return fl.NAdam(groups, momentum_decay=0.3)


AROUND = {
    "Lookahead(AdamW)": lambda params, **own: fl.Lookahead(adamw(params), **{"k": 3, "alpha": 1 / 3} | own),
    "SAM(AdamW)": lambda params, **own: fl.SAM(adamw(params), **{"rho": 0.1, "adaptive": True} | own),
    "Lookahead(SAM(AdamW))": lambda params, **own: fl.Lookahead(fl.SAM(adamw(params), 0.1), **{"k": 3, "alpha": 0.25} | own),
    "Lookahead(Lookahead(AdamW))": lambda params, **own: fl.Lookahead(
        fl.Lookahead(adamw(params), k=2, alpha=0.125), **{"k": 3, "alpha": 0.25} | own
    ),
    "Lookahead(NAdam)": lambda params, **own: fl.Lookahead(grouped(params), **{"k": 3} | own),
    "SAM(SGD)": lambda params, **own: fl.SAM(fl.SGD(params, lr=0.1), **{"rho": 0.2} | own),
}


def same_bits(ours, theirs):
    """Equal to the last bit, however deep."""
    if isinstance(ours, dict):
        return list(ours) == list(theirs) and all(same_bits(value, theirs[key]) for key, value in ours.items())
    if isinstance(ours, np.ndarray):
        return (ours.dtype, ours.shape, ours.tobytes()) == (theirs.dtype, theirs.shape, theirs.tobytes())
    return ours == theirs


def advance(optimizer, steps):
    in_groups = len(optimizer.param_groups) > 1
    for t in steps:
        grads = [{name: g} for name, g in gradients(t).items()] if in_groups else gradients(t)
        inner = optimizer
        while not isinstance(inner, fl.Optimizer):
            if isinstance(inner, fl.SAM):
                inner.ascend(grads)
            inner = inner.optimizer
        optimizer.step(grads)


@pytest.mark.parametrize("kind", AROUND)
@pytest.mark.parametrize("done", [0, 1, 4])
def test_a_wrapped_run_goes_on_bitwise_from_its_file(tmp_path, kind, done):
    build = AROUND[kind]
    params = weights_of_all_kinds()
    whole = build(params)
    advance(whole, range(done))
    fl.save_state(tmp_path / "s", whole)
    name, value = ("rho", 0.7) if kind.startswith("SAM") else ("alpha", 0.875)
    second = build(weights_of_all_kinds(1), **{name: value})
    advance(second, range(1))
    for own, array in zip([g["params"] for g in second.param_groups], [g["params"] for g in whole.param_groups], strict=True):
        for key in own:
            own[key][...] = array[key]
    others = {key: own for group in second.param_groups for key, own in group["params"].items()}
    fl.load_state(tmp_path / "s", second)
    assert getattr(second, name) == getattr(whole, name) and second.steps == done
    for optimizer in (whole, second):
        advance(optimizer, range(done, done + 7))
    for key, array in params.items():
        assert others[key].tobytes() == array.tobytes()
    assert same_bits(second.state_dict(), whole.state_dict())


def test_averages_and_scales_go_on_from_their_files(tmp_path):
    params = weights_of_all_kinds()
    average, other = fl.WeightAverage(params, decay=0.8), fl.WeightAverage(weights_of_all_kinds(1))
    scaler, again = fl.LossScaler(96.0, 3.0, 0.25, 3), fl.LossScaler()
    optimizer = fl.SGD(params, lr=0.1)
    for t in range(4):
        scaler.step(optimizer, gradients(t))
        average.update()
    fl.save_state(tmp_path / "average", average)
    fl.save_state(tmp_path / "scaler", scaler)
    fl.load_state(tmp_path / "average", other)
    fl.load_state(tmp_path / "scaler", again)
    assert same_bits(other.state_dict(), average.state_dict())
    assert again.state_dict() == scaler.state_dict()


def kinds():
    params = weights_of_all_kinds()
    found = {kind: build(params) for kind, build in AROUND.items()}
    return found | {
        "AdamW": adamw(params),
        "WeightAverage": fl.WeightAverage(params),
        "LossScaler": fl.LossScaler(),
    }


@pytest.mark.parametrize("kind", kinds())
def test_a_state_of_another_kind_is_not_loaded(tmp_path, kind):
    saved = kinds()[kind]
    fl.save_state(tmp_path / "s", saved)
    for name, other in kinds().items():
        if name != kind:
            before = other.state_dict()
            with pytest.raises(
                ValueError, match=rf"^load_state: .*got a state of {re.escape(kind)}, not of {re.escape(name)}$"
            ):
                fl.load_state(tmp_path / "s", other)
            assert same_bits(other.state_dict(), before)


def test_a_wrapped_state_for_other_parameters_is_not_loaded(tmp_path):
    for k, (kind, build) in enumerate(AROUND.items()):
        fl.save_state(tmp_path / str(k), build(weights_of_all_kinds()))
        for shape in ((3, 4), (3, 6)):
            other = build(weights_of_all_kinds() | {"w": np.zeros(shape, np.float32)})
            before = other.state_dict()
            if kind == "SAM(SGD)":  # no arrays
                continue
            with pytest.raises(ValueError, match=r"^load_state: .*(of shape|shape)"):
                fl.load_state(tmp_path / str(k), other)
            assert same_bits(other.state_dict(), before)


WRAPPED = {
    "no count of steps since": (in_json("optimizer", lambda o: o.pop("since")), "dictionary of rule"),
    "a count that is none": (in_json("optimizer", lambda o: o.update(since=-1)), "since must be"),
    "an unknown state": (
        in_json("names", lambda n: n["params['b']"].update(x=n["params['b']"].pop("slow"))),
        "unknown state x",
    ),
    "no slow weights": (in_json("names", lambda n: n["params['b']"].pop("slow")), "belongs to no tensor"),
    "a bad number inside": (in_json("optimizer", lambda o: o["optimizer"]["groups"][0].update(lr=-1)), "AdamW: lr must be"),
    "nothing inside": (in_json("optimizer", lambda o: o.update(optimizer=5)), r"of Lookahead, not of Lookahead\(AdamW\)"),
}


@pytest.mark.parametrize("case", WRAPPED)
def test_bad_metadata_of_what_is_wrapped(tmp_path, case):
    change, match = WRAPPED[case]
    build = AROUND["Lookahead(AdamW)"]
    fl.save_state(tmp_path / "s", build(weights_of_all_kinds()))
    other = build(weights_of_all_kinds(1))
    advance(other, range(2))
    before = other.state_dict()
    (tmp_path / "s").write_bytes(rewritten((tmp_path / "s").read_bytes(), change_metadata=change))
    with pytest.raises(ValueError, match=match):
        fl.load_state(tmp_path / "s", other)
    assert same_bits(other.state_dict(), before)


def test_between_ascend_and_step_nothing_is_saved_or_loaded(tmp_path):
    sam = AROUND["SAM(AdamW)"](weights_of_all_kinds())
    fl.save_state(tmp_path / "s", sam)
    before = (tmp_path / "s").read_bytes()
    sam.ascend(gradients(0))
    for call in (fl.save_state, fl.load_state):
        with pytest.raises(RuntimeError, match="SAM: its state must be saved or loaded after step"):
            call(tmp_path / "s", sam)
    assert (tmp_path / "s").read_bytes() == before


# --- files that are not what they must be ---------------------------------------------------------------------------------


def refused(path, optimizer, match="", error=ValueError):
    """Loading says who, which file, and what; the optimizer is as before."""
    before = optimizer.state_dict()
    with pytest.raises(error, match=match or None) as caught:
        fl.load_state(path, optimizer)
    assert str(caught.value).startswith(f"load_state: {str(path)!r} must ")
    assert len(str(caught.value)) < 2000
    assert_same(optimizer.state_dict(), before)


@pytest.fixture
def saved(tmp_path):
    """The bytes of a file, where to put others, and an optimizer that has gone elsewhere."""
    path = tmp_path / "state"
    fl.save_state(path, new())
    return path.read_bytes(), path, new(1, lr=0.7)


@pytest.mark.fault(49)
def test_truncated_everywhere(saved):
    whole, path, other = saved
    for length in itertools.chain(range(0, len(whole), 7), range(40), range(len(whole) - 40, len(whole))):
        path.write_bytes(whole[:length])
        refused(path, other)
    path.write_bytes(whole + b"\0")
    refused(path, other)


def test_flipped_bits_everywhere(saved):
    """In numbers too: the checksum tells. What still loads is what was saved."""
    whole, path, other = saved
    expected = new().state_dict()
    before = other.state_dict()
    loaded = 0
    for position in range(len(whole)):
        broken = bytearray(whole)
        broken[position] ^= 1 << position % 8
        path.write_bytes(broken)
        try:
            fl.load_state(path, other)
        except ValueError:
            continue
        loaded += 1
        assert_same(other.state_dict(), expected)
        other.load_state_dict(before)
    assert loaded < 20
    assert_same(other.state_dict(), before)


WEIGHT, BIAS = "params['layer.0/weight'].exp_avg", "params['bias'].exp_avg"


METADATA = {
    "another format": (lambda m: m.update(format="pt"), "got format 'pt'"),
    "no format": (lambda m: m.pop("format"), "got format None"),
    "version 2": (lambda m: m.update(version="2"), r"fastloss.optimizer 1 .*got version '2'"),
    "no version": (lambda m: m.pop("version"), "version"),
    "a version that is a number": (lambda m: m.update(version=1), "texts"),
    "no checksum": (lambda m: m.pop("checksum"), "checksum"),
    "no state": (lambda m: m.pop("optimizer"), "state that is no JSON"),
    "a state that is a list": (lambda m: m.update(optimizer="[]"), "no dictionary"),
    "no names": (lambda m: m.pop("names"), "table of names"),
    "deep JSON": (lambda m: m.update(optimizer="[" * 10**5), "no JSON"),
    "deep dictionaries": (lambda m: m.update(names='{"a":' * 10**5), "no JSON"),
    "a number of many digits": (lambda m: m.update(optimizer='{"steps": ' + "9" * 10**5 + "}"), "no JSON"),
    "a step count beyond all bounds": (in_json("optimizer", lambda o: o.update(steps=10**400)), "steps"),
    "negative steps": (in_json("optimizer", lambda o: o.update(steps=-1)), "steps"),
    "another rule": (in_json("optimizer", lambda o: o.update(rule="AdamW")), "got a state of AdamW, not of Adam"),
    "no rule": (in_json("optimizer", lambda o: o.pop("rule")), "got a state of None, not of Adam"),
    "a rule around it": (in_json("optimizer", lambda o: o.update(optimizer={})), r"got a state of Adam\(None\), not of Adam"),
    "an extra key": (in_json("optimizer", lambda o: o.update(more=1)), "dictionary of rule"),
    "the states twice": (in_json("optimizer", lambda o: o.update(state={})), ""),
    "no groups": (in_json("optimizer", lambda o: o.update(groups=[])), "groups"),
    "groups that are a number": (in_json("optimizer", lambda o: o.update(groups=5)), "groups"),
    "a hyperparameter outside its domain": (in_json("optimizer", lambda o: o["groups"][0].update(lr=-1)), "lr"),
    "a hyperparameter that is NaN": (in_json("optimizer", lambda o: o["groups"][0].update(lr=float("nan"))), "lr"),
    "a hyperparameter that is a list": (in_json("optimizer", lambda o: o["groups"][0].update(lr=[])), "lr"),
    "a hyperparameter missing": (in_json("optimizer", lambda o: o["groups"][0].pop("eps")), "eps"),
    "an unknown hyperparameter": (in_json("optimizer", lambda o: o["groups"][0].update(rho=1)), "rho"),
    "a tensor missing": (in_json("names", lambda n: n.pop("params['bias']")), r"no tensor params\['bias'\]"),
    "a tensor too many": (in_json("names", lambda n: n.update(x={})), "an unknown tensor x"),
    "a state missing": (in_json("names", lambda n: n["params['bias']"].pop("exp_avg")), "belongs to no tensor"),
    "an unknown state": (
        in_json("names", lambda n: n["params['bias']"].update(x=n["params['bias']"].pop("exp_avg"))),
        "exp_avg",
    ),
    "one array for two states": (in_json("names", lambda n: n["params['bias']"].update(exp_avg=WEIGHT)), "no array"),
    "an array that is not there": (in_json("names", lambda n: n["params['bias']"].update(x="y")), "no array for x"),
    "an array named by a list": (in_json("names", lambda n: n["params['bias']"].update(x=[])), "no array for x"),
    "states that are a list": (in_json("names", lambda n: n.update({"params['bias']": []})), "no table"),
    "the wrong parameter's": (
        in_json(
            "names", lambda n: (n["params['bias']"].update(exp_avg=WEIGHT), n["params['layer.0/weight']"].update(exp_avg=BIAS))
        ),
        "shape",
    ),
}


@pytest.mark.parametrize("case", METADATA)
def test_bad_metadata(saved, case):
    whole, path, other = saved
    change, match = METADATA[case]
    path.write_bytes(rewritten(whole, change_metadata=change))
    if case == "the states twice":  # those of the arrays count
        fl.load_state(path, other)
        assert_same(other.state_dict(), new().state_dict())
    else:
        refused(path, other, match)


HEADERS = {
    "no metadata": lambda h: h.pop("__metadata__"),
    "metadata that are a list": lambda h: h.update(__metadata__=[]),
    "an entry that is a number": lambda h: h.update({BIAS: 5}),
    "an entry without a shape": lambda h: h[BIAS].pop("shape"),
    "an entry with more": lambda h: h[BIAS].update(more=1),
    "an unknown dtype": lambda h: h[BIAS].update(dtype="F128"),
    "a dtype that is a list": lambda h: h[BIAS].update(dtype=[]),
    "a dtype of NumPy's": lambda h: h[BIAS].update(dtype="O"),
    "another dtype": lambda h: h[BIAS].update(dtype="I64"),
    "a narrower dtype": lambda h: h[BIAS].update(dtype="F32"),
    "a negative size": lambda h: h[BIAS].update(shape=[-7]),
    "a fractional size": lambda h: h[BIAS].update(shape=[7.0]),
    "a size that is a bool": lambda h: h[BIAS].update(shape=[7, True]),
    "a shape that is a number": lambda h: h[BIAS].update(shape=7),
    "another shape": lambda h: h[WEIGHT].update(shape=[5, 3]),
    "more dimensions": lambda h: h[WEIGHT].update(shape=[3, 5, 1]),
    "a hundred dimensions": lambda h: h[WEIGHT].update(shape=[3, 5] + [1] * 100),
    "an absurd size": lambda h: h[BIAS].update(shape=[2**62]),
    "a size beyond all bounds": lambda h: h[BIAS].update(shape=[10**400]),
    "a product that overflows to what is there": lambda h: h[BIAS].update(shape=[2**32, 2**32, 7]),
    "nothing of an absurd size": lambda h: h.update(x={"dtype": "F64", "shape": [0, 2**62], "data_offsets": [0, 0]}),
    "offsets beyond the file": lambda h: h[BIAS].update(data_offsets=[2**40, 2**40 + 56]),
    "negative offsets": lambda h: h[BIAS].update(data_offsets=[-56, 0]),
    "offsets the wrong way round": lambda h: h[BIAS].update(data_offsets=h[BIAS]["data_offsets"][::-1]),
    "one offset": lambda h: h[BIAS].update(data_offsets=h[BIAS]["data_offsets"][:1]),
    "offsets that are texts": lambda h: h[BIAS].update(data_offsets=["0", "56"]),
    "the place of another": lambda h: h[BIAS].update(data_offsets=h["params['bias'].exp_avg_sq"]["data_offsets"]),
    "an array missing": lambda h: h.pop(BIAS),
    "an array too many": lambda h: h.update(x={"dtype": "F64", "shape": [0], "data_offsets": [0, 0]}),
    "nothing": lambda h: h.clear(),
}


@pytest.mark.parametrize("case", HEADERS)
def test_bad_headers(saved, case):
    whole, path, other = saved
    path.write_bytes(rewritten(whole, HEADERS[case]))
    refused(path, other)


def test_the_author_with_bad_intent_can_write_good_files(saved):
    """Otherwise the cases above would fail for their checksums alone."""
    whole, path, other = saved
    path.write_bytes(rewritten(whole))
    fl.load_state(path, other)
    assert_same(other.state_dict(), new().state_dict())


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def foreign():
    yield "empty", b""
    yield "seven bytes", bytes(7)
    yield "zeros", bytes(1000)
    yield "ones", b"\xff" * 1000
    yield "text", b"# Readme\n" * 100
    yield "pickle", pickle.dumps(Bomb())
    yield (
        "npy",
        b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(128) + pickle.dumps([Bomb()]),
    )
    for name, text in (
        ("a list", b"[]"),
        ("a number", b"5"),
        ("nothing", b"{}"),
        ("null", b"null"),
        ("no JSON", b"{'a': 1}"),
        ("two", b"{}{}"),
        ("no UTF-8", b'{"\xff": 1}'),
        ("deep lists", b"[" * 10**6),
        ("deep dictionaries", b'{"a":' * 10**6),
        ("wide lists", b"[" + b"[]," * 10**6 + b"[]]"),
        ("a number of many digits", b'{"a": ' + b"9" * 10**6 + b"}"),
        ("many names", json.dumps({str(k): 0 for k in range(10**5)}).encode()),
        ("a long name", json.dumps({"x" * 10**6: {"dtype": "F64", "shape": [1], "data_offsets": [0, 1]}}).encode()),
    ):
        yield name, len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(("case", "content"), list(foreign()), ids=[case for case, _ in foreign()])
def test_what_is_not_of_the_format(tmp_path, monkeypatch, case, content):
    """Deep and wide JSON, names without end; what pickles would have done is not done."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s").write_bytes(content)
    optimizer = new()
    refused(tmp_path / "s", optimizer)
    assert os.listdir(tmp_path) == ["s"]


def test_files_of_safetensors_that_hold_something_else(tmp_path):
    save_file = pytest.importorskip("safetensors.numpy").save_file
    for metadata in (None, {"format": "pt"}):
        save_file({"weight": np.ones(3)}, tmp_path / "s", metadata)
        refused(tmp_path / "s", new(), "fastloss.optimizer 1 for this optimizer, got format")


@pytest.mark.fault(49)
@pytest.mark.parametrize(
    ("length", "entry"),
    [
        (2**36 - 8, None),  # a header as large as the file
        (tensors.MOST_HEADER + 1, None),
        (2**63, None),
        (None, {"dtype": "F64", "shape": [2**33], "data_offsets": [0, 2**36]}),
    ],
)
def test_a_large_file_takes_no_memory(saved, length, entry):
    """Files with holes: 64 GiB of which no block is on the disk."""
    whole, path, other = saved
    if entry:
        header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
        text = json.dumps({"__metadata__": header["__metadata__"], WEIGHT: entry}).encode()
        start, size = len(text).to_bytes(8, "little") + text, 8 + len(text) + 2**36
    else:
        start, size = length.to_bytes(8, "little"), 2**36
    path.write_bytes(start)
    os.truncate(path, size)
    tracemalloc.start()
    try:
        refused(path, other)
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()


def test_a_header_that_could_not_be_read_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(tensors, "MOST_HEADER", 500)
    with pytest.raises(ValueError, match=r"^save_state: the names and hyperparameters must fit into 500 bytes, got"):
        fl.save_state(tmp_path / "s", new())
    assert not os.listdir(tmp_path)


def test_a_file_that_shrinks_while_it_is_read(saved, monkeypatch):
    whole, path, other = saved
    read = tensors.Reader.read

    def late(reader):
        os.truncate(path, len(whole) - 8)
        return read(reader)

    # larger than what was buffered with the header
    big = fl.SGD(np.zeros(10**5), momentum=0.5)
    fl.save_state(path, big)
    whole = path.read_bytes()
    monkeypatch.setattr(tensors.Reader, "read", late)
    refused(path, big, "an end within params.momentum_buffer")
    assert other.steps == 3


@pytest.mark.parametrize(
    "other",
    [
        lambda: fl.AdamW({"layer.0/weight": np.zeros((3, 5)), "bias": np.zeros(7)}),
        lambda: fl.Adam({"layer.0/weight": np.zeros((3, 5))}),
        lambda: fl.Adam({"layer.0/weight": np.zeros((3, 5)), "bias": np.zeros(7), "more": np.zeros(1)}),
        lambda: fl.Adam({"layer.0/weight": np.zeros((3, 5)), "Bias": np.zeros(7)}),
        lambda: fl.Adam({"layer.0/weight": np.zeros((5, 3)), "bias": np.zeros(7)}),
        lambda: fl.Adam({"layer.0/weight": np.zeros((3, 5)), "bias": np.zeros(6)}),
        lambda: fl.Adam({"layer.0/weight": np.zeros((3, 5)), "bias": np.zeros(8)}),
        lambda: fl.Adam({"layer.0/weight": np.zeros((3, 5)), "bias": np.zeros(0)}),
        lambda: fl.Adam([np.zeros((3, 5)), np.zeros(7)]),
        lambda: fl.Adam([{"params": {"layer.0/weight": np.zeros((3, 5)), "bias": np.zeros(7)}}]),
        lambda: fl.Adam(np.zeros(22)),
        lambda: fl.Adam([]),
    ],
)
def test_another_optimizers_file(saved, other):
    _, path, _ = saved
    refused(path, other())


# --- full disks, interruptions --------------------------------------------------------------------------------------------


class Failing:
    """A file whose `nth` write does not succeed."""

    def __init__(self, file, nth, error):
        self.file, self.left, self.error = file, nth, error

    def __enter__(self):
        self.file.__enter__()
        return self

    def __exit__(self, *what):
        return self.file.__exit__(*what)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data):
        if not self.left:
            self.file.write(bytes(data)[: len(data) // 2])
            raise self.error
        self.left -= 1
        return self.file.write(data)


def open_failing(nth, error):
    return lambda *args: Failing(builtins.open(*args), nth, error)


def fails_with(error):
    def fail(*_, **__):
        raise error

    return fail


FULL, STOP = OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()


@pytest.mark.parametrize("error", [FULL, STOP], ids=["full", "interrupted"])
@pytest.mark.parametrize("where", ["open", "replace", "fsync", *range(4)])
@pytest.mark.parametrize("is_there", [True, False])
def test_the_old_file_stays_intact(tmp_path, monkeypatch, where, error, is_there):
    path = tmp_path / "s"
    if is_there:
        fl.save_state(path, new())
    before = path.read_bytes() if is_there else None
    with monkeypatch.context() as patch:
        if where == "open":
            patch.setattr(saving, "open", fails_with(error), raising=False)
        elif isinstance(where, str):
            patch.setattr(os, where, fails_with(error))
        else:
            patch.setattr(saving, "open", open_failing(where, error), raising=False)
        with pytest.raises(type(error)) as caught:
            fl.save_state(path, new(1))
        assert caught.value is error
    assert os.listdir(tmp_path) == ["s"] * is_there
    assert not is_there or path.read_bytes() == before
    fl.save_state(path, new(1))
    other = new(2)
    fl.load_state(path, other)
    assert_same(other.state_dict(), new(1).state_dict())


@pytest.mark.fault(50)
def test_a_disk_that_is_really_full(tmp_path):
    """As far as one process can fill it: a limit on the size of its files."""
    resource = pytest.importorskip("resource")
    assert resource
    path = tmp_path / "s"
    small = fl.SGD(np.zeros(10), momentum=0.5)
    fl.save_state(path, small)
    before = path.read_bytes()
    program = f"""
        import resource, signal
        import numpy as np, fastloss as fl
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            fl.save_state({str(path)!r}, fl.SGD(np.zeros(10**6), momentum=0.5))
        except OSError as error:
            print(error.errno)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60, check=True
    )
    assert int(done.stdout) == errno.EFBIG
    assert os.listdir(tmp_path) == ["s"]
    assert path.read_bytes() == before


def test_all_is_on_the_disk_before_the_name_and_the_folder_after(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace

    def seen_fsync(fd):
        status = os.fstat(fd)
        events.append(("sync", stat.S_IFMT(status.st_mode), status.st_size))
        fsync(fd)

    def seen_replace(*names):
        events.append(("replace", *names))
        replace(*names)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(os, "replace", seen_replace)
    fl.save_state(tmp_path / "s", new())
    (first, kind, size), (second, beside, name), (third, folder, _) = events
    assert (first, second, third) == ("sync", "replace", "sync")
    assert (kind, folder) == (stat.S_IFREG, stat.S_IFDIR)
    assert size == (tmp_path / "s").stat().st_size
    assert os.path.dirname(beside) == os.path.dirname(name) == os.path.realpath(tmp_path)


def test_file_systems_that_cannot_sync_a_folder(tmp_path, monkeypatch):
    fsync = os.fsync

    def on_files_only(fd):
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", on_files_only)
    fl.save_state(tmp_path / "s", new())
    fl.load_state(tmp_path / "s", new(1))


def test_concurrent_savers_and_a_reader(tmp_path):
    """Each file that is ever seen is whole and of one saver."""
    path = tmp_path / "s"
    optimizers = [fl.SGD(np.zeros(20_000), lr=float(k), momentum=0.5) for k in range(1, 4)]
    for k, optimizer in enumerate(optimizers, start=1):
        optimizer.step(np.full(20_000, float(k)))
    fl.save_state(path, optimizers[0])
    failures, done = [], threading.Event()

    def save(optimizer):
        try:
            for _ in range(15):
                fl.save_state(path, optimizer)
        except BaseException as error:
            failures.append(error)

    def load():
        reader = fl.SGD(np.zeros(20_000), momentum=0.5)
        try:
            while not done.is_set():
                fl.load_state(path, reader)
                assert (reader.state_dict()["state"]["params"]["momentum_buffer"] == reader.param_groups[0]["lr"]).all()
        except BaseException as error:
            failures.append(error)

    reading = threading.Thread(target=load)
    threads = [threading.Thread(target=save, args=(optimizer,)) for optimizer in optimizers]
    for thread in (reading, *threads):
        thread.start()
    for thread in threads:
        thread.join(60)
    done.set()
    reading.join(60)
    assert not failures
    assert os.listdir(tmp_path) == ["s"]


# --- paths ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["дом ü 損失", "with space", "x" * 255, os.fsdecode(b"\xff\xfe"), ".hidden", "new\nline"])
def test_paths_of_all_characters(tmp_path, name):
    folder = tmp_path / "дом ü 損失"
    folder.mkdir()
    for path in (folder / name, str(folder / name)):
        fl.save_state(path, new())
        other = new(1)
        fl.load_state(path, other)
        assert_same(other.state_dict(), new().state_dict())
    assert os.listdir(folder) == [name]
    (folder / name).write_bytes(b"")
    refused(folder / name, new())


def test_a_path_relative_to_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fl.save_state("s", new())
    fl.load_state("s", new(1))
    assert os.listdir(tmp_path) == ["s"]


@pytest.mark.parametrize("bad", [None, 5, b"bytes", ["s"], 1.5], ids=repr)
def test_what_is_no_path(bad):
    for who, call in (("save_state", fl.save_state), ("load_state", fl.load_state)):
        with pytest.raises(TypeError, match=rf"^{who}: path must be a text or an os.PathLike, got {type(bad).__name__}"):
            call(bad, new())


@pytest.mark.parametrize("bad", [None, {}, fl.huber, fl.SGD, np.zeros(2)], ids=lambda b: type(b).__name__)
def test_what_is_no_optimizer(tmp_path, bad):
    for who, call in (("save_state", fl.save_state), ("load_state", fl.load_state)):
        with pytest.raises(TypeError, match=rf"^{who}: opt must be an optimizer of fastloss, .*got {type(bad).__name__}"):
            call(tmp_path / "s", bad)
    assert not os.listdir(tmp_path)


def test_folders_pipes_and_devices_are_refused(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("folder")
    monkeypatch.chdir(tmp_path)
    cases = [
        ("folder", "a folder"),
        ("link", "a folder"),
        (".", "a folder"),
        ("pipe", "a device, pipe"),
        ("/dev/null", "a device"),
    ]
    for path, what in cases:
        for who, call in (("save_state", fl.save_state), ("load_state", fl.load_state)):
            with pytest.raises(ValueError, match=f"^{who}: path must be a file, got {what}"):
                call(path, new())
    with pytest.raises(ValueError, match="a folder"):
        fl.save_state("", new())
    assert sorted(os.listdir(tmp_path)) == ["folder", "link", "pipe"]
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_what_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        fl.load_state(tmp_path / "s", new())
    with pytest.raises(FileNotFoundError):
        fl.save_state(tmp_path / "no folder" / "s", new())
    (tmp_path / "loop").symlink_to("loop")
    for call in (fl.save_state, fl.load_state):
        with pytest.raises(OSError, match="symbolic links"):
            call(tmp_path / "loop", new())
    assert os.listdir(tmp_path) == ["loop"]


def test_links_stay_and_their_targets_are_replaced(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for link in (tmp_path / "a" / "absolute", tmp_path / "a" / "relative"):
        target = tmp_path / "b" / link.name
        link.symlink_to(target if link.name == "absolute" else f"../b/{link.name}")
        for seed in (0, 1):  # a target that is not there yet, and one that is
            fl.save_state(link, new(seed))
            assert link.is_symlink()
            assert not target.is_symlink()
            other = new(2)
            fl.load_state(target, other)
            assert_same(other.state_dict(), new(seed).state_dict())
    assert sorted(os.listdir(tmp_path / "b")) == ["absolute", "relative"]


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077, 0])
def test_permissions_are_those_of_any_new_file(tmp_path, umask):
    before = os.umask(umask)
    try:
        fl.save_state(tmp_path / "s", new())
        (tmp_path / "plain").write_bytes(b"")
    finally:
        os.umask(before)
    assert (tmp_path / "s").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666])
def test_permissions_of_a_file_stay(tmp_path, mode):
    fl.save_state(tmp_path / "s", new())
    (tmp_path / "s").chmod(mode)
    fl.save_state(tmp_path / "s", new(1))
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == mode


def test_files_of_this_version_can_be_read_for_ever(tmp_path):
    """Written by version 1, byte by byte: a change that cannot read it needs a new version."""
    text = (
        b'{"__metadata__":{"format":"fastloss.optimizer","version":"1","optimizer":"{\\"rule\\": \\"SGD\\", \\"steps\\": 2, '
        b'\\"groups\\": [{\\"lr\\": 0.5, \\"momentum\\": 0.25, \\"dampening\\": 0.0, \\"nesterov\\": false, '
        b'\\"weight_decay\\": 0.0, \\"maximize\\": true}]}","names":"{\\"params[\'w\']\\": {\\"momentum_buffer\\": '
        b'\\"params[\'w\'].momentum_buffer\\"}}","checksum":"dd568232"},'
        b'"params[\'w\'].momentum_buffer":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    )
    params = {"w": np.zeros(2, np.float32)}
    optimizer = keeper({"rule": "SGD", "state": {"params['w']": {}}}, params)
    path = tmp_path / "s"
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"\0\0\x80\x3f\0\0\x40\xc0")
    fl.load_state(path, optimizer)
    group = {"lr": 0.5, "momentum": 0.25, "dampening": 0.0, "nesterov": False, "weight_decay": 0.0, "maximize": True}
    state = {"params['w']": {"momentum_buffer": np.array([1, -3], np.float32)}}
    assert_same(optimizer.kept, {"rule": "SGD", "steps": 2, "groups": [group], "state": state})
