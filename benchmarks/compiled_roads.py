"""The rows of embedding.py for what a C compiler makes, and for SciPy: each function times one road against doing without it."""

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from table import Bar
from timing import alternate

import fastloss as fl

SIZE = 4000  # in the caches: the arithmetic is what differs
FLAGS = {
    "as extensions are": ["-O3"],
    "COMPILE_ARGS": fl.c_api.COMPILE_ARGS,
    "and -march=native": [*fl.c_api.COMPILE_ARGS, "-march=native"],
}


# --- a scalar in a loop of Cython, against the formula typed by hand -------------------------------------------------------------

HEAD = """
# cython: language_level=3, boundscheck=False, wraparound=False
from libc.math cimport exp, fabs, log1p
from fastloss cimport (squared_error_f64, squared_error_grad_f64, huber_f64, huber_grad_f64, huber_f32, huber_grad_f32, quantile_f64,
    quantile_grad_f64, cauchy_f64, cauchy_grad_f64, binary_cross_entropy_with_logits_f64, binary_cross_entropy_with_logits_grad_f64)
"""
LOOP = """
def {name}(const {real}[::1] p, const {real}[::1] t, {real}[::1] g, double c):
    cdef double total = 0
    cdef Py_ssize_t i
    cdef {real} {names}
    with nogil:
        for i in range(p.shape[0]):
            {value}
            g[i] = {slope}
    return total
"""
SCALARS = {
    # name: type, hyperparameters, and by hand: what is computed first, the value, the slope
    "squared_error": ("double", "", "r = p[i] - t[i]", "r * r", "2 * r"),
    "huber": (
        "double",
        ", c",
        "r = p[i] - t[i]; a = fabs(r)",
        "0.5 * r * r if a <= c else c * (a - 0.5 * c)",
        "r if a <= c else c if r > 0 else -c",
    ),
    "quantile": (
        "double",
        ", c",
        "r = t[i] - p[i]",
        "c * r if r >= 0 else (c - 1) * r",
        "-c if r > 0 else 1 - c if r < 0 else 0",
    ),
    "cauchy": ("double", ", c", "r = p[i] - t[i]; a = r / c", "0.5 * c * c * log1p(a * a)", "r / (1 + a * a)"),
    "binary_cross_entropy_with_logits": (
        "double",
        ", 1, 0",
        "a = exp(-fabs(p[i]))",
        "(p[i] if p[i] > 0 else 0) - p[i] * t[i] + log1p(a)",
        "(1 / (1 + a) if p[i] > 0 else a / (1 + a)) - t[i]",
    ),
}


def module_text():
    parts = [HEAD]
    for name, (real, hyper, first, value, slope) in SCALARS.items():
        suffix = "f64" if real == "double" else "f32"
        ours = f"{name}_{suffix}(p[i], t[i]{hyper})"
        text = {"real": real, "names": "r, a"}
        parts.append(
            LOOP.format(name=f"ours_{name}", value=f"total += {ours}", slope=ours.replace(suffix, f"grad_{suffix}"), **text)
        )
        parts.append(LOOP.format(name=f"hand_{name}", value=f"{first}; total += {value}", slope=slope, **text))
    return "\n".join(parts)


def build_loops(folder, flags):
    """The module of both loops, compiled as the flags say."""
    module = "loops_" + folder.name.replace("-", "_")
    (folder / f"{module}.pyx").write_text(module_text(), encoding="utf-8")
    setup = (
        "import sys\nfrom Cython.Build import cythonize\nfrom setuptools import Extension, setup\nimport fastloss as fl\n"
        f"e = Extension({module!r}, ['{module}.pyx'], include_dirs=[fl.get_include()], extra_compile_args={list(flags)!r})\n"
        "setup(ext_modules=cythonize([e], quiet=True))\n"
    )
    (folder / "setup.py").write_text(setup, encoding="utf-8")
    environment = {n: v for n, v in os.environ.items() if n != "PYTHONSAFEPATH"}
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    sys.path.insert(0, str(folder))
    return __import__(module)


def scalars(table, title, kind, seconds):
    rng = np.random.default_rng(0)
    pred, target, grad, other = rng.normal(size=SIZE), rng.integers(0, 2, SIZE).astype(float), np.empty(SIZE), np.empty(SIZE)
    with tempfile.TemporaryDirectory() as folder:
        loops = build_loops(Path(folder), FLAGS[kind])
        # Without the instruction for fused products the C library, which looks for it at run time, has the faster logarithm.
        bar = [Bar(ratio=0.95)] if kind == "and -march=native" else []
        for name in SCALARS:
            ours, hand = getattr(loops, f"ours_{name}"), getattr(loops, f"hand_{name}")
            assert np.isclose(ours(pred, target, grad, 0.7), hand(pred, target, other, 0.7))
            np.testing.assert_allclose(grad, other, rtol=1e-9, atol=1e-12)
            calls = {"ours": lambda f=ours: f(pred, target, grad, 0.7), "hand": lambda f=hand: f(pred, target, other, 0.7)}
            times = alternate(calls, seconds / len(SCALARS))
            table.row(f"{title}: {name}"[:60], times["ours"], times["hand"], *bar)


# --- whole arrays from C -----------------------------------------------------------------------------------------------------------


def whole_arrays(table, title, seconds):
    """The C table's call against the call from Python: what Python costs, on arrays of 100 elements."""
    pred, target, grad = np.linspace(-1, 1, 100), np.zeros(100), np.empty(100)
    source = (Path(__file__).parents[1] / "examples" / "c_program" / "program.c").read_text(encoding="utf-8")
    source += """
    double repeat(uintptr_t address, const double *pred, const double *target, ptrdiff_t count, double *grad, int times) {
        const fastloss_api *fastloss = (const fastloss_api *)address;
        fastloss_bound huber;
        const void *inputs[2] = {pred, target};
        void *outputs[2] = {NULL, grad};
        double value = 0;
        fastloss->bind(&huber, "huber", "vg", 8, NULL, 0, NULL, 0);
        while (times--) fastloss->evaluate(&huber, count, inputs, NULL, FASTLOSS_MEAN, &value, outputs);
        return value;
    }
    """
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "repeat.c").write_text(source, encoding="utf-8")
        library = str(Path(folder) / "repeat.so")
        command = [
            shutil.which("cc") or "cc",
            "-O2",
            "-shared",
            "-fPIC",
            f"-I{fl.get_include()}",
            str(Path(folder) / "repeat.c"),
            "-o",
        ]
        subprocess.run([*command, library, "-lm"], check=True)
        repeat = ctypes.CDLL(library).repeat
        repeat.restype = ctypes.c_double
        repeat.argtypes = [ctypes.c_size_t, *[ctypes.c_void_p] * 2, ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_int]
        given = (fl.c_api.ADDRESS, pred.ctypes.data, target.ctypes.data, 100, grad.ctypes.data, 100)
        assert repeat(*given) == fl.huber(pred, target)

        def python():
            for _ in range(100):
                fl.huber.value_and_grad(pred, target, grad_out=grad)

        times = alternate({"ours": lambda: repeat(*given), "python": python}, seconds)
        table.row(title, times["ours"], times["python"])


# --- SciPy --------------------------------------------------------------------------------------------------------------------------


def logistic(table, title, seconds):
    """To the same tolerance, with the same stopping rule: the one of scikit-learn."""
    from scipy.optimize import minimize
    from sklearn.linear_model import LogisticRegression

    rng, tolerance = np.random.default_rng(0), 1e-6
    X = rng.normal(size=(100_000, 100))
    y = (rng.random(len(X)) < 1 / (1 + np.exp(-X @ (rng.normal(size=100) / 5) - 0.3))).astype(float)
    stop = {"gtol": tolerance, "maxiter": 1000, "maxls": 50, "ftol": 64 * np.finfo(float).eps}

    def ours():
        model = fl.as_scipy(fl.binary_cross_entropy_with_logits, X, y, fit_intercept=True, l2=1 / len(X))
        return minimize(model.fun_and_grad, model.start, jac=True, method="L-BFGS-B", options=stop)

    def theirs():
        return LogisticRegression(solver="lbfgs", C=1.0, tol=tolerance, max_iter=1000).fit(X, y)

    found, fitted = ours(), theirs()
    assert found.nit == fitted.n_iter_[0]
    np.testing.assert_allclose(found.x[:-1], fitted.coef_[0], rtol=1e-5)
    times = alternate({"ours": ours, "theirs": theirs}, seconds)
    table.row(title, times["ours"], times["theirs"], Bar(ratio=1.0))


def robust(table, title, seconds):
    """The same solution as SciPy's own robust losses."""
    from scipy.optimize import least_squares

    t = np.linspace(0, 10, 10_000)
    data = 3 * np.exp(-0.5 * t) + 0.1 * np.sin(37 * t)
    data[::7] += 2

    def residuals(p):
        return p[0] * np.exp(-p[1] * t) - data

    for theirs, loss in {"huber": fl.huber, "soft_l1": fl.pseudo_huber, "cauchy": fl.cauchy, "arctan": fl.arctan}.items():
        rho = fl.as_least_squares_loss(loss)
        calls = {
            "ours": lambda rho=rho: least_squares(residuals, [1.0, 1.0], loss=rho, f_scale=0.5, xtol=1e-12),
            "theirs": lambda name=theirs: least_squares(residuals, [1.0, 1.0], loss=name, f_scale=0.5, xtol=1e-12),
        }
        np.testing.assert_allclose(calls["ours"]().x, calls["theirs"]().x, rtol=1e-7)
        times = alternate(calls, seconds)
        table.row(f"{title}: {theirs}", times["ours"], times["theirs"])


def line(table, title, seconds):
    """Against the calls that make the point, and three products."""
    rng = np.random.default_rng(0)
    eta, toward, target = rng.normal(size=10**6), rng.normal(size=10**6), rng.integers(0, 2, 10**6).astype(float)
    loss = fl.binary_cross_entropy_with_logits

    def plain():
        value, grad, hess = loss.value_grad_hess(eta + 0.5 * toward, target)
        return value, grad @ toward, hess @ (toward * toward)

    np.testing.assert_allclose(fl.line_search(loss, eta, target, direction=toward, step=0.5), plain(), rtol=1e-10)
    times = alternate({"ours": lambda: fl.line_search(loss, eta, target, direction=toward, step=0.5), "plain": plain}, seconds)
    table.row(title, times["ours"], times["plain"])


ROWS = [
    *((f"by hand: cimported scalars, {kind}", scalars, (kind,)) for kind in FLAGS),
    ("the Python call: C table, 100 calls of huber, 10^2", whole_arrays, ()),
    ("sklearn: logistic regression by as_scipy, 10^5 x 100", logistic, ()),
    ("scipy: robust least_squares, 10^4", robust, ()),
    ("arrays: line_search, 10^6", line, ()),
]
