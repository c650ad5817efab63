"""fastloss in C and Cython: the header's functions against the kernels, the table of the capsule, the ABI, the examples.

`python tests/test_cimport.py --update` writes tests/abi.txt anew: read its difference, for other people's binaries depend on it.
"""

import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastloss as fl
from fastloss._kernels.cpu import engine
from fastloss.formula import F32, F64
from fastloss.formula.c import function_name

if __name__ != "__main__":
    from . import inputs

ROOT = Path(__file__).resolve().parents[1]
ABI = Path(__file__).parent / "abi.txt"
INCLUDE = Path(fl.get_include())
CC = shutil.which(os.environ.get("CC", "cc"))
needs_compiler = pytest.mark.skipif(CC is None, reason="needs a C compiler")
REAL = {"float": np.float32, "double": np.float64}


def compile_c(source, target, *flags, check=True):
    """The compiler's messages; a shared library of `source` at `target`."""
    path = target.with_suffix(".c")
    path.write_text(source)
    command = [CC, "-shared", "-fPIC", f"-I{INCLUDE}", *flags, str(path), "-o", str(target), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done.stderr


# --- the header ---------------------------------------------------------------------------------------------------------------


def signatures():
    """{name: (type of the result, [(type, name) of each argument])} of the header's public functions."""
    text = (INCLUDE / "fastloss.h").read_text(encoding="utf-8")
    found = re.findall(r"^FASTLOSS_INLINE (\w+) (fastloss_(?!of_)\w+)\((.*)\) \{$", text, re.MULTILINE)
    return {name: (result, [tuple(each.split(" ")) for each in arguments.split(", ")]) for result, name, arguments in found}


def loops():
    """C that calls each of the losses' functions on every element of some arrays."""
    text = ['#include "fastloss.h"', "#include <stddef.h>"]
    for name, (real, arguments) in signatures().items():
        if name.startswith("fastloss_math_"):
            continue
        loss = getattr(fl, name.removeprefix("fastloss_").rsplit("_f", 1)[0].removesuffix("_grad").removesuffix("_hess"), None)
        count = len(loss.formula.inputs) if loss else 3  # of several inputs, the derivatives by each have longer names
        given = [f"in[{k}][i]" if k < count else f"({kind})hyper[{k - count}]" for k, (kind, _) in enumerate(arguments)]
        text.append(
            f"void loop_{name}(ptrdiff_t n, {real} **in, const double *hyper, {real} *out) "
            f"{{ for (ptrdiff_t i = 0; i < n; i++) out[i] = {name}({', '.join(given)}); }}"
        )
    return "\n".join(text)


@pytest.fixture(scope="module", params=["as the kernels", "as extensions are"])
def library(request, tmp_path_factory):
    """The loops, compiled with the kernels' fused products where the processor has them, or with a plain -O2."""
    exact = request.param == "as the kernels"
    if CC is None:
        pytest.skip("needs a C compiler")
    fused = ["-mfma"] if engine.ISA in ("x86-64-v3", "x86-64-v4") else []
    target = tmp_path_factory.mktemp("loops") / "loops.so"
    compile_c(loops(), target, *(["-O2", "-ffp-contract=off", *fused] if exact else ["-O2"]))
    return ctypes.CDLL(str(target)), exact and engine.ISA != "plain"


@pytest.mark.parametrize("precision", [F32, F64], ids=["f32", "f64"])
@pytest.mark.parametrize("case", inputs.CASES if __name__ != "__main__" else [], ids=str)
def test_functions_are_the_kernels(library, case, precision):
    loaded, exact = library
    dtype = REAL[precision.c_name]
    arrays = [np.ascontiguousarray(a) for a in inputs.columns(case, 500, dtype).values()]
    arrays = [np.concatenate([a, np.array([np.nan, np.inf, -np.inf], dtype)]) for a in arrays]
    results = case.loss.value_grad_hess(*arrays, reduction="none", check=False, **case.parameters)
    pointers = (ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays))
    hyper = np.array([*case.vector, 0.0])
    for role, expected in zip(case.formula.roles("vgh"), inputs.flatten(results), strict=True):
        loop = getattr(loaded, f"loop_{function_name(case.formula, role, precision)}")
        found = np.full_like(arrays[0], 77)
        loop(
            ctypes.c_ssize_t(len(found)), pointers, hyper.ctypes.data_as(ctypes.c_void_p), found.ctypes.data_as(ctypes.c_void_p)
        )
        if exact:
            np.testing.assert_array_equal(inputs.bits(found), inputs.bits(expected), err_msg=role)
        else:
            close = 1e-4 if dtype == np.float32 else 1e-11
            np.testing.assert_allclose(found, expected, rtol=close, atol=close, err_msg=role)


@needs_compiler
def test_header_is_plain_c_without_a_warning(tmp_path):
    source = '#include "fastloss.h"\n#include "fastloss_api.h"\ndouble f(double x) { return fastloss_huber_f64(x, 0, 1); }\n'
    compile_c(source, tmp_path / "plain.so", "-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror")


@needs_compiler
def test_header_refuses_fast_math(tmp_path):
    said = compile_c('#include "fastloss.h"\n', tmp_path / "fast.so", "-ffast-math", check=False)
    assert "must be compiled without -ffast-math" in said


def test_every_loss_is_declared():
    declared = (Path(fl.__file__).parent / "__init__.pxd").read_text(encoding="utf-8")
    for name in fl.losses.POINTWISE:
        formula = getattr(fl, name).formula
        for precision in (F32, F64):
            for role in formula.roles("vgh"):
                function = function_name(formula, role, precision)
                assert function in signatures()
                assert f'{precision.c_name} {function.removeprefix("fastloss_")} "{function}"(' in declared


# --- the ABI ------------------------------------------------------------------------------------------------------------------

PROBE = """
#include <stdio.h>
#include "fastloss_api.h"
#define MEMBER(of, name) printf("%s.%s: %zu bytes at %zu\\n", #of, #name, sizeof(((of *)0)->name), offsetof(of, name))
void probe(FILE *);
int main(void) {
    printf("version %d\\n", FASTLOSS_API_VERSION);
    PRINTS
    return 0;
}
"""


def abi(folder):
    """What compiled code relies on: the functions' signatures, the structs' layouts, the numbers with names."""
    header = (INCLUDE / "fastloss_api.h").read_text(encoding="utf-8")
    prints = []
    for body, name in re.findall(r"typedef struct \w+ \{(.*?)\n\} (\w+);", header, re.DOTALL):
        members = re.findall(r"\(\*(\w+)\)\(|(\w+)(?:\[\w+\])?;", re.sub(r"/\*.*?\*/", "", body, flags=re.DOTALL))
        members = [pointer or plain for pointer, plain in members]
        prints += [f"MEMBER({name}, {member});" for member in members]
        prints.append(f'printf("{name}: %zu bytes\\n", sizeof({name}));')
    for number in re.findall(r"\b(FASTLOSS_\w+) = ", header):
        prints.append(f'printf("{number} = %d\\n", {number});')
    source = folder / "probe.c"
    source.write_text(PROBE.replace("PRINTS", "\n    ".join(prints)).replace("void probe(FILE *);\n", ""))
    subprocess.run([CC, f"-I{INCLUDE}", str(source), "-o", str(folder / "probe")], check=True)
    layout = subprocess.run([folder / "probe"], capture_output=True, text=True, check=True).stdout
    pointers = re.findall(r"^    (\w[\w ]*\(\*\w+\)\(.*?\));", re.sub(r"\s*\n {5,}", " ", header), re.MULTILINE | re.DOTALL)
    functions = [
        f"{real} {name}({', '.join(' '.join(a) for a in arguments)})" for name, (real, arguments) in signatures().items()
    ]
    return "\n".join([layout, *pointers, "", *functions, ""])


@needs_compiler
@pytest.mark.skipif(ctypes.sizeof(ctypes.c_void_p) != 8, reason="the stored layout is that of 64 bits")
def test_abi_is_as_it_was(tmp_path):
    assert abi(tmp_path) == ABI.read_text(encoding="utf-8"), "if this is meant: python tests/test_cimport.py --update"


# --- the table of functions ---------------------------------------------------------------------------------------------------

POINTER, SIZE = ctypes.c_void_p, ctypes.c_ssize_t


class Bound(ctypes.Structure):
    _fields_ = [
        ("tile", POINTER),
        *((name, ctypes.c_int32) for name in ("itemsize", "inputs", "outputs", "has_value", "cost", "reserved")),
        ("uniforms", ctypes.c_double * 32),
        ("lowest", ctypes.c_double * 8),
        ("highest", ctypes.c_double * 8),
    ]


class Api(ctypes.Structure):
    _fields_ = [
        ("version", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("find", ctypes.CFUNCTYPE(POINTER, ctypes.c_char_p)),
        (
            "bind",
            ctypes.CFUNCTYPE(
                ctypes.c_int,
                POINTER,
                ctypes.c_char_p,
                ctypes.c_char_p,
                ctypes.c_int,
                POINTER,
                ctypes.c_int,
                POINTER,
                ctypes.c_size_t,
            ),
        ),
        ("evaluate", ctypes.CFUNCTYPE(ctypes.c_int, POINTER, SIZE, POINTER, POINTER, ctypes.c_int, POINTER, POINTER)),
        ("evaluate_one", ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_int, POINTER, POINTER)),
        ("get_num_threads", ctypes.CFUNCTYPE(ctypes.c_int)),
        ("set_num_threads", ctypes.CFUNCTYPE(None, ctypes.c_int)),
    ]


API = Api.from_address(fl.c_api.ADDRESS)
NONE, SUM, MEAN = range(3)
DONE, REFUSED, NO_MEMORY, BAD_WEIGHT, OUTSIDE, BAD_DIVISOR = 0, -1, -2, -3, -4, -5
REDUCTIONS = {"none": NONE, "sum": SUM, "mean": MEAN}


def bind(name, wanted="vgh", dtype=np.float64, vector=None, room=200):
    """(what bind returned, the bound loss, the message)."""
    bound, message = Bound(), ctypes.create_string_buffer(200)
    numbers = None if vector is None else (ctypes.c_double * max(1, len(vector)))(*vector)
    itemsize = np.dtype(dtype).itemsize
    count = 0 if vector is None else len(vector)
    done = API.bind(ctypes.byref(bound), name.encode(), wanted.encode(), itemsize, numbers, count, message, room)
    return done, bound, message.value.decode()


def pointers(arrays):
    return (POINTER * max(1, len(arrays)))(*(None if a is None else a.ctypes.data for a in arrays))


def evaluate(bound, arrays, outputs, reduction, weights=None):
    """(what evaluate returned, the value)."""
    value = ctypes.c_double(77)
    weights = None if weights is None else weights.ctypes.data
    done = API.evaluate(
        ctypes.byref(bound),
        arrays[0].size,
        pointers(arrays),
        weights,
        REDUCTIONS[reduction],
        ctypes.byref(value),
        pointers(outputs),
    )
    return done, value.value


def test_the_capsule_holds_the_table():
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype, get_pointer.argtypes = POINTER, [ctypes.py_object, ctypes.c_char_p]
    assert get_pointer(fl.c_api.CAPSULE, b"fastloss.c_api.CAPSULE") == fl.c_api.ADDRESS
    importer = ctypes.pythonapi.PyCapsule_Import
    importer.restype, importer.argtypes = POINTER, [ctypes.c_char_p, ctypes.c_int]
    assert importer(b"fastloss.c_api.CAPSULE", 0) == fl.c_api.ADDRESS
    assert API.version == 1
    assert API.size == ctypes.sizeof(Api)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", inputs.ONE_EACH if __name__ != "__main__" else [], ids=str)
def test_whole_arrays_are_the_python_calls(case, dtype):
    arrays = list(inputs.columns(case, 40_000, dtype).values())
    weights = inputs.weights(arrays[0].shape, dtype)
    done, bound, message = bind(case.name, "vgh", dtype, case.vector)
    assert (done, message) == (DONE, "")
    assert bound.inputs == len(arrays)
    for reduction in REDUCTIONS:
        for weight in (None, weights):
            outputs = [np.empty_like(arrays[0]) for _ in range(bound.outputs)]
            expected = inputs.flatten(
                case.loss.value_grad_hess(*arrays, sample_weight=weight, reduction=reduction, **case.parameters)
            )
            done, value = evaluate(bound, arrays, outputs, reduction, weight)
            assert done == DONE
            if reduction != "none":
                assert value == expected[0]
                outputs, expected = outputs[1:], expected[1:]
            inputs.assert_same(tuple(outputs), tuple(expected))


def test_value_array_may_be_left_out_and_outputs_may_be_inputs():
    pred, target = np.linspace(-3, 3, 5000), np.zeros(5000)
    value, grad = fl.huber.value_and_grad(pred, target, delta=0.5)
    _, bound, _ = bind("huber", "vg", vector=[0.5])
    assert evaluate(bound, [pred, target], [None, pred], "mean") == (DONE, value)
    inputs.assert_same(pred, grad)


def test_defaults_and_parameters_that_are_none():
    pred, target = np.linspace(-3, 3, 100), np.ones(100)
    _, bound, _ = bind("huber", "v")
    assert evaluate(bound, [pred, target], [None], "sum")[1] == fl.huber(pred, target, reduction="sum")
    _, bound, _ = bind("focal", "v", vector=[np.nan, 1.5])
    assert evaluate(bound, [pred, target], [None], "sum")[1] == fl.focal(pred, target, alpha=None, gamma=1.5, reduction="sum")


def test_bind_says_what_is_wrong():
    known = "squared_error, absolute_error"
    assert bind("hubert")[2].startswith(f"bind: loss must be one of {known}")
    assert bind("huber", "h")[2] == "huber: wanted must be one of v, g, vg, gh, vgh, got 'h'"
    assert bind("huber", dtype=np.float16)[2] == "huber: itemsize must be 4 or 8, got 2"
    assert bind("huber", vector=[1.0, 2.0])[2] == "huber: hyperparameters must be 1 numbers (delta), got 2"
    assert bind("huber", vector=[-1.0])[2] == "huber: delta must be > 0, got -1"
    assert bind("huber", dtype=np.float32, vector=[1e-60])[2].startswith("huber: hyperparameters, and what the formula makes")
    for case in (bind("hubert"), bind("huber", vector=[-1.0])):
        assert case[0] == REFUSED
        assert case[1].tile is None  # nothing was written
    assert bind("hubert", room=5)[2] == "bind"
    assert bind("hubert", room=0)[0] == REFUSED


def test_evaluate_refuses_before_it_writes():
    pred, target, out = np.ones(2000), np.ones(2000), np.full(2000, 77.0)
    _, huber, _ = bind("huber", "vg")
    for wrong in (-1.0, np.nan, np.inf):
        weights = np.ones(2000)
        weights[1500] = wrong
        assert evaluate(huber, [pred, target], [None, out], "mean", weights) == (BAD_WEIGHT, 77)
    _, gamma, _ = bind("gamma_nll", "vg")
    target[1999] = -1
    assert evaluate(gamma, [pred, target], [None, out], "sum") == (OUTSIDE, 77)
    assert evaluate(huber, [pred, target], [None, out], "mean", np.full(2000, 1e-320)) == (BAD_DIVISOR, 77)
    assert (out == 77).all()


def test_nothing_to_average():
    _, huber, _ = bind("huber", "vg")
    done, value = evaluate(huber, [np.empty(0), np.empty(0)], [None, np.empty(0)], "mean")
    assert done == DONE
    assert np.isnan(value)
    out = np.ones(3)
    done, value = evaluate(huber, [np.ones(3), np.zeros(3)], [None, out], "mean", np.zeros(3))
    assert np.isnan(value)
    assert (out == 0).all()


def test_threads_change_no_bit():
    pred, target = np.linspace(-3, 3, 10**6, dtype=np.float32), np.zeros(10**6, np.float32)
    _, huber, _ = bind("huber", "vg", np.float32)
    before, values = API.get_num_threads(), []
    assert before == fl.get_num_threads()
    for threads in (1, 2):
        API.set_num_threads(threads)
        values.append(evaluate(huber, [pred, target], [None, np.empty_like(pred)], "mean"))
    API.set_num_threads(before)
    assert values[0] == values[1] == (DONE, fl.huber(pred, target))


def test_tiles_are_found_by_name():
    tile = ctypes.CFUNCTYPE(None, SIZE, POINTER, POINTER)(API.find(b"exp_map_f64"))
    x, result = np.linspace(-1, 1, 100), np.empty(100)
    tile(100, pointers([x, result]), None)
    inputs.assert_same(result, engine.apply("exp", x))
    assert API.find(b"no such tile") is None
    assert API.find(b"\xff") is None


def test_one_element():
    _, bound, _ = bind("cauchy", "v", vector=[2.0])
    x = (ctypes.c_double * 2)(3.0, 1.0)
    assert API.evaluate_one(2, x, ctypes.byref(bound)) == fl.cauchy(3.0, 1.0, c=2.0)
    assert np.isnan(API.evaluate_one(3, x, ctypes.byref(bound)))


# --- the examples -------------------------------------------------------------------------------------------------------------


def run_example(folder, *arguments):
    environment = {
        name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"
    }  # main.py imports its neighbour
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_compiler
def test_cython_extension(tmp_path):
    pytest.importorskip("Cython", reason="builds with Cython")
    pytest.importorskip("setuptools", reason="builds with setuptools")
    folder = Path(shutil.copytree(ROOT / "examples" / "cython_extension", tmp_path / "extension"))
    run_example(folder, "setup.py", "build_ext", "--inplace")
    assert run_example(folder, "main.py") == "weights [ 1.  -2.   0.5], loss 0.99\n"


@needs_compiler
def test_c_program_through_cffi(tmp_path):
    pytest.importorskip("cffi", reason="compiles through cffi")
    folder = ROOT / "examples" / "c_program"
    assert run_example(tmp_path, str(folder / "main.py"), str(tmp_path)) == "line 0.50 + 2.00 x, loss 0.040\n"


if __name__ == "__main__" and "--update" in sys.argv:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        ABI.write_text(abi(Path(folder)), encoding="utf-8")
