"""How far the vector math is from the truth, and what it costs: python benchmarks/vector_math.py [--quick] [--function NAME]

All 2^32 float32 numbers go through each function of one argument, 10^8 random pairs through those of two, 10^8 numbers through
the float64 kernels. The reference is NumPy and SciPy in float64 for float32, and in 80-bit long double (mpmath for the gamma
functions) for float64. One reference serves all levels of the processor, so the kernels are called where they lie in the
`tiles_*` modules, not through FASTLOSS_ISA. Each function's result is kept in the state file, with a fingerprint of
the code: a sweep that was stopped goes on with the next function.

The tests (tests/test_vecmath.py) take their table of promises and references from here and check a subset.
"""

import argparse
import ctypes
import hashlib
import importlib
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

import fastloss.vecmath  # noqa: F401  (enters its functions)
from fastloss._kernels.cpu import engine, levels
from fastloss.formula import TABLE
from fastloss.formula.c import function_text
from fastloss.formula.definition import F32, F64, VECTOR_FUNCTIONS

HERE = Path(__file__).parent
BLOCK = 1 << 16
TASK = 1 << 24
HAS_LONG_DOUBLE = np.finfo(np.longdouble).nmant > np.finfo(np.float64).nmant


# --- references: the same text in float64 and in long double ----------------------------------------------------------------


def _small_exponential(x):
    return np.exp(-np.abs(x))


def _sigmoid(x):
    e = _small_exponential(x)
    return np.where(x < 0, e, 1) / (1 + e)


def _softplus(x):
    return np.maximum(x, 0) + np.log1p(_small_exponential(x))


def _sqrt1pm1(x):
    return np.where(np.isposinf(x), x, x / (1 + np.sqrt(1 + x)))


def _log1pmx(x):
    near = np.where(np.abs(x) < 0.1, x, 0)
    series = 0 * near
    for k in range(26, 1, -1):
        series = near * series + (-1) ** (k + 1) / x.dtype.type(k)
    far = np.where(np.isposinf(x), -x, np.log1p(np.where(np.isposinf(x), 0, x)) - x)
    return np.where(np.abs(x) < 0.1, near * near * series, far)


def _logaddexp(a, b):
    value = np.where(a == b, a + np.log(a.dtype.type(2)), np.fmax(a, b) + np.log1p(np.exp(-np.abs(a - b))))
    return np.where(np.isnan(a) | np.isnan(b), np.nan, value)


def _log_cosh(x):
    size = np.abs(x)
    near = np.log1p(2 * np.sinh(np.minimum(size, 1) / 2) ** 2)
    return np.where(size < 1, near, size + (np.log1p(np.exp(-2 * size)) - np.log(x.dtype.type(2))))


def _xlogy(x, y):
    return np.where((x == 0) & ~np.isnan(y), 0, x * np.log(y))


def _extreme(a, b, pick):
    return np.where(np.isnan(a) | np.isnan(b), np.nan, pick(a, b))


def _by_mpmath(name, *arrays):
    """Long doubles from mpmath, whose 50 digits are cut in two doubles."""
    import mpmath as mp

    def one(*x):
        if any(np.isnan(v) for v in x):
            return np.longdouble(np.nan)
        try:
            value = TABLE[name].exact(mp, *(mp.mpf(float(v)) for v in x))
        except (ValueError, ZeroDivisionError):
            return np.longdouble(POLES[name](*x))
        high = float(value)
        return np.longdouble(high) + np.longdouble(float(value - high)) if np.isfinite(high) else np.longdouble(high)

    with mp.workdps(40):
        return np.array([one(*x) for x in zip(*arrays, strict=True)], np.longdouble)


POLES = {
    "lgamma": lambda x: np.inf,
    "digamma": lambda x: np.copysign(np.inf, -x) if x == 0 else np.nan,
    "trigamma": lambda x: np.inf,
}


def _gamma_family(name, x):
    if x.dtype == np.longdouble:
        return _by_mpmath(name, x)
    from scipy import special

    if name == "lgamma":
        return special.gammaln(x)
    if name == "digamma":
        return np.where(x == 0, np.copysign(np.inf, -x), special.digamma(x))
    right = np.where(x < 0, 1 - x, x)
    value = special.zeta(2, right)
    distance = x - np.rint(x)
    return np.where(x < 0, (np.pi / np.sin(np.pi * distance)) ** 2 - value, value)


# --- the table --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Promise:
    """At most so many ulp in float32 and float64, for the arguments in `domain`; `scale` is what the ulp is of."""

    f32: float
    f64: float
    domain: str = "all x"
    keep: object = None
    scale: object = None
    of: str = "f(x)"

    def bound(self, precision):
        return self.f32 if precision == "f32" else self.f64


@dataclass(frozen=True)
class Function:
    """`reference` takes and gives float64 or long double; `typical` is the range that is timed and looked at closely."""

    reference: object
    promises: tuple
    typical: tuple = (-10.0, 10.0)
    by_mpmath: bool = False


def _beyond_one(value, *x):
    return np.maximum(np.abs(value), 1)


def _largest(value, *x):
    return np.maximum(np.abs(value), np.maximum(*np.abs(x)))


def _right(x):
    return x >= 0


def _left(x):
    return (x < 0) & (x > -np.inf)


def _gamma(name, right, left, right_of_itself=None):
    """Promises on both sides of 0; in ulp of max(1, |f|) where f has zeros."""
    if right_of_itself is None:
        promises = (Promise(right, right, "x > 0", _right), Promise(left, left, "x < 0", _left))
    else:
        one = {"scale": _beyond_one, "of": "max(1, f(x))"}
        promises = (
            Promise(right, right, "x > 0", _right, **one),
            Promise(right_of_itself, right_of_itself, "x > 0", _right),
            Promise(left, left, "x < 0", _left, **one),
        )
    return Function(lambda x: _gamma_family(name, x), promises, (0.1, 30.0), by_mpmath=True)


def _scaled_exp(scale, x):
    with np.errstate(all="ignore"):
        return np.where(scale == 0, 0, scale * np.exp(x))


EXACT, ONE, TWO = (Promise(0, 0),), (Promise(1, 1),), (Promise(2, 2),)
CORRECT = (Promise(0.5, 0.5),)
TURNS = (Promise(2, 2, "abs(x) <= 2^20", lambda x: np.abs(x) <= 2.0**20),)
FUNCTIONS = {
    "absolute": Function(np.abs, EXACT),
    "sign": Function(np.sign, EXACT),
    "maximum": Function(lambda a, b: _extreme(a, b, np.fmax), EXACT),
    "minimum": Function(lambda a, b: _extreme(a, b, np.fmin), EXACT),
    "sqrt": Function(np.sqrt, CORRECT, (0.0, 100.0)),
    "sqrt1pm1": Function(_sqrt1pm1, (Promise(2.3, 2.3),), (-1.0, 100.0)),
    "exp": Function(np.exp, ONE),
    "exp_nonpositive": Function(np.exp, (Promise(1.3, 1.3, "x <= 0", lambda x: x <= 0),), (-10.0, 0.0)),
    "scaled_exp": Function(_scaled_exp, (Promise(1.5, 1.5, "abs(x) <= 170", lambda scale, x: np.abs(x) <= 170),)),
    "out_of_range": Function(np.zeros_like, (Promise(0, 0, "1e-27 <= x <= 1e36", lambda x: (x >= 1e-27) & (x <= 1e36)),)),
    "range_scale": Function(np.ones_like, (Promise(0, 0, "x = 0", lambda x: x == 0),)),
    "expm1": Function(np.expm1, TWO),
    "log": Function(np.log, ONE, (0.0, 100.0)),
    "log1p": Function(np.log1p, TWO, (-1.0, 100.0)),
    "log1pmx": Function(_log1pmx, (Promise(3, 3),), (-1.0, 3.0)),
    "tanh": Function(np.tanh, TWO),
    "sigmoid": Function(_sigmoid, TWO),
    "softplus": Function(_softplus, TWO),
    "log_sigmoid": Function(lambda x: -_softplus(-x), TWO),
    "logaddexp": Function(
        _logaddexp,
        (Promise(3.5, 3.5, "all a, b", None, _largest, "max(f, a, b)"),),
    ),
    "log_cosh": Function(_log_cosh, TWO),
    "xlogy": Function(_xlogy, TWO, (0.0, 10.0)),
    "power": Function(np.power, TWO, (0.0, 10.0)),
    "atan": Function(np.arctan, TWO),
    "sin": Function(np.sin, TURNS),
    "cos": Function(np.cos, TURNS),
    "lgamma": _gamma("lgamma", 3.2, 40, 8),
    "digamma": _gamma("digamma", 2.5, 17, 4.5),
    "trigamma": _gamma("trigamma", 3.3, 5.2),
}
PRECISIONS = {"f32": np.float32, "f64": np.float64}


# --- the kernels ------------------------------------------------------------------------------------------------------------


def available():
    """The levels that were built and that this processor runs: {name: module}, the best first."""
    found = {}
    for name in list(levels.NAMES.values())[list(levels.NAMES.values()).index(engine.ISA) :]:
        short = name.rsplit("-", 1)[-1]
        try:
            found[short] = importlib.import_module(f"fastloss._kernels.cpu.tiles_{short}")
        except ModuleNotFoundError:
            continue
    return found


@cache
def kernel(level, name, precision):
    address = available()[level].address(f"{name}_map_{precision}")
    return ctypes.CFUNCTYPE(None, ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_void_p)(address)


def apply(level, name, *inputs):
    """A primitive's kernel of one level over contiguous arrays."""
    result = np.empty_like(inputs[0])
    pointers = (ctypes.c_void_p * (len(inputs) + 1))(*(array.ctypes.data for array in (*inputs, result)))
    kernel(level, name, "f32" if result.dtype == np.float32 else "f64")(result.size, pointers, None)
    return result


# --- errors -----------------------------------------------------------------------------------------------------------------


def ulp(value, precision):
    """The unit in the last place of the narrow precision at these wide values, of its subnormals too."""
    info = np.finfo(PRECISIONS[precision])
    if value.dtype == np.float64:
        exponent = value.view(np.int64) & (0x7FF << 52)
        exponent = np.clip(exponent, (1023 + info.minexp) << 52, (1023 + info.maxexp - 1) << 52) - (info.nmant << 52)
        return exponent.view(np.float64)
    _, exponent = np.frexp(np.where(np.isfinite(value), value, 1))
    exponent = np.where(np.isinf(value), info.maxexp - 1, np.clip(exponent - 1, info.minexp, info.maxexp - 1))
    return np.ldexp(np.longdouble(1), exponent.astype(np.intc) - info.nmant)


def errors(got, truth, precision, scale=None):
    """|got - truth| in ulp; an overflow counts as the next power of 2, NaN must meet NaN."""
    wide = truth.dtype
    top = np.ldexp(wide.type(1), np.finfo(PRECISIONS[precision]).maxexp)
    with np.errstate(all="ignore"):  # NumPy warns of signalling NaNs
        ours = np.clip(got.astype(wide), -top, top)
        theirs = np.clip(truth, -top, top)
        error = np.abs(ours - theirs) / ulp(truth if scale is None else np.asarray(scale, wide), precision)
    error[np.isnan(truth) & np.isnan(got)] = 0
    error[np.isnan(error)] = np.inf
    return error


def truth_of(name, inputs, precision):
    wide = np.float64 if precision == "f32" else np.longdouble
    with np.errstate(all="ignore"):
        return np.asarray(FUNCTIONS[name].reference(*(x.astype(wide) for x in inputs)), wide)


def worst(name, precision, inputs, on):
    """For each promise and level the largest error, and where: {(promise, level): (ulp, arguments)}."""
    truth = truth_of(name, inputs, precision)
    with np.errstate(all="ignore"):
        wide = [x.astype(truth.dtype) for x in inputs]
    found = {}
    for level in on:
        got = apply(level, name, *inputs)
        for index, promise in enumerate(FUNCTIONS[name].promises):
            with np.errstate(all="ignore"):
                scale = None if promise.scale is None else promise.scale(truth, *wide)
            error = errors(got, truth, precision, scale)
            if promise.keep is not None:
                error[~promise.keep(*inputs)] = 0
            at = int(np.argmax(error))
            found[index, level] = float(error[at]), [float(x[at]) for x in inputs]
    return found


# --- arguments --------------------------------------------------------------------------------------------------------------


def patterns(start, stop, step=1):
    """Float32 numbers by their bits."""
    return np.arange(start, stop, step, np.uint64).astype(np.uint32).view(np.float32)


def draw(name, precision, count, rng):
    """Random arguments: of any bits, and of the range where the function is used."""
    dtype = PRECISIONS[precision]
    low, high = FUNCTIONS[name].typical
    arguments = []
    for position in range(len(TABLE[name].derivatives)):
        bits = rng.integers(0, 2**64, count, np.uint64, endpoint=False)
        anywhere = (bits >> np.uint64(64 - 8 * dtype().itemsize)).astype(f"u{dtype().itemsize}").view(dtype)
        if FUNCTIONS[name].by_mpmath:  # what lies far left and in the subnormals takes mpmath too long
            anywhere = np.abs(anywhere)
        close = rng.uniform(low, high, count)
        if position and name == "power":
            close = rng.uniform(-40, 40, count)
        magnitude = np.exp2(rng.uniform(-30, 12, count)) * rng.choice([-1, 1], count)
        kind = rng.integers(0, 3, count)
        x = np.where(kind == 0, magnitude, close).astype(dtype)
        arguments.append(np.where(kind == 2, anywhere, x))
    return arguments


def task(work):
    """One piece of a sweep, in a process of its own; returns what `worst` found."""
    name, precision, on, kind, first, count = work
    found = {}
    rng = np.random.default_rng([first, len(name)])
    for start in range(first, first + count, BLOCK):
        size = min(BLOCK, first + count - start)
        inputs = [patterns(start, start + size)] if kind == "all" else draw(name, precision, size, rng)
        for key, pair in worst(name, precision, inputs, on).items():
            if key not in found or pair[0] > found[key][0]:
                found[key] = pair
    return found


def sweep(name, precision, on, quick, pool):
    """The whole of one function in one precision: (points, what `worst` found)."""
    if precision == "f32" and len(TABLE[name].derivatives) == 1 and not quick:
        kind, points = "all", 1 << 32
    else:
        kind, points = "random", 2_000_000 if quick else 100_000_000
        if FUNCTIONS[name].by_mpmath and precision == "f64":
            points = 10_000 if quick else 400_000
    size = min(TASK, max(1000, points // 8))
    pieces = [(name, precision, on, kind, start, min(size, points - start)) for start in range(0, points, size)]
    found = {}
    for part in pool.map(task, pieces):
        for key, pair in part.items():
            if key not in found or pair[0] > found[key][0]:
                found[key] = pair
    return points, found


def nanoseconds(level, name, precision):
    """Per element, over a tile in the L1 cache, in the range where the function is used."""
    low, high = FUNCTIONS[name].typical
    rng = np.random.default_rng(0)
    inputs = [rng.uniform(low, high, 1024).astype(PRECISIONS[precision]) for _ in TABLE[name].derivatives]
    result = np.empty_like(inputs[0])
    pointers = (ctypes.c_void_p * 4)(*(array.ctypes.data for array in (*inputs, result)))
    call = kernel(level, name, precision)
    best = np.inf
    for _ in range(30):
        start = time.perf_counter()
        for _ in range(50):
            call(1024, pointers, None)
        best = min(best, time.perf_counter() - start)
    return best / 50 / 1024 * 1e9


# --- the report -------------------------------------------------------------------------------------------------------------

HEAD = """# The vector math

`fastloss` has its own exponential, logarithm and related functions: branch-free polynomials that are inlined into every kernel. The
table lists the largest errors found, in units in the last place (ulp) of the result, and the time per element in the L1 cache. It is
written by `python benchmarks/vector_math.py`; `tests/test_vecmath.py` checks that every kernel stays within the column *promise*.

2^32 points are all float32 numbers. NaN gives NaN; infinities, overflow and subnormal numbers are included.

"""


@cache
def fingerprint():
    """Of the vector math as it is handed to the compiler."""
    text = "".join(
        function_text(function.trace(precision), precision, "")
        for function in VECTOR_FUNCTIONS.values()
        for precision in (F32, F64)
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def report(state):
    """The Markdown page: a row for each promise, the levels side by side, the lowest first."""
    names = [level for level in ("plain", "v2", "v3", "v4") if any(level in levels_of(entry) for entry in state.values())]
    columns = [
        "function",
        "precision",
        "domain",
        "in ulp of",
        "promise",
        *(f"max ulp {name}" for name in names),
        "worst at",
        "points",
    ]
    columns += [f"ns {name}" for name in names]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for name, function in FUNCTIONS.items():
        for precision in PRECISIONS:
            entry = state.get(f"{name} {precision}")
            for index, promise in enumerate(function.promises if entry else ()):
                results = {r["level"]: r for r in entry["results"] if r["promise"] == index}
                lines.append("| " + " | ".join(row(name, precision, promise, results, names, entry["points"])) + " |")
    return HEAD + "\n".join(lines) + "\n"


def row(name, precision, promise, results, names, points):
    worst_one = max(results.values(), key=lambda r: r["ulp"])
    cells = [f"`{name}`", precision, promise.domain, promise.of, f"{promise.bound(precision):g}"]
    cells += [f"{results[level]['ulp']:.3f}" if level in results else "" for level in names]
    cells.append(", ".join(f"{x:.9g}" if precision == "f32" else f"{x!r}" for x in worst_one["at"]) if worst_one["ulp"] else "")
    cells.append("2^32" if points == 1 << 32 else f"{points:,}")
    return cells + [f"{results[level]['ns']:.2f}" if level in results else "" for level in names]


def levels_of(entry):
    return {result["level"] for result in entry["results"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two million random points per function instead of all")
    parser.add_argument("--function", nargs="+", choices=list(FUNCTIONS), default=list(FUNCTIONS), metavar="NAME")
    parser.add_argument("--precision", nargs="+", choices=list(PRECISIONS), default=list(PRECISIONS))
    parser.add_argument("--level", nargs="+", default=list(available()), help="v2, v3, v4, plain")
    parser.add_argument("--output", type=Path, default=HERE.parent / "docs" / "vector-math.md")
    parser.add_argument("--state", type=Path, default=HERE.parent / "build" / "vector-math.json", help="results so far")
    parser.add_argument("--again", action="store_true", help="also what the state file has already")
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    state = json.loads(given.state.read_text()) if given.state.exists() else {}
    state = {key: entry for key, entry in state.items() if entry.get("source") == fingerprint()}
    broken = 0
    with ProcessPoolExecutor(given.processes) as pool:
        for name in given.function:
            for precision in given.precision:
                if precision == "f64" and not HAS_LONG_DOUBLE and not FUNCTIONS[name].by_mpmath:
                    continue
                old = state.get(f"{name} {precision}")
                levels_done = levels_of(old) if old else set()
                if old and (given.quick or not old["quick"]) and levels_done >= set(given.level) and not given.again:
                    continue
                start = time.perf_counter()
                points, found = sweep(name, precision, given.level, given.quick, pool)
                times = {level: nanoseconds(level, name, precision) for level in given.level}
                results = [
                    {"promise": index, "level": level, "ulp": pair[0], "at": pair[1], "ns": times[level]}
                    for (index, level), pair in sorted(found.items())
                ]
                state[f"{name} {precision}"] = {
                    "source": fingerprint(),
                    "points": points,
                    "quick": given.quick,
                    "results": results,
                }
                given.state.parent.mkdir(parents=True, exist_ok=True)
                given.state.write_text(json.dumps(state, indent=1))
                for result in results:
                    bound = FUNCTIONS[name].promises[result["promise"]].bound(precision)
                    met = result["ulp"] <= bound
                    broken += not met
                    print(
                        f"{name:12} {precision} {result['level']:5} {result['ulp']:10.3f} ulp (promise {bound:g})"
                        f" at {result['at']} {result['ns']:6.2f} ns {'' if met else 'BROKEN'}",
                        flush=True,
                    )
                print(f"    {points:,} points in {time.perf_counter() - start:.1f} s", flush=True)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(report(state), encoding="utf-8")
    return broken


if __name__ == "__main__":
    sys.exit(min(main(), 100))
