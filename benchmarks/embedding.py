"""fastloss inside other programs, against what a program would hold instead: python benchmarks/embedding.py [--quick] [--only NAME]

The rows are read as those of peers.py. Of a user's own loss the peer is the built-in one; of functions for `@njit` code, and of
cimported ones, it is the same formula typed by hand. First calls are those of a new process whose libraries are imported; "cold"
finds nothing compiled. The rows of the C header, of the C table and of SciPy are in compiled_roads.py.
The exit status counts the bars missed.
"""

import argparse
import importlib.util
import math
import os
import subprocess
import sys
import tempfile

import compiled_roads
import numpy as np
from suite.inputs import inputs, outputs
from table import Bar, Table
from timing import Times, alternate

import fastloss as fl

SIZES = (10**5, 10**7)

# --- a user's own loss against the built-in one -----------------------------------------------------------------------------


@fl.loss
def squared_error(pred, target):
    return (pred - target) ** 2


@fl.loss(delta=fl.Positive(1.0))
def huber(pred, target, delta):
    a = abs(pred - target)
    return fl.math.where(a <= delta, 0.5 * a * a, delta * (a - 0.5 * delta))


@fl.loss
def log_cosh(pred, target):
    return fl.math.log_cosh(pred - target)


@fl.loss(target=fl.Label())
def binary_cross_entropy_with_logits(pred, target):
    return fl.math.softplus(fl.math.where(target > 0, -pred, pred))


@fl.loss(target=fl.NonNegative())
def poisson_nll(pred, target):
    return fl.math.exp(pred) - target * pred


OWN = (squared_error, huber, log_cosh, binary_cross_entropy_with_logits, poisson_nll)


def against_built_in(table, title, own, size, threads, seconds):
    built_in = getattr(fl, own.__name__)
    given = inputs(built_in, size)
    grad = outputs(built_in, given)
    with fl.threadpool_limits(threads):
        rivals = {name: _value_and_grad(loss, given, grad) for name, loss in (("ours", own), ("peer", built_in))}
        times = alternate(rivals, seconds)
    table.row(title, times["ours"], times["peer"], Bar(ratio=0.7))


def _value_and_grad(loss, given, grad):
    return lambda: loss.value_and_grad(*given, grad_out=grad)


FIRST_CALL = """
import sys
from time import perf_counter
import numpy, fastloss as fl, llvmlite.binding
sys.path[:0] = {path!r}
from embedding import {name} as loss
pred, target = numpy.ones((2, 1000), numpy.float32)
start = perf_counter()
loss.value_and_grad(pred, target)
print(perf_counter() - start)
"""


def first_call(table, title, is_cold, bar, seconds):
    """The slowest loss of five, each at its best of a few processes."""
    times = {}
    for loss in OWN:
        program = FIRST_CALL.format(name=loss.__name__, path=sys.path)
        rounds = []
        with tempfile.TemporaryDirectory() as warm:
            for _ in range(2 + round(seconds)):
                with tempfile.TemporaryDirectory() as empty:
                    environment = os.environ | {"FASTLOSS_CACHE_DIR": empty if is_cold else warm}
                    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
                rounds.append(float(done.stdout))
        times[loss.__name__] = Times(np.array(rounds if is_cold else rounds[1:]))
    worst = max(times, key=lambda name: times[name].best)
    table.row(f"{title} (of {len(times)}: {worst})", times[worst], bar=bar)


# --- functions for @njit code against the same typed by hand -----------------------------------------------------------------


def squared_error_by_hand(p, t):
    r = p - t
    return r * r, 2 * r


def huber_by_hand(p, t):
    r, delta = p - t, np.float32(1)
    if abs(r) <= delta:
        return np.float32(0.5) * r * r, r
    return delta * (abs(r) - np.float32(0.5) * delta), math.copysign(delta, r)


def log_cosh_by_hand(p, t):
    r = p - t
    a = abs(r)
    return a + math.log1p(math.exp(-2 * a)) - np.float32(math.log(2)), math.tanh(r)


def binary_cross_entropy_with_logits_by_hand(p, t):
    e = math.exp(-abs(p))
    sigmoid = (1 if p >= 0 else e) / (1 + e)
    return max(p, np.float32(0)) - t * p + math.log1p(e), sigmoid - t


def poisson_nll_by_hand(p, t):
    e = math.exp(p)
    return e - t * p, e - t


BY_HAND = (
    squared_error_by_hand,
    huber_by_hand,
    log_cosh_by_hand,
    binary_cross_entropy_with_logits_by_hand,
    poisson_nll_by_hand,
)


def against_typed_by_hand(table, title, by_hand, size, seconds):
    numba = importlib.import_module("numba")
    loss = getattr(fl, by_hand.__name__.removesuffix("_by_hand"))

    def loop(function):
        @numba.njit(error_model="numpy")
        def run(pred, target, values, grads):
            for i in range(pred.size):
                values[i], grads[i] = function(pred[i], target[i])

        return run

    given = inputs(loss, size)
    results = [np.zeros_like(given[0]) for _ in range(4)]
    ours, theirs = loop(loss.jit.value_and_grad), loop(numba.njit(error_model="numpy")(by_hand))
    times = alternate({"ours": lambda: ours(*given, *results[:2]), "peer": lambda: theirs(*given, *results[2:])}, seconds)
    np.testing.assert_allclose(results[0], results[2], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(results[1], results[3], rtol=1e-5, atol=1e-5)
    table.row(title, times["ours"], times["peer"], Bar(ratio=0.95))


# --- all of it ----------------------------------------------------------------------------------------------------------------

ROWS = [
    *(
        (f"built-in: own {own.__name__}, {size:,}, {threads} threads", against_built_in, (own, size, threads))
        for own in OWN
        for size in SIZES
        for threads in (1, 2)
    ),
    ("own loss, first call, cold", first_call, (True, Bar(seconds=3))),
    ("own loss, first call, new process", first_call, (False, Bar(seconds=0.15))),
    *(
        (f"by hand: {by_hand.__name__.removesuffix('_by_hand')}.jit, 10^5", against_typed_by_hand, (by_hand, 10**5))
        for by_hand in BY_HAND
        if importlib.util.find_spec("numba")
    ),
    *compiled_roads.ROWS,
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the time; for a look, not for a claim")
    parser.add_argument("--only", default="", metavar="NAME", help="rows whose name holds this")
    options = parser.parse_args()
    print(f"fastloss {fl.__version__}, numpy {np.__version__}, {fl.get_num_threads()} threads; float32, value and gradient")
    table = Table()
    for title, function, arguments in ROWS:
        if options.only in title:
            function(table, title, *arguments, seconds=0.3 if options.quick else 3)
    return table.missed


if __name__ == "__main__":
    sys.exit(main())
