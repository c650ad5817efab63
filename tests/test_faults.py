"""The faults of losses and what must happen, by the row in the table of faults. Nothing is written before an error."""

import itertools
import math
import os
import re
import shutil
import subprocess
import sys
import textwrap
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import fastloss as fl
from fastloss._kernels.cpu import engine
from fastloss.formula import Interval

from . import inputs

BY_LOSS = pytest.mark.parametrize("case", inputs.ONE_EACH, ids=str)
METHODS = {"v": "__call__", "g": "grad", "vg": "value_and_grad", "gh": "grad_and_hess", "vgh": "value_grad_hess"}
SENTINEL = 77


def call(case, arrays, method="value_grad_hess", **options):
    return getattr(case.loss, method)(*arrays.values(), **{**case.parameters, **options})


class Outputs:
    """Outputs full of a sentinel, and whether they still are."""

    def __init__(self, case, shape, dtype=np.float64, **replaced):
        several = len(case.formula.differentiable) > 1
        self.arrays = []

        def new():
            self.arrays.append(np.full(shape, SENTINEL, dtype))
            return self.arrays[-1]

        self.given = {"reduction": "none", "value_out": new()}
        for name in ("grad_out", "hess_out"):
            self.given[name] = tuple(new() for _ in case.formula.differentiable) if several else new()
        self.given |= replaced

    def assert_untouched(self):
        for array in self.arrays:
            assert (array == SENTINEL).all()


def refuses(error, message, case, arrays, shape=None, dtype=np.float64, **options):
    """Assert that all five methods raise this, message and all, and write nothing."""
    shape = np.shape(next(iter(arrays.values()))) if shape is None else shape
    outputs = Outputs(case, shape, dtype, **options)
    allowed = {"v": ("value_out",), "g": ("grad_out",), "vg": ("value_out", "grad_out"), "gh": ("grad_out", "hess_out")}
    for want, method in METHODS.items():
        given = {k: v for k, v in outputs.given.items() if not k.endswith("_out") or k in allowed.get(want, (k,))}
        if any(k in options and k not in given for k in ("value_out", "grad_out", "hess_out")):
            continue
        with pytest.raises(error) as caught:
            call(case, arrays, method, **given)
        assert str(caught.value) == message or re.fullmatch(message, str(caught.value)), str(caught.value)
        assert type(caught.value) is error
        outputs.assert_untouched()


def python(code, *arguments, cwd=None, flags=(), timeout=60, **environment):
    """Run a program in an interpreter of its own; an environment variable of None is taken out."""
    settings = {k: v for k, v in (os.environ | environment).items() if v is not None}
    command = [sys.executable, *flags, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, env=settings, cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False)


def prints(run, text):
    assert (run.returncode, run.stdout.strip()) == (0, text), run.stderr


# --- shapes and layout ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 3), (4,), (2, 3, 4), (3, 1, 4), (0,), (3, 0), (2, 1)], ids=str)
@BY_LOSS
def test_01_a_target_that_does_not_broadcast(case, shape):
    arrays = inputs.blocks(case, (3, 4))
    if shape == (4,):
        shape = (3,)
    for name in case.formula.inputs[1:]:
        wrong = np.resize(arrays[name], shape)
        message = f"{case.name}: {name} must broadcast to {case.formula.inputs[0]}'s shape (3, 4), got {shape}"
        refuses(ValueError, message, case, arrays | {name: wrong}, (3, 4))
    message = f"{case.name}: sample_weight must broadcast to {case.formula.inputs[0]}'s shape (3, 4), got {shape}"
    refuses(ValueError, message, case, arrays, (3, 4), sample_weight=np.ones(shape))


@BY_LOSS
def test_01_the_first_input_is_never_broadcast(case):
    arrays = {name: array[:1] if i == 0 else array for i, (name, array) in enumerate(inputs.columns(case, 5).items())}
    second = case.formula.inputs[1]
    message = f"{case.name}: {second} must broadcast to {case.formula.inputs[0]}'s shape (1,), got (5,)"
    refuses(ValueError, message, case, arrays, (1,))


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0, 2)], ids=str)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@BY_LOSS
def test_02_zero_elements(case, dtype, shape):
    arrays = inputs.blocks(case, shape, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for array in inputs.flatten(call(case, arrays, reduction="none")):
            assert (array.shape, array.dtype) == (shape, np.dtype(dtype))
        assert call(case, arrays, reduction="sum")[0] == 0.0
        assert call(case, arrays, normalizer=2.0)[0] == 0.0
    said = f"{case.name}: the mean of nothing is nan (no elements, or all weights are zero)"
    for options in ({}, {"sample_weight": np.ones(shape)}, {"normalizer": "samples"}):
        with pytest.warns(RuntimeWarning, match=re.escape(said)) as caught:
            value, *rest = call(case, arrays, **options)
        assert caught[0].filename == __file__, "the warning points at the caller"
        assert np.isnan(value)
        assert all(array.shape == shape for array in inputs.flatten(tuple(rest)))


@BY_LOSS
def test_04_scalars_and_0_d_arrays(case):
    row = inputs.columns(case, 1)
    for value, grad, hess in (
        call(case, {name: float(a[0]) for name, a in row.items()}, reduction="none"),
        call(case, {name: a[0] for name, a in row.items()}, reduction="none"),
        call(case, {name: a.reshape(()) for name, a in row.items()}, reduction="none"),
    ):
        expected = call(case, row, reduction="none")
        for found, wanted in zip(inputs.flatten((value, grad, hess)), inputs.flatten(expected), strict=True):
            assert np.shape(found) == ()
            assert found.dtype == np.float64
            assert found == wanted[0]
    assert type(call(case, {name: float(a[0]) for name, a in row.items()}, "__call__")) is float


def test_04_scalars_of_the_arrays_precision():
    assert fl.huber.grad(np.float32(2), 1).dtype == np.float32
    assert fl.huber.grad(2.0, np.float32(1)).dtype == np.float64


# 6: layouts, test_layouts.py.


@pytest.mark.parametrize("name", ["value_out", "grad_out", "hess_out"])
@pytest.mark.parametrize("layout", ["unaligned", "byte_swapped"])
@BY_LOSS
def test_07_unaligned_and_byte_swapped_outputs(case, layout, name):
    arrays = inputs.blocks(case, (3, 4))
    out = inputs.AWKWARD[layout](np.full((3, 4), SENTINEL, np.float64))
    several = len(case.formula.differentiable) > 1 and name != "value_out"
    said = f"{name}[0]" if several else name
    message = f"{case.name}: {said} must be aligned and in native byte order"
    refuses(ValueError, message, case, arrays, **{name: (out, np.empty((3, 4))) if several else out})
    assert (out == SENTINEL).all()


@BY_LOSS
def test_08_outputs_that_overlap_themselves(case):
    arrays = inputs.blocks(case, (3, 4))
    memory = np.full(12, SENTINEL, np.float64)
    strided = np.lib.stride_tricks.as_strided
    for out in (strided(memory, (3, 4), (0, 8)), strided(memory, (3, 4), (16, 8)), strided(memory, (3, 4), (8, 8))):
        message = f"{case.name}: value_out must not share memory with itself"
        refuses(ValueError, message, case, arrays, value_out=out)
        assert (memory == SENTINEL).all()


@BY_LOSS
def test_08_outputs_that_overlap_each_other(case):
    arrays = inputs.blocks(case, (12,))
    several = len(case.formula.differentiable) > 1
    said = "grad_out[0]" if several else "grad_out"
    for start in (0, 1, 11):
        memory = np.full(40, SENTINEL, np.float64)
        value_out, out = memory[:12], memory[start : start + 12]
        grad_out = (out, np.full(12, SENTINEL, np.float64)) if several else out
        refuses(
            ValueError,
            f"{case.name}: {said} must not share memory with another output",
            case,
            arrays,
            value_out=value_out,
            grad_out=grad_out,
        )
        assert (memory == SENTINEL).all()
    if several:
        with pytest.raises(ValueError, match=re.escape(f"{case.name}: grad_out[1] must not share memory with another output")):
            call(case, arrays, "grad", grad_out=(memory[:12], memory[6:18]))
        assert (memory == SENTINEL).all()


@BY_LOSS
def test_08_a_reduced_value_inside_a_gradient(case):
    """The sum must not overwrite an element of the gradient, nor may it be lost: refused, or both are right."""
    arrays = inputs.columns(case, 5)
    expected = call(case, arrays, "grad", reduction="sum")
    several = len(case.formula.differentiable) > 1
    out = np.full(5, SENTINEL, np.float64)
    given = (out, np.full(5, SENTINEL, np.float64)) if several else out
    with pytest.raises(ValueError) as caught:
        call(case, arrays, "value_and_grad", reduction="sum", value_out=out[1:2].reshape(()), grad_out=given)
        inputs.assert_same(given, expected)
    name = "grad_out[0]" if several else "grad_out"
    assert str(caught.value) == f"{case.name}: {name} must not share memory with another output"
    assert (out == SENTINEL).all()


def test_08_a_reduced_value_may_replace_an_element_of_an_input():
    pred, target = np.arange(5.0), np.zeros(5)
    fl.squared_error(pred, target, reduction="sum", value_out=pred[2:3].reshape(()))
    assert pred.tolist() == [0, 1, 30, 3, 4]


def test_08_outputs_interleaved_in_one_block_of_memory():
    """They span the same bytes but share none: right, or refused."""
    memory = np.full((50, 2), SENTINEL, np.float64)
    pred, target = np.linspace(0, 1, 50), np.zeros(50)
    value, grad = fl.squared_error.value_and_grad(pred, target, reduction="none")
    try:
        fl.squared_error.value_and_grad(pred, target, reduction="none", value_out=memory[:, 0], grad_out=memory[:, 1])
    except ValueError as error:
        assert str(error) == "squared_error: grad_out must not share memory with another output"
        assert (memory == SENTINEL).all()
    else:
        inputs.assert_same((memory[:, 0], memory[:, 1]), (value, grad))


# 9: outputs that are inputs, test_losses.py. 10: more than 2**31 elements, test_layouts.py. 11: halves, test_losses.py.

# --- types ---------------------------------------------------------------------------------------------------------------

UNREAL = {
    "complex": np.ones(4, np.complex64),
    "longdouble": np.ones(4, np.longdouble),
    "object": np.array([1.0, None, 2, 3], dtype=object),
    "string": np.array(["1", "2", "3", "4"]),
    "bytes": np.array([b"1", b"2", b"3", b"4"]),
    "datetime": np.array(["2020-01-01"] * 4, dtype="datetime64[D]"),
    "timedelta": np.ones(4, "timedelta64[s]"),
    "void": np.ones(4, [("a", np.float64)]),
}


@pytest.mark.parametrize("kind", UNREAL)
@BY_LOSS
def test_12_arrays_that_are_not_real(case, kind):
    arrays = inputs.columns(case, 4)
    wrong = UNREAL[kind]
    expected = "must hold real numbers (float16 to float64, bfloat16, integers or bool)"
    for name in case.formula.inputs:
        refuses(TypeError, f"{case.name}: {name} {expected}, got dtype {wrong.dtype}", case, arrays | {name: wrong}, (4,))
    refuses(TypeError, f"{case.name}: sample_weight {expected}, got dtype {wrong.dtype}", case, arrays, sample_weight=wrong)


@pytest.mark.parametrize("wrong", [None, "text", {}, object, 1j], ids=repr)
def test_12_things_that_are_not_arrays(wrong):
    for arrays in ((wrong, 1.0), (1.0, wrong)):
        with pytest.raises(TypeError, match=r"huber: (pred|target) must hold real numbers .*, got dtype "):
            fl.huber(*arrays)


def test_12_ragged_lists():
    with pytest.raises(ValueError):
        fl.huber(np.ones(2), [[1.0], [1.0, 2.0]])


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint8", "uint64", "bool"])
@BY_LOSS
def test_13_integer_predictions(case, dtype):
    arrays = {name: np.ones(4) for name in case.formula.inputs}
    for name in case.formula.differentiable:
        said = f"{case.name}: {name} must be a floating-point array, got dtype {dtype}: convert it, e.g. {name}.astype(float)"
        refuses(TypeError, said, case, arrays | {name: np.ones(4, dtype)}, (4,))


def test_13_python_integers():
    with pytest.raises(TypeError, match=r"huber: pred must be a floating-point array, got dtype int64"):
        fl.huber(3, 1.0)
    with pytest.raises(TypeError, match=r"huber: pred must be a floating-point array, got dtype bool"):
        fl.huber([True], 1.0)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"])
@BY_LOSS
def test_14_labels_of_every_integer_width(case, dtype):
    if "target" not in case.formula.inputs:
        return
    arrays = {name: np.array([0.25, 0.5, 0.125]) for name in case.formula.inputs}
    positive = case.domains()["target"].is_checked and not case.domains()["target"].contains(0)
    labels = np.array([1, 1, 1] if positive else [0, 1, 1])
    expected = call(case, arrays | {"target": labels.astype(float)})
    inputs.assert_same(call(case, arrays | {"target": labels.astype(dtype)}), expected)


@BY_LOSS
def test_15_inputs_of_mixed_precision_are_each_loaded_by_their_own_type(case):
    wide = inputs.columns(case, 50, np.float32)
    first = case.formula.inputs[0]
    mixed = {name: array if name in case.formula.differentiable else array.astype(np.float64) for name, array in wide.items()}
    inputs.assert_same(call(case, mixed), call(case, wide))
    if len(case.formula.differentiable) > 1:
        second = case.formula.differentiable[1]
        for method in ("grad", "value_and_grad", "value_grad_hess", "grad_and_hess"):
            with pytest.raises(TypeError) as caught:
                call(case, wide | {second: wide[second].astype(np.float64)}, method)
            assert str(caught.value) == f"{case.name}: {second} must have {first}'s dtype float32, got float64"


def test_16_lists_memory_maps_subclasses_and_series(tmp_path):
    pred, target = np.array([[1.0, -2.0], [0.5, 3.0]]), np.array([[0.0, 1.0], [1.0, 0.0]])
    expected = fl.huber.value_and_grad(pred, target)
    inputs.assert_same(fl.huber.value_and_grad(pred.tolist(), target.tolist()), expected)
    inputs.assert_same(fl.huber.value_and_grad(tuple(map(tuple, pred)), target.astype(int).tolist()), expected)
    mapped = np.memmap(tmp_path / "pred", np.float64, "w+", shape=(2, 2))
    mapped[:] = pred
    value, grad = fl.huber.value_and_grad(mapped, target)
    inputs.assert_same((value, np.asarray(grad)), expected)
    assert fl.huber.grad(pred, target, grad_out=mapped) is mapped
    inputs.assert_same(np.asarray(mapped), expected[1])
    matrix = pred.view(np.recarray)
    inputs.assert_same(fl.huber.value_and_grad(matrix, target), expected)
    assert type(fl.huber.grad(matrix, target)) is np.ndarray


def test_16_pandas():
    pandas = pytest.importorskip("pandas")
    pred, target = np.array([1.0, -2.0, 0.5], np.float32), np.array([0, 1, 1])
    expected = fl.huber.value_and_grad(pred, target, sample_weight=[1, 2, 3])
    found = fl.huber.value_and_grad(pandas.Series(pred), pandas.Series(target), sample_weight=pandas.Series([1, 2, 3]))
    inputs.assert_same(found, expected)
    frame = pandas.DataFrame({"a": pred, "b": pred})
    inputs.assert_same(fl.huber.grad(frame, frame * 0), fl.huber.grad(frame.to_numpy(), 0.0))


@BY_LOSS
def test_17_masked_arrays(case):
    arrays = inputs.columns(case, 4)
    end = "must be a plain array, got a masked array (its mask would be lost): pass weights instead"
    for name in case.formula.inputs:
        masked = np.ma.masked_array(arrays[name], [True, False, False, False])
        refuses(TypeError, f"{case.name}: {name} {end}", case, arrays | {name: masked})
    masked = np.ma.masked_array(np.ones(4), [1, 0, 0, 0])
    refuses(TypeError, f"{case.name}: sample_weight {end}", case, arrays, sample_weight=masked)
    masked = np.ma.masked_array(np.full(4, SENTINEL, np.float64), [True, False, False, False])
    refuses(TypeError, f"{case.name}: value_out must be a NumPy array, got MaskedArray", case, arrays, value_out=masked)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("name", ["value_out", "grad_out", "hess_out"])
@BY_LOSS
def test_18_read_only_outputs(case, name, dtype):
    dtype = np.dtype(getattr(pytest.importorskip("ml_dtypes"), dtype) if dtype == "bfloat16" else dtype)
    arrays = inputs.columns(case, 4, dtype)
    out = inputs.read_only(np.full(4, SENTINEL, dtype))
    several = len(case.formula.differentiable) > 1 and name != "value_out"
    said = f"{name}[0]" if several else name
    given = {name: (out, np.full(4, SENTINEL, dtype)) if several else out}
    message = f"{case.name}: {said} must be writeable, got a read-only array"
    refuses(ValueError, re.escape(message), case, arrays, dtype=dtype, **given)
    assert (out == SENTINEL).all()
    assert not out.flags.writeable


@pytest.mark.parametrize("name", ["value_out", "grad_out", "hess_out"])
@BY_LOSS
def test_19_outputs_of_wrong_shape_dtype_or_type(case, name):
    arrays = inputs.blocks(case, (3, 4))
    several = len(case.formula.differentiable) > 1 and name != "value_out"
    said = f"{name}[0]" if several else name

    def given(out):
        return {name: (out, np.empty((3, 4))) if several else out}

    for shape in ((4, 3), (12,), (1, 3, 4), (3, 1), ()):
        message = f"{case.name}: {said} must have shape (3, 4), got {shape}"
        refuses(ValueError, message, case, arrays, **given(np.full(shape, SENTINEL, np.float64)))
    for dtype in ("float32", "float16", "int64", "bool"):
        message = f"{case.name}: {said} must have dtype float64, got {dtype}"
        refuses(ValueError, message, case, arrays, **given(np.full((3, 4), SENTINEL, dtype)))
    real = "must hold real numbers (float16 to float64, bfloat16, integers or bool)"
    for dtype in ("complex128", "object"):
        message = f"{case.name}: {said} {real}, got dtype {dtype}"
        refuses(TypeError, message, case, arrays, **given(np.full((3, 4), SENTINEL, dtype)))
    refuses(TypeError, f"{case.name}: {said} must be a NumPy array, got list", case, arrays, **given([[0.0] * 4] * 3))


@BY_LOSS
def test_19_outputs_of_several_gradients_come_in_a_tuple(case):
    count = len(case.formula.differentiable)
    arrays = inputs.blocks(case, (3, 4))
    if count == 1:
        message = f"{case.name}: grad_out must be a NumPy array, got tuple"
        refuses(TypeError, message, case, arrays, grad_out=(np.empty((3, 4)),))
        return
    listed = ", ".join(case.formula.differentiable)
    for name in ("grad_out", "hess_out"):
        message = f"{case.name}: {name} must be {count} arrays, one for each of {listed}"
        for wrong in (np.full((3, 4), SENTINEL, np.float64), (np.full((3, 4), SENTINEL, np.float64),) * (count + 1), ()):
            refuses(TypeError, message, case, arrays, **{name: wrong})


def test_19_a_value_output_of_a_reduction_is_a_scalar():
    pred, target = np.ones(3), np.zeros(3)
    for reduction in ("sum", "mean"):
        for shape in ((3,), (1,)):
            grad = np.full(3, SENTINEL, np.float64)
            with pytest.raises(ValueError, match=re.escape(f"huber: value_out must have shape (), got {shape}")):
                fl.huber.value_and_grad(pred, target, reduction=reduction, value_out=np.zeros(shape), grad_out=grad)
            assert (grad == SENTINEL).all()


# --- values --------------------------------------------------------------------------------------------------------------

# 20 to 23: NaN, infinities, extremes, denormals: test_losses.py.


@BY_LOSS
def test_23_the_floating_point_mode_of_the_caller_is_untouched(case):
    arrays = inputs.columns(case, 20_000, np.float32)
    halves = inputs.columns(case, 20_000, np.float16)
    with np.errstate(all="raise"):
        call(case, arrays)
        call(case, halves)
        tiny = np.full(100, np.finfo(np.float32).smallest_subnormal)
        assert (tiny * np.float32(1) > 0).all()
        assert (tiny + tiny > tiny).all()


@pytest.mark.parametrize("normalizer", [None, "samples", 4.0], ids=str)
@BY_LOSS
def test_26_all_weights_zero(case, normalizer):
    arrays = inputs.blocks(case, (3, 4))
    zeros = np.zeros((3, 4))
    if normalizer is None:
        with pytest.warns(RuntimeWarning, match=f"{case.name}: the mean of nothing is nan") as caught:
            value, *rest = call(case, arrays, sample_weight=zeros)
        assert len(caught) == 1
        assert np.isnan(value)
    else:
        value, *rest = call(case, arrays, sample_weight=zeros, normalizer=normalizer)
        assert value == 0
    assert all((array == 0).all() for array in inputs.flatten(tuple(rest)))
    assert call(case, arrays, sample_weight=zeros, reduction="sum")[0] == 0


BAD_WEIGHTS = [-1.0, -0.125, np.nan, np.inf, -np.inf]


@pytest.mark.parametrize("place", [0, 700, 1024, 20_000])
@pytest.mark.parametrize("wrong", BAD_WEIGHTS)
@BY_LOSS
def test_27_weights_that_are_negative_nan_or_infinite(case, wrong, place):
    if place and case not in inputs.ONE_EACH[:1] + inputs.ONE_EACH[-1:]:
        return
    arrays = {name: np.resize(a, 20_001) for name, a in inputs.columns(case, 50).items()}
    w = np.ones(20_001)
    w[place] = wrong
    w[20_000] = min(wrong, w[20_000]) if place else 1
    message = f"{case.name}: sample_weight must be finite and not negative, got {wrong:g} at index {place}"
    refuses(ValueError, message, case, arrays, sample_weight=w)
    refuses(ValueError, message, case, arrays, sample_weight=w.astype(np.float32), check=False)


def test_27_the_first_bad_weight_is_named_in_the_shape_of_the_call():
    said = "huber: sample_weight must be finite and not negative, got -2 at index "
    with pytest.raises(ValueError, match=re.escape(said + "(1, 0)")):
        fl.huber(np.zeros((3, 4)), 0.0, sample_weight=np.array([[1.0], [-2.0], [-3.0]]))
    with pytest.raises(ValueError, match=re.escape(said + "()")):
        fl.huber(1.0, 0.0, sample_weight=-2.0)


def test_27_a_float64_weight_that_float32_cannot_hold():
    with pytest.raises(ValueError, match=r"huber: sample_weight must be finite and not negative, got 1e\+39 at index 0"):
        fl.huber(np.ones(2, np.float32), 0.0, sample_weight=np.array([1e39, 1.0]))


CHECKED = [
    (name, argument)
    for name, loss in inputs.LOSSES.items()
    for argument, domain in loss.formula.input_domains.items()
    if domain.is_checked
]


def outside(domain):
    """Numbers just outside the domain, and far."""
    near = np.array([domain.low - 2.0**-10, domain.high + 2.0**-10, domain.low - 5, domain.high + 5, -np.inf, np.inf])
    return [float(x) for x in [*near, domain.low, domain.high] if not domain.contains(x) and not np.isnan(x)]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(("name", "argument"), CHECKED)
def test_28_data_outside_its_domain(name, argument, dtype):
    case = next(c for c in inputs.ONE_EACH if c.name == name)
    domain = case.formula.input_domains[argument]
    arrays = inputs.blocks(case, (3, 4), dtype)
    for wrong in dict.fromkeys(dtype(x) for x in outside(domain)):
        if domain.contains(float(wrong)):
            continue  # rounded back in
        bad = arrays | {argument: arrays[argument].copy()}
        bad[argument][1, 2] = bad[argument][2, 3] = wrong
        message = f"{name}: {argument} must be {domain}, got {float(wrong):g} at index (1, 2)"
        refuses(ValueError, message, case, bad, dtype=dtype)
        call(case, bad, check=False)
    broken = arrays | {argument: np.full((3, 4), np.nan, dtype)}
    assert np.isnan(call(case, broken)[0]), "a NaN is no fault"


@pytest.mark.parametrize(("name", "argument"), CHECKED)
def test_28_the_first_of_many_is_found_wherever_it_is(name, argument):
    case = next(c for c in inputs.ONE_EACH if c.name == name)
    domain = case.formula.input_domains[argument]
    good = {n: np.resize(a, 70_000) for n, a in inputs.columns(case, 50, np.float32).items()}
    wrong = np.float32(outside(domain)[0])
    for place in (0, 1023, 1024, 16_384, 50_001, 69_999):
        bad = good | {argument: good[argument].copy()}
        bad[argument][place] = bad[argument][69_999] = wrong
        with pytest.raises(ValueError) as caught:
            call(case, bad)
        assert str(caught.value) == f"{name}: {argument} must be {domain}, got {float(wrong):g} at index {place}"


def test_28_ends_of_domains_in_each_precision():
    for dtype in (np.float32, np.float64):
        least = np.nextafter(dtype(0), dtype(1))
        assert np.isfinite(fl.gamma_nll(np.zeros(1, dtype), np.array([least])))
        for zero in (0.0, -0.0):
            with pytest.raises(ValueError, match=r"gamma_nll: target must be > 0, got -?0 at index 0"):
                fl.gamma_nll(np.zeros(1, dtype), np.array([zero], dtype))
        above = np.nextafter(dtype(1), dtype(2))
        with pytest.raises(ValueError, match=r"binary_cross_entropy: pred must be in \[0, 1\], got 1 at index 0"):
            fl.binary_cross_entropy(np.array([above]), np.ones(1, dtype))
        fl.binary_cross_entropy(np.array([0, 1], dtype), np.array([1, 0], dtype))


def test_29_hyperparameters_write_nothing_either():
    for case in inputs.ONE_EACH:
        for name in case.parameters:
            outputs = Outputs(case, (4,))
            with pytest.raises((TypeError, ValueError), match=f"{case.name}: {name} must be "):
                call(case, inputs.columns(case, 4), **{**outputs.given, name: "x"})
            outputs.assert_untouched()


@pytest.mark.parametrize("parameter", ["delta", "normalizer"])
@pytest.mark.parametrize("wrong", [10**400, -(10**400)], ids=["huge", "-huge"])
def test_29_whole_numbers_beyond_all_floats(parameter, wrong):
    with pytest.raises(ValueError, match=f"huber: {parameter} must be "):
        fl.huber(np.ones(2), 0.0, **{parameter: wrong})


def test_29_a_flag_is_no_array():
    with pytest.raises(TypeError, match="kl_div: log_target must be True or False, got "):
        fl.kl_div(np.ones(2), 1.0, log_target=np.ones(3))
    with pytest.raises(ValueError, match="huber: normalizer must be a positive number or 'samples', got "):
        fl.huber(np.ones(2), 1.0, normalizer=np.ones(3))


POSITIVE = [
    (case, name)
    for case in inputs.ONE_EACH
    for name, domain in case.formula.parameters.items()
    if isinstance(domain, Interval) and domain.low == 0 and domain.open_low and domain.high == math.inf
]


def test_29_hyperparameters_beyond_float32():
    """Refused, or as right as in float64: never a silent NaN."""
    wrong = []
    for (case, name), value in itertools.product(POSITIVE, (1e-60, 1e60)):
        arrays = inputs.columns(case, 20, np.float32)
        wide = {n: a.astype(np.float64) for n, a in arrays.items()}
        try:
            results = inputs.flatten(call(case, arrays, reduction="none", **{name: value}))
        except ValueError as error:
            assert str(error).startswith(
                f"{case.name}: hyperparameters, and what the formula makes of them, must be within float32's range"
            )
            continue
        exact = inputs.flatten(call(case, wide, reduction="none", **{name: value}))
        if any((np.isnan(r) != np.isnan(e)).any() for r, e in zip(results, exact, strict=True)):
            wrong.append(f"{case.name}({name}={value:g})")
    assert wrong == []


@pytest.mark.parametrize("reduction", ["average", "", "Mean", None, 1, True])
@BY_LOSS
def test_29_reductions(case, reduction):
    outputs = Outputs(case, (4,))
    with pytest.raises((TypeError, ValueError)) as caught:
        call(case, inputs.columns(case, 4), **{**outputs.given, "reduction": reduction})
    if isinstance(reduction, str):
        assert type(caught.value) is ValueError
        assert str(caught.value) == f"{case.name}: reduction must be 'mean', 'sum' or 'none', got {reduction!r}"
    outputs.assert_untouched()


@pytest.mark.parametrize("wrong", [0, -1, 0.0, -2.5, np.nan, np.inf, "sample", True, [1.0], np.float64("nan")], ids=repr)
@BY_LOSS
def test_29_normalizers(case, wrong):
    arrays = inputs.columns(case, 4)
    outputs = Outputs(case, (4,))
    with pytest.raises(ValueError) as caught:
        call(case, arrays, normalizer=wrong, reduction="mean", grad_out=outputs.given["grad_out"])
    assert str(caught.value) == f"{case.name}: normalizer must be a positive number or 'samples', got {wrong!r}"
    for reduction in ("sum", "none"):
        with pytest.raises(ValueError) as caught:
            call(case, arrays, normalizer=2.0, reduction=reduction, grad_out=outputs.given["grad_out"])
        assert str(caught.value) == f"{case.name}: normalizer goes with reduction='mean', got reduction={reduction!r}"
    outputs.assert_untouched()


# --- threads and processes -----------------------------------------------------------------------------------------------


def test_36_many_python_threads_on_their_own_arrays():
    work = []
    for case in (c for c in inputs.ONE_EACH if c.name in ("barron", "huber", "gaussian_nll", "asymmetric")):
        for seed in (1, 2):
            arrays = inputs.columns(case, 997, np.float32, seed=seed)
            work.append((case, {name: np.resize(array, 120_001) for name, array in arrays.items()}))
    alone = [call(case, arrays) for case, arrays in work]

    def repeat(k):
        return [call(case, arrays) for case, arrays in work[k:] + work[:k]]

    with ThreadPoolExecutor(8) as pool:
        for k, results in enumerate(pool.map(repeat, list(range(8)))):
            for found, expected in zip(results, alone[k:] + alone[:k], strict=True):
                inputs.assert_same(found, expected)


FORK = """
    import os, sys, time
    import numpy as np, fastloss as fl
    pred = np.linspace(-3, 3, 2_000_000, dtype=np.float32)
    expected = fl.barron.value_and_grad(pred, 0.25, alpha=0.5)
    for generation in range(3):
        child = os.fork()
        if child == 0:
            value, grad = fl.barron.value_and_grad(pred, 0.25, alpha=0.5)
            fl.set_num_threads(1)
            again = fl.barron(pred, 0.25, alpha=0.5)
            os._exit(0 if value == expected[0] == again and (grad == expected[1]).all() else 1)
        _, status = os.waitpid(child, 0)
        assert status == 0, status
        assert fl.barron(pred, 0.25, alpha=0.5) == expected[0]
    print("equal")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_38_fork_after_use():
    prints(python(FORK), "equal")


FORK_MEANWHILE = """
    import os, threading
    import numpy as np, fastloss as fl
    pred = np.linspace(-3, 3, 500_000, dtype=np.float32)
    expected = fl.barron(pred, 0.25, alpha=0.5)
    stop = threading.Event()
    def busy():
        while not stop.is_set():
            assert fl.barron(pred, 0.25, alpha=0.5) == expected
    threads = [threading.Thread(target=busy) for _ in range(3)]
    [t.start() for t in threads]
    for _ in range(20):
        child = os.fork()
        if child == 0:
            os._exit(0 if fl.barron(pred, 0.25, alpha=0.5) == expected else 1)
        assert os.waitpid(child, 0)[1] == 0
    stop.set()
    [t.join() for t in threads]
    print("equal")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_38_fork_while_other_threads_calculate():
    prints(python(FORK_MEANWHILE, flags=("-W", "ignore::DeprecationWarning")), "equal")


POOL = """
    import multiprocessing, sys
    import numpy as np, fastloss as fl

    def work(k):
        pred = np.linspace(-3, 3, 300_000 + k, dtype=np.float32)
        return fl.barron.value_and_grad(pred, 0.25, alpha=0.5)[0]

    if __name__ == "__main__":
        expected = [work(k) for k in range(6)]
        method = sys.argv[1]
        if method == "joblib":
            import joblib
            found = joblib.Parallel(n_jobs=2)(joblib.delayed(work)(k) for k in range(6))
        else:
            with multiprocessing.get_context(method).Pool(2) as pool:
                found = pool.map(work, range(6))
        print(found == expected)
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver", "joblib"])
def test_38_multiprocessing(method, tmp_path):
    if method == "joblib":
        pytest.importorskip("joblib")
    script = tmp_path / "work.py"
    script.write_text(textwrap.dedent(POOL))
    command = [sys.executable, script, method]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=90, check=False)
    prints(run, "True")


def test_40_thread_counts():
    before, cores = fl.get_num_threads(), engine.available_cores()
    try:
        for wrong in (0, -1, -(10**9)):
            with pytest.raises(ValueError, match=f"set_num_threads: count must be >= 1, got {wrong}"):
                fl.set_num_threads(wrong)
        for wrong in (1.5, "2", None, [1]):
            said = f"set_num_threads: count must be a whole number >= 1, got {wrong!r}"
            with pytest.raises(TypeError, match=re.escape(said)):
                fl.set_num_threads(wrong)
        assert fl.get_num_threads() == before
        for count in (1, np.int64(1), cores, cores + 1, 10**9, 2**70):
            fl.set_num_threads(count)
            assert fl.get_num_threads() == min(count, cores)
        with fl.threadpool_limits(1):
            assert fl.get_num_threads() == 1
        assert fl.get_num_threads() == cores
        with pytest.raises(KeyError), fl.threadpool_limits(1):
            raise KeyError
        assert fl.get_num_threads() == cores
        with pytest.raises(ValueError, match="threadpool_limits: limits must be >= 1, got 0"), fl.threadpool_limits(0):
            pass
    finally:
        fl.set_num_threads(before)


INTERRUPT = """
    import os, signal, sys, threading, time
    import numpy as np, fastloss as fl
    pred = np.broadcast_to(np.float32(0.5), (1 << 38,))  # minutes of work, no memory
    delays = []
    for threads in (1, 8):
        fl.set_num_threads(threads)
        for _ in range(3):
            def interrupt():
                global sent
                sent = time.perf_counter()
                os.kill(os.getpid(), signal.SIGINT)
            timer = threading.Timer(0.15, interrupt)
            timer.start()
            try:
                fl.barron(pred, 0.25, alpha=0.5, reduction="sum")
                sys.exit("not interrupted")
            except KeyboardInterrupt:
                delays.append(time.perf_counter() - sent)
            timer.join()
    small = pred[:1_000_000]
    one, many = fl.barron(small[:100], 0.25, alpha=0.5), fl.barron(small, 0.25, alpha=0.5)
    assert abs(many - one) <= 1e-6 * one
    print(sorted(delays)[len(delays) // 2])
"""


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_41_ctrl_c_in_a_long_call():
    run = python(INTERRUPT)
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) < 0.2


INTERRUPT_CHECK = """
    import os, signal, sys, threading
    import numpy as np, fastloss as fl
    pred = np.broadcast_to(np.float32(0.5), (1 << 38,))
    threading.Timer(0.15, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    try:
        fl.binary_cross_entropy(pred, 1.0)  # the look at the data's domain is a long pass too
    except KeyboardInterrupt:
        print("interrupted")
"""


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_41_ctrl_c_in_a_long_check():
    prints(python(INTERRUPT_CHECK), "interrupted")


HANDLER = """
    import os, signal, threading
    import numpy as np, fastloss as fl
    calls = []
    def handler(*_):
        calls.append(fl.huber(np.ones(100_000), 0.0))  # a call inside a call
    signal.signal(signal.SIGUSR1, handler)
    pred = np.broadcast_to(np.float32(0.5), (1 << 29,))
    threading.Timer(0.02, lambda: os.kill(os.getpid(), signal.SIGUSR1)).start()
    one, many = fl.barron(pred[:100], 0.25, alpha=1.0), fl.barron(pred, 0.25, alpha=1.0)
    assert abs(many - one) <= 1e-6 * one
    print(calls)
"""


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_41_other_signals_do_not_stop_a_call():
    prints(python(HANDLER), "[0.5]")


MEMORY = """
    import resource
    import numpy as np, fastloss as fl
    pred, target = np.full(8_000_000, 3.0), np.zeros(8_000_000)
    fl.huber(pred[:100_000], 0.0)
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (40 << 20), -1))
    out = np.full(1, 77.0)
    for call in (
        lambda: fl.huber.grad(pred, target),
        lambda: fl.huber.value_grad_hess(pred, target),
        lambda: fl.huber(pred, target, reduction="none"),
        lambda: fl.huber.grad(pred[1:], target[1:], grad_out=pred[:-1]),
        lambda: fl.huber(pred.view(pred.dtype.newbyteorder("S")), target),
        lambda: fl.huber(np.broadcast_to(pred[0], (1 << 39,)), 0.0, sample_weight=np.broadcast_to(1.0, (1 << 39,))),
    ):
        try:
            call()
        except MemoryError:
            pass
        else:
            raise SystemExit("no MemoryError")
        assert (pred == 3).all() and (target == 0).all()
    print(fl.huber(pred, target))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the address space")
def test_42_memory_exhausted():
    prints(python(MEMORY), "2.5")


EXITS = {
    "helpers alive": "fl.barron(pred, 0.5, alpha=0.5)",
    "in an atexit function": "import atexit; atexit.register(lambda: fl.barron(pred, 0.5, alpha=0.5))",
    "in a destructor": "class A:\n  def __del__(self): fl.barron(pred, pred, alpha=0.5)\na = A()",
    "in a daemon thread": "import threading, time\n"
    "def work():\n  while True: fl.barron(pred, 0.5, alpha=0.5)\n"
    "threading.Thread(target=work, daemon=True).start(); time.sleep(0.1)",
    "in a thread that is joined": "import threading\n"
    "threading.Thread(target=lambda: [fl.barron(pred, 0.5, alpha=0.5) for _ in range(20)]).start()",
}


@pytest.mark.parametrize("when", EXITS)
def test_43_the_interpreter_ends_cleanly(when):
    for _ in range(3):
        run = python("import numpy as np, fastloss as fl\npred = np.ones(500_000, np.float32)\n" + EXITS[when])
        assert (run.returncode, run.stderr) == (0, "")


# --- environment ---------------------------------------------------------------------------------------------------------

BLOCK = """
    import sys
    absent = {"numba", "llvmlite", "scipy", "mpmath", "ml_dtypes", "sklearn", "torch", "jax", "pandas"}
    class Blocker:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in absent:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    sys.meta_path.insert(0, Blocker())
    import fastloss as fl
    import numpy as np
    print(fl.huber(np.array([3.0, 0.0]), 0.0), fl.huber.grad(np.float16([3]), 0))
"""


def test_44_without_numba_scipy_and_the_rest():
    prints(python(BLOCK), "1.25 [1.]")


def test_44_the_import_brings_nothing_but_numpy():
    code = """
        import sys, numpy
        before = set(sys.modules)
        import fastloss
        new = {name.partition(".")[0] for name in set(sys.modules) - before}
        print(sorted(n for n in new - set(sys.stdlib_module_names) if n != "fastloss" and "cython" not in n))
    """
    prints(python(code), "[]")


def test_45_the_lowest_level_holds_no_newer_instructions():
    """A processor without AVX: neither the engine nor the v2 kernels may use its registers."""
    if engine.ISA == "plain" or not shutil.which("objdump"):
        pytest.skip("needs an x86-64 build and objdump")
    folder = Path(engine.__file__).parent
    binaries = [Path(engine.__file__), *folder.glob("tiles_v2.*.so")]
    assert len(binaries) == 2
    for binary in binaries:
        command = ["objdump", "-d", "--no-show-raw-insn", binary]
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert "ret" in listing
        assert not re.search(r"%[yz]mm|\tv(add|mul|mov|fmadd)", listing), binary.name


def test_46_no_home_and_nothing_to_write_to(tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir()
    folder.chmod(0o555)
    bare = dict.fromkeys(os.environ)
    code = "import numpy as np, fastloss as fl; print(fl.huber(np.array([3.0]), 0.0))"
    prints(python(code, cwd=folder, flags=("-B",), **bare), "2.5")
    prints(python(code, cwd=folder, **bare | {"HOME": "/nonexistent", "TMPDIR": "/nonexistent"}), "2.5")
    assert list(folder.iterdir()) == []


def test_46_a_read_only_installation(tmp_path):
    """A copy of the package whose folders and files may not be written."""
    source = Path(fl.__file__).parent
    shutil.copytree(source, tmp_path / "fastloss", ignore=shutil.ignore_patterns("__pycache__"))
    paths = [tmp_path / "fastloss", *(tmp_path / "fastloss").rglob("*")]
    before = sorted(p for p in paths)
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    code = "import numpy as np, fastloss as fl; print(fl.__file__, fl.huber(np.array([3.0]), 0.0))"
    run = python(code, cwd="/", PYTHONPATH=str(tmp_path), HOME=None, PYTHONDONTWRITEBYTECODE="1")
    prints(run, f"{tmp_path / 'fastloss' / '__init__.py'} 2.5")
    assert sorted([tmp_path / "fastloss", *(tmp_path / "fastloss").rglob("*")]) == before
    for path in paths:
        path.chmod(0o755)


SMOKE = """
    import numpy as np
    np.seterr(all="raise")
    import fastloss as fl
    tiny = np.finfo(np.float32).smallest_subnormal
    for pred in (np.float32([1e30, -1e30, tiny, 88.0, -104.0, np.nan]), np.array([1e300, -1e300, 5e-324, 709.0])):
        for name in fl.losses.POINTWISE:
            loss = getattr(fl, name)
            arrays = [pred if name in loss.formula.differentiable else 1.0 for name in loss.formula.inputs]
            loss.value_grad_hess(*arrays, check=False, sample_weight=np.arange(pred.size), reduction="none")
            loss.value_grad_hess(*arrays, check=False)
    half = np.float16([60000, -60000, 6e-8])
    fl.squared_error.value_grad_hess(half, half[::-1], reduction="none")
    try:
        fl.huber(np.ones(3), np.ones(4))
    except ValueError as error:
        print(error)
"""


@pytest.mark.parametrize("flags", [("-O",), ("-OO",), ("-W", "error"), ("-X", "dev"), ("-I",), ("-bb",)], ids="".join)
def test_48_flags_of_the_interpreter_and_of_numpy(flags):
    run = python(SMOKE, flags=flags)
    prints(run, "huber: target must broadcast to pred's shape (3,), got (4,)")
    assert run.stderr == ""


def test_48_a_sum_beyond_a_half_is_infinite_whatever_numpy_is_told():
    value_out, grad_out = np.zeros((), np.float16), np.zeros(2, np.float16)
    with np.errstate(all="raise"):
        pred = np.float16([60000, 60000])
        value, grad = fl.absolute_error.value_and_grad(pred, 0.0, reduction="sum", value_out=value_out, grad_out=grad_out)
    assert value == np.inf
    assert grad.tolist() == [1, 1]


def test_48_docstrings_and_hyperparameters_under_oo():
    code = "import fastloss as fl; print(fl.huber(3.0, 0.0, delta=2.0), 'huber' in (fl.huber.__doc__ or 'huber'))"
    prints(python(code, flags=("-OO",)), "4.0 True")


def test_48_paths_beyond_ascii(tmp_path):
    folder = tmp_path / "дом ü 損失"
    folder.mkdir()
    shutil.copytree(Path(fl.__file__).parent, folder / "fastloss")
    code = "import numpy as np, fastloss as fl; print(fl.huber(np.array([3.0]), 0.0), ascii(fl.__file__))"
    for locale in ("C", "C.UTF-8"):
        run = python(code, cwd=folder, PYTHONPATH=str(folder), LC_ALL=locale)
        prints(run, f"2.5 {str(folder / 'fastloss' / '__init__.py')!a}")


def test_48_a_warning_turned_into_an_error_leaves_the_object_usable():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match="huber: the mean of nothing is nan"):
            fl.huber(np.ones(0), 0.0)
    assert fl.huber(np.array([3.0]), 0.0) == 2.5
