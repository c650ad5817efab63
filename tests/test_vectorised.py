"""No kernel calls a function of the C library: a loop with such a call is not vectorised, and the call costs ten times as much.

Read from the installed modules with objdump and nm; skipped where those, or the modules' format, are missing.
"""

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from fastloss._kernels.cpu import engine

FOLDER = Path(engine.__file__).parent
MODULES = sorted(FOLDER.glob("tiles_*.so"))
WIDEST = {"v4": "zmm", "v3": "ymm", "v2": "xmm"}

# What the modules may take from elsewhere, besides Python's own names.
C_LIBRARY = {
    "__cxa_finalize",
    "__gmon_start__",
    "_ITM_deregisterTMCloneTable",
    "_ITM_registerTMCloneTable",
    "__stack_chk_fail",
    "strcmp",
    "strlen",
    "strrchr",
    "memcpy",
    "memmove",
    "memset",
    "memcmp",
    "__assert_fail",
    "abort",
}
# Where one number at a time is loaded, stored or summed; and the functions that run once per call.
SCALAR = re.compile(r"_uniforms$")
# Nothing but bits, or nothing at all, to compute.
NO_ARITHMETIC = {"absolute_map_f32", "absolute_map_f64", "Assign_step_f32", "Assign_step_f64"}
MATH = re.compile(
    r"^(__)?(exp|exp2|expm1|exp10|log|log2|log10|log1p|pow|tanh|sinh|cosh|sin|cos|tan|sincos|atan|atan2|asin|acos|lgamma|tgamma|erf|"
    r"erfc|fma|sqrt|cbrt|hypot|fmax|fmin|fabs|floor|ceil|round|rint|nearbyint|trunc|fmod|ldexp|frexp|scalbn|copysign|nextafter)(f|l)?"
    r"(_finite)?(@|$)"
)


def tool(name, *arguments, error=False):
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    done = subprocess.run([name, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{name} cannot read these modules: {done.stderr.strip()[:200]}")
    return done.stderr if error else done.stdout


if not MODULES:
    pytest.skip("no ELF modules here", allow_module_level=True)

each_module = pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name.split(".")[0])


def level(module):
    return module.name.split(".")[0].removeprefix("tiles_")


@cache
def functions(module):
    """{name: instructions} of a module; each compiled kernel is a function of its own."""
    text = tool("objdump", "-d", "--no-show-raw-insn", "-w", str(module))
    found = {}
    for block in re.split(r"\n\n", text):
        head = re.match(r"[0-9a-f]+ <([^>]+)>:\n", block)
        if head:
            found[head[1]] = block[head.end() :].splitlines()
    return found


def kernels(module):
    """Those of the functions that are kernels, by the name that the formula gave them."""
    names = {}
    for symbol, lines in functions(module).items():
        plain = re.fullmatch(r"(\w+_(?:v|g|vg|gh|vgh|step|fold|map|(?:step|along|across|again)\d+)_f(?:32|64))(\.\w+)*", symbol)
        if plain and not re.search(r"\bjmp\s+[0-9a-f]+ <\w+_f(32|64)>", lines[0]):  # the same code as another's is there once
            names[plain[1]] = lines
    if not names and "no symbols" in tool("nm", str(module), error=True):
        pytest.skip("the modules are stripped of their symbols")
    assert len(names) > 100
    return names


@each_module
def test_no_function_of_the_math_library_is_called(module):
    called = {}
    for symbol, lines in functions(module).items():
        for line in lines:
            target = re.search(r"\b(?:call|jmp)\w*\s+[0-9a-f]+ <([^>+]+)", line)
            name = target and re.sub(r"@.*", "", target[1])
            if name and MATH.match(name):
                called.setdefault(symbol, set()).add(name)
    outside = {symbol: names for symbol, names in called.items() if not SCALAR.search(symbol)}
    assert not outside


@each_module
def test_kernels_call_nothing_at_all(module):
    """No call instruction: everything is inlined. memcpy and memset may stand for a loop of copies."""
    calling = {}
    for symbol, lines in kernels(module).items():
        calls = {c for line in lines for c in re.findall(r"\bcall\w*\s+(.*)", line)}
        calls = {c for c in calls if not re.search(r"<(memcpy|memset|memmove)@plt>", c)}
        if calls:
            calling[symbol] = calls
    assert not calling


def scalar_kernels(module):
    """The kernels in which no arithmetic is done in the widest registers of the module's level."""
    if level(module) not in WIDEST:
        pytest.skip("a plain build promises no registers")
    packed = re.compile(r"\bv?(?:add|mul|sub|fn?m(?:add|sub)\d*|max|min|div|sqrt|cmp\w*)p[sd]\b.*%" + WIDEST[level(module)])
    steps = {name: lines for name, lines in kernels(module).items() if re.search(r"_(v|g|vg|gh|vgh|step|map)_f(32|64)$", name)}
    assert len(steps) > 100
    return {name for name, lines in steps.items() if not any(packed.search(line) for line in lines)} - NO_ARITHMETIC


@each_module
def test_kernels_use_the_widest_registers_of_their_level(module):
    assert scalar_kernels(module) == set()


@each_module
def test_undefined_symbols(module):
    """What a module needs at load time is Python and a handful of the C library's names."""
    needed = set()
    for line in tool("nm", "-D", "--undefined-only", str(module)).splitlines():
        name = re.sub(r"@.*", "", line.split()[-1])
        if not re.match(r"_?Py", name):
            needed.add(name)
    unexpected = needed - C_LIBRARY
    assert not {name for name in unexpected if MATH.match(name)}, "a kernel calls the math library"
    assert not unexpected


@each_module
def test_nothing_but_the_module_is_exported(module):
    """Two modules of one source live in one process: their kernels must not bind to each other's."""
    exported = [line.split()[-1] for line in tool("nm", "-D", "--defined-only", str(module)).splitlines()]
    ours = [name for name in exported if not name.startswith(("_init", "_fini", "_edata", "_end", "__bss_start"))]
    assert ours == [f"PyInit_tiles_{level(module)}"]


def test_the_search_finds_what_it_looks_for():
    for name in ("expf", "exp", "pow", "powf", "tanhf", "lgamma", "__expf_finite", "log1p", "sqrtf", "fmaf"):
        assert MATH.match(name), name
    for name in ("expf_f32", "exp_f32", "PyLong_AsLong", "memcpy", "explode"):
        assert not MATH.match(name), name


@each_module
def test_no_process_wide_floating_point_mode(module):
    """Loading a library linked with -ffast-math flushes the whole process's denormals: no start-up code may set MXCSR."""
    for symbol, lines in functions(module).items():
        assert not [line for line in lines if "ldmxcsr" in line], symbol
