"""fastloss against its peers, measured in one run: python benchmarks/peers.py [--quick] [--only NAME] [--threads N]

Every row holds fastloss and a peer timed in turn (see timing.py), with the same memory as inputs and as many threads.
A time is the median over the rounds, then the best. The ratio is the median over the rounds of the peer's time by fastloss's in
that round, with its quartiles, then that of the best times; above 1 fastloss is faster. A bar is met by the lower of the two
ratios, and by the median time: on a busy machine the first flatters whoever waits less for its threads. The exit status
counts the bars missed. `--only` takes a part of a row's name.
"""

import argparse
import ctypes
import importlib
import os
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
from suite.inputs import inputs, outputs
from table import NO_BAR, Bar, Table
from timing import Times, alternate

import fastloss as fl

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    sys.exit("peers.py compares with PyTorch: python -m pip install torch")
try:
    from sklearn._loss import loss as sklearn_loss
except ImportError:
    sklearn_loss = None

HERE = Path(__file__).parent
THREADS = fl.get_num_threads()

TORCH = {
    "squared_error": F.mse_loss,
    "binary_cross_entropy_with_logits": F.binary_cross_entropy_with_logits,
    "huber": F.huber_loss,
    "poisson_nll": F.poisson_nll_loss,
}
SKLEARN = {  # and their factor: scikit-learn's are half
    "squared_error": ("HalfSquaredError", 0.5),
    "binary_cross_entropy_with_logits": ("HalfBinomialLoss", 1.0),
    "poisson_nll": ("HalfPoissonLoss", 1.0),
}


AT_A_THOUSAND, AT_TEN_MILLION = Bar(ratio=12, seconds=3e-6), Bar(ratio=9)
GRADIENT_BARS = {
    (name, size): bar
    for name in ("squared_error", "binary_cross_entropy_with_logits")
    for size, bar in ((10**3, AT_A_THOUSAND), (10**7, AT_TEN_MILLION))
}


# --- losses ---------------------------------------------------------------------------------------------------------------


def against_torch(table, title, name, size, seconds):
    loss = getattr(fl, name)
    pred, target = inputs(loss, size)
    grad = outputs(loss, (pred, target))
    leaf, there = torch.from_numpy(pred).requires_grad_(), torch.from_numpy(target)

    def ours():
        return loss.value_and_grad(pred, target, grad_out=grad)

    def backward():
        leaf.grad = None
        TORCH[name](leaf, there).backward()

    def autograd():
        torch.autograd.grad(TORCH[name](leaf, there), leaf)

    value, _ = ours()
    backward()
    np.testing.assert_allclose(value, TORCH[name](leaf, there).item(), rtol=1e-4)
    np.testing.assert_allclose(grad, leaf.grad.numpy(), rtol=1e-3, atol=1e-5 / size)
    times = alternate({"ours": ours, "backward": backward, "autograd": autograd}, seconds)
    peer = min(times["backward"], times["autograd"], key=lambda t: t.median)
    table.row(title, times["ours"], peer, GRADIENT_BARS.get((name, size), NO_BAR))


def against_sklearn(table, title, name, size, seconds):
    """Into given outputs on both sides. scikit-learn's has no reduction: it writes each element's value."""
    loss = getattr(fl, name)
    theirs, factor = getattr(sklearn_loss, SKLEARN[name][0])(), SKLEARN[name][1]
    pred, target = inputs(loss, size)
    if name == "binary_cross_entropy_with_logits":
        target = np.round(target)
    grad, value_out, grad_out = (np.zeros_like(pred) for _ in range(3))

    def ours():
        loss.value_and_grad(pred, target, grad_out=grad)

    def peer():
        theirs.loss_gradient(target, pred, loss_out=value_out, gradient_out=grad_out, n_threads=fl.get_num_threads())

    ours()
    peer()
    np.testing.assert_allclose(grad * factor * size, grad_out, rtol=1e-3, atol=1e-5)
    times = alternate({"ours": ours, "peer": peer}, seconds)
    table.row(title, times["ours"], times["peer"])


def rows_against_torch(table, title, shape, bar, seconds):
    """Cross-entropy of rows of logits, the gradient into a given array."""
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal(shape, dtype=np.float32), rng.integers(0, shape[1], shape[0])
    grad = np.zeros_like(logits)
    leaf, there = torch.from_numpy(logits).requires_grad_(), torch.from_numpy(labels)

    def ours():
        return fl.cross_entropy.value_and_grad(logits, labels, grad_out=grad)

    def peer():
        leaf.grad = None
        F.cross_entropy(leaf, there).backward()

    value, _ = ours()
    peer()
    np.testing.assert_allclose(value, F.cross_entropy(leaf, there).item(), rtol=1e-4)
    np.testing.assert_allclose(grad, leaf.grad.numpy(), rtol=1e-3, atol=1e-6 / shape[0])
    times = alternate({"ours": ours, "peer": peer}, seconds)
    table.row(title, times["ours"], times["peer"], bar)


def triplet_against_torch(table, title, shape, bar, seconds):
    """Three gradients into given arrays."""
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape, dtype=np.float32) for _ in range(3)]
    grads = tuple(np.zeros_like(array) for array in arrays)
    leaves = [torch.from_numpy(array).requires_grad_() for array in arrays]

    def ours():
        return fl.triplet_margin.value_and_grad(*arrays, grad_out=grads)

    def peer():
        for leaf in leaves:
            leaf.grad = None
        F.triplet_margin_loss(*leaves).backward()

    value, _ = ours()
    peer()
    np.testing.assert_allclose(value, F.triplet_margin_loss(*leaves).item(), rtol=1e-4)
    for grad, leaf in zip(grads, leaves, strict=True):
        np.testing.assert_allclose(grad, leaf.grad.numpy(), rtol=1e-3, atol=1e-6 / shape[0])
    times = alternate({"ours": ours, "peer": peer}, seconds)
    table.row(title, times["ours"], times["peer"], bar)


def linear_inputs():
    """2048 rows of 512 and a layer of 32,000 classes."""
    rng = np.random.default_rng(0)
    shapes = (2048, 512), (32_000, 512), (32_000,)
    x, weight, bias = (rng.standard_normal(shape, dtype=np.float32) for shape in shapes)
    weight /= 20
    return (x, weight, bias), rng.integers(0, 32_000, 2048)


def linear_against_torch(table, title, seconds):
    """A layer's cross-entropy with its three gradients. PyTorch holds the logits; both sides multiply by their own BLAS."""
    arrays, labels = linear_inputs()
    x, weight, bias = arrays
    grads = tuple(map(np.zeros_like, arrays))
    leaves = [torch.from_numpy(array).requires_grad_() for array in arrays]
    there = torch.from_numpy(labels)

    def ours():
        return fl.linear_cross_entropy.value_and_grad(x, weight, labels, bias, grad_out=grads)

    def peer():
        for leaf in leaves:
            leaf.grad = None
        F.cross_entropy(F.linear(*leaves), there).backward()

    ours()
    peer()
    for grad, leaf in zip(grads, leaves, strict=True):
        np.testing.assert_allclose(grad, leaf.grad.numpy(), rtol=1e-3, atol=1e-5 * np.abs(grad).max())
    times = alternate({"ours": ours, "peer": peer}, seconds)
    table.row(title, times["ours"], times["peer"], Bar(ratio=1 / 0.75))


def linear_memory(table, title, seconds):
    """What a call takes beside inputs and results: the peak of the resident memory of a fresh process, less what was there."""
    ours, peer = (np.median([fresh(MEMORY, str(HERE), side)[0] for _ in range(3)]) for side in ("ours", "torch"))
    line = f"{title:60} {ours / 2**20:5.0f} MiB {'':9} {peer / 2**20:5.0f} MiB {'':9} {peer / ours:6.2f}"
    table.end(line, peer / ours >= 10, ">= 10x")


def losses_rows():
    """(title, function, arguments) for each comparison of value and gradient together."""
    for size in (10**7, 10**3, 10**5, 10**6):
        for name in TORCH:
            yield f"torch: {name}, 10^{len(str(size)) - 1}", against_torch, (name, size)
    for size in (10**6,) if sklearn_loss else ():
        for name in SKLEARN:
            yield f"sklearn: {name}, 10^{len(str(size)) - 1}", against_sklearn, (name, size)


# --- optimizers -----------------------------------------------------------------------------------------------------------


def drawn(count, size):
    """Parameters and gradients."""
    rng = np.random.default_rng(0)
    return [[rng.standard_normal(size, dtype=np.float32) for _ in range(count)] for _ in range(2)]


def in_torch(params, grads):
    """Copies of the parameters, with their gradients."""
    copies = [torch.from_numpy(param.copy()).requires_grad_() for param in params]
    for tensor, grad in zip(copies, grads, strict=True):
        tensor.grad = torch.from_numpy(grad)
    return copies


def adamw(table, title, tensors, bar, seconds):
    params, grads = drawn(*tensors)
    copies = in_torch(params, grads)
    ours = fl.AdamW(params, lr=1e-3, weight_decay=0.01)
    theirs = torch.optim.AdamW(copies, lr=1e-3, weight_decay=0.01, fused=True)
    ours.step(grads)
    theirs.step()
    np.testing.assert_allclose(params[0], copies[0].detach().numpy(), rtol=1e-5, atol=1e-6)
    times = alternate({"ours": lambda: ours.step(grads), "peer": theirs.step}, seconds)
    table.row(title, times["ours"], times["peer"], bar)


BARE = r"""
void sweep(float *restrict p, const float *restrict g, float *restrict m, float *restrict v, long start, long stop)
{
    for (long i = start; i < stop; i++) {
        m[i] = 0.9f * m[i] + 0.1f * g[i];
        v[i] = 0.9f * v[i] + 0.1f * g[i];
        p[i] = p[i] - 1e-3f * g[i];
    }
}
"""


def bare_sweep(table, title, size, seconds):
    """The same seven streams, four read and three written, with next to no arithmetic: what the memory gives."""
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "bare.c"), Path(folder, "bare.so")
        source.write_text(BARE)
        compiler = sysconfig.get_config_var("CC").split()[0]
        subprocess.run([compiler, "-O3", "-march=native", "-shared", "-fPIC", source, "-o", library], check=True)
        sweep = ctypes.CDLL(str(library)).sweep
    (param,), (grad,) = drawn(1, size)
    rivals = [param.copy(), grad, np.zeros_like(param), np.zeros_like(param)]
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in rivals]
    cuts = np.linspace(0, size, fl.get_num_threads() + 1).astype(int)
    ours = fl.AdamW(param, lr=1e-3, weight_decay=0.01)
    with ThreadPoolExecutor() as pool:

        def peer():  # a call through ctypes lets go of the interpreter's lock
            parts = [pool.submit(sweep, *pointers, ctypes.c_long(a), ctypes.c_long(b)) for a, b in pairwise(cuts.tolist())]
            for part in parts:
                part.result()

        times = alternate({"ours": lambda: ours.step(grad), "peer": peer}, seconds)
    table.row(title, times["ours"], times["peer"], Bar(ratio=0.9))


def everything(table, title, tensors, seconds):
    """Unscale, clip by norm, step, average: one call against PyTorch's four."""
    params, grads = drawn(*tensors)
    copies = in_torch(params, grads)
    averages = [tensor.detach().clone() for tensor in copies]
    ours = fl.AdamW(params, lr=1e-3, weight_decay=0.01, ema_decay=0.99)
    theirs = torch.optim.AdamW(copies, lr=1e-3, weight_decay=0.01, fused=True)
    given = [torch.from_numpy(grad) for grad in grads]
    memory = [torch.empty_like(grad) for grad in given]
    for tensor, grad in zip(copies, memory, strict=True):
        tensor.grad = grad

    def peer():
        # What backward would have left there; not timed apart, it is taken off below.
        refill()
        torch._foreach_mul_(memory, 1 / 1024)
        torch.nn.utils.clip_grad_norm_(copies, 1.0)
        theirs.step()
        torch._foreach_lerp_(averages, [tensor.detach() for tensor in copies], 0.01)

    def refill():
        torch._foreach_copy_(memory, given)

    def call():
        return ours.step(grads, grad_scale=1024.0, max_norm=1.0)

    call()
    peer()
    np.testing.assert_allclose(params[0], copies[0].detach().numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours.ema[0], averages[0].numpy(), rtol=1e-5, atol=1e-6)
    times = alternate({"ours": call, "peer": peer, "refill": refill}, seconds)
    table.row(title, times["ours"], Times(times["peer"].rounds - times["refill"].rounds), Bar(ratio=2.5))


def settings(name):
    """Hyperparameters of ours and PyTorch's, with every part of the rule at work."""
    common = {
        "SGD": {"lr": 1e-3, "momentum": 0.9, "weight_decay": 1e-2},
        "RMSprop": {"lr": 1e-3, "momentum": 0.9, "centered": True, "weight_decay": 1e-2},
        "Rprop": {"lr": 1e-3},
    }
    return common.get(name, {"lr": 1e-3, "weight_decay": 1e-2})


def rule(table, title, name, size, bar, seconds):
    """Against the quicker of PyTorch's plain and its foreach version."""
    params, grads = drawn(1, size)
    ours = getattr(fl, name)(params, **settings(name))
    rivals = {"ours": lambda: ours.step(grads)}
    for foreach in (False, True):
        copies = in_torch(params, grads)
        theirs = getattr(torch.optim, name)(copies, foreach=foreach, **settings(name))
        rivals[f"foreach {foreach}"] = theirs.step
    ours.step(grads)
    for step in list(rivals.values())[1:]:
        step()
    np.testing.assert_allclose(params[0], copies[0].detach().numpy(), rtol=1e-4, atol=1e-5)
    times = alternate(rivals, seconds)
    peer = min(times["foreach False"], times["foreach True"], key=lambda t: t.median)
    table.row(title, times["ours"], peer, bar)


def half(table, title, size, seconds):
    """Parameters, gradients and states of two bytes against those of four, the arithmetic the same."""
    (param,), (grad,) = drawn(1, size)
    bfloat16 = np.dtype(importlib.import_module("ml_dtypes").bfloat16)
    narrow, short = param.astype(bfloat16), grad.astype(bfloat16)
    ours, peer = fl.AdamW(narrow, state_dtype=bfloat16), fl.AdamW(param)
    times = alternate({"ours": lambda: ours.step(short), "peer": lambda: peer.step(grad)}, seconds)
    table.row(title, times["ours"], times["peer"], Bar(ratio=1.6))


def plain_numpy(table, title, size, seconds):
    """Adam as one writes it."""
    (param,), (grad,) = drawn(1, size)
    w, m, v, t = param.copy(), np.zeros_like(param), np.zeros_like(param), 0
    ours = fl.Adam(param)

    def peer():
        nonlocal w, m, v, t
        t += 1
        m = 0.9 * m + 0.1 * grad
        v = 0.999 * v + 0.001 * grad**2
        w = w - 1e-3 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)

    ours.step(grad)
    peer()
    np.testing.assert_allclose(param, w, rtol=1e-5, atol=1e-6)
    times = alternate({"ours": lambda: ours.step(grad), "peer": peer}, seconds)
    table.row(title, times["ours"], times["peer"], Bar(ratio=8))


def denormals(table, title, size, seconds):
    """A step whose moments are all denormal, each time anew, against one whose moments are normal."""
    (param,), _ = drawn(1, size)
    optimizers = {}
    for name, moment in (("ours", 1e-41), ("peer", 1e-3)):
        optimizer = fl.AdamW(param.copy(), lr=1e-3)
        optimizer.step(np.zeros_like(param))
        held = optimizer._bound.held[0]
        optimizers[name] = optimizer, held, np.float32(moment)
    zero = np.zeros_like(param)

    def call(name):
        optimizer, held, moment = optimizers[name]

        def step():
            for state in held.values():
                state.fill(moment)
            optimizer.step(zero)

        return step

    times = alternate({name: call(name) for name in optimizers}, seconds)
    table.row(title, times["ours"], times["peer"], Bar(ratio=1 / 1.1))


# --- programs -------------------------------------------------------------------------------------------------------------

IMPORT = """
from time import perf_counter
start = perf_counter()
import numpy
middle = perf_counter()
import fastloss
print(middle - start, perf_counter() - middle)
"""

FIRST_CALL = """
import sys
from time import perf_counter
sys.path.insert(0, sys.argv[1])
import fastloss
from suite.inputs import inputs
loss = getattr(fastloss, sys.argv[2])
arrays = inputs(loss, 1000)
start = perf_counter()
loss.value_and_grad(*arrays)
print(perf_counter() - start)
"""


MEMORY = """
import re, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from peers import F, fl, linear_inputs, torch
arrays, labels = linear_inputs()
few = [array[:8] for array in arrays]
if sys.argv[2] == "ours":
    def call(x, weight, bias, labels, grads):
        fl.linear_cross_entropy.value_and_grad(x, weight, labels, bias, grad_out=grads)
    grads, results = tuple(map(np.ones_like, arrays)), 0
    call(*few, labels[:8] % 8, tuple(map(np.ones_like, few)))
else:
    def call(x, weight, bias, labels, grads):
        leaves = [torch.from_numpy(array).requires_grad_() for array in (x, weight, bias)]
        F.cross_entropy(F.linear(*leaves), torch.from_numpy(labels)).backward()
    grads, results = None, sum(array.nbytes for array in arrays)
    call(*few, labels[:8] % 8, None)
def resident(which):
    # Not getrusage: what it calls the peak begins with the parent's.
    return 1024 * int(re.search(which + r":\\s+(\\d+)", open("/proc/self/status").read())[1])
before = resident("VmRSS")
call(*arrays, labels, grads)
print(resident("VmHWM") - before - results)
"""


def fresh(program, *arguments):
    """The numbers that a fresh process prints."""
    done = subprocess.run([sys.executable, "-P", "-c", program, *arguments], capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.split()]


def import_time(table, title, seconds):
    fresh(IMPORT)  # writes the bytecode
    numpy, ours = np.array([fresh(IMPORT) for _ in range(max(5, int(seconds / 0.15)))]).T
    table.row(title, Times(ours), Times(numpy), Bar(seconds=30e-3))


def first_call(table, title, seconds):
    """The worst of all losses, of each the median of its processes."""
    repeats = 5 if seconds > 1 else 3
    times = {}
    for name in fl.losses.__all__:
        times[name] = Times(np.array([fresh(FIRST_CALL, str(HERE), name)[0] for _ in range(repeats)]))
    worst = max(times, key=lambda name: times[name].median)
    table.row(f"{title} (of {len(times)}: {worst})", times[worst], bar=Bar(seconds=1e-3))


def same_bits(table, title, seconds):
    """Value and gradients with 1, 2 and more threads, three times each: who takes which chunk differs from run to run."""
    differing = []
    before = fl.get_num_threads()
    counts = sorted({1, 2, 3, THREADS})
    for name in fl.losses.__all__:
        loss = getattr(fl, name)
        for dtype in ("float32", "float64"):
            arrays = inputs(loss, 10**6 + 37, dtype)
            seen = set()
            for threads in counts * 3:
                fl.set_num_threads(threads)
                value, grads = loss.value_and_grad(*arrays)
                grads = grads if isinstance(grads, tuple) else (grads,)
                seen.add((np.float64(value).tobytes(), *(hash(grad.tobytes()) for grad in grads)))
            if len(seen) > 1:
                differing.append(f"{name} {dtype}")
    fl.set_num_threads(before)
    counts = ", ".join(str(count) for count in counts if count <= THREADS)
    line = f"{title}, {len(fl.losses.__all__)} losses, 2 dtypes, threads {counts}"
    table.end(line, not differing, ", ".join(differing) or "all equal")


# PyTorch's element-wise rules; its fused ones stand in rows of their own.
RULES = dict.fromkeys(("SGD", "Adam", "NAdam", "RAdam", "Adamax", "RMSprop", "Adagrad", "Adadelta", "Rprop"), Bar(ratio=3))
RULES["ASGD"] = Bar(ratio=1.2)

# --- the table ------------------------------------------------------------------------------------------------------------

ROWS = [
    *losses_rows(),
    ("torch: cross_entropy, 4096 x 1000", rows_against_torch, ((4096, 1000), Bar(ratio=3.5))),
    ("torch: cross_entropy, 512 x 32000", rows_against_torch, ((512, 32000), Bar(ratio=6))),
    ("torch: cross_entropy, 64 x 10", rows_against_torch, ((64, 10), Bar(ratio=8, seconds=5e-6))),
    ("torch: cross_entropy, 10^6 x 3", rows_against_torch, ((10**6, 3), Bar(ratio=8))),
    ("torch: cross_entropy, 10^5 x 10", rows_against_torch, ((10**5, 10), Bar(ratio=8))),
    ("torch: triplet_margin, 8192 x 128", triplet_against_torch, ((8192, 128), Bar(ratio=4))),
    ("torch: linear_cross_entropy, 2048 x 512 x 32000", linear_against_torch, ()),
    ("torch: linear_cross_entropy, 2048 x 512 x 32000, memory", linear_memory, ()),
    ("torch fused: AdamW.step, 1 tensor of 10^7", adamw, ((1, 10**7), Bar(ratio=1))),
    ("torch fused: AdamW.step, 1,000 tensors of 10^3", adamw, ((1_000, 10**3), Bar(ratio=10))),
    ("torch fused: AdamW.step, 1 tensor of 10^3", adamw, ((1, 10**3), NO_BAR)),
    ("bare sweep: AdamW.step, 10^7", bare_sweep, (10**7,)),
    ("torch: unscale, clip by norm, AdamW.step, average; 10^7", everything, ((1, 10**7),)),
    ("torch: unscale, clip by norm, AdamW.step, average; 100 of 10^5", everything, ((100, 10**5),)),
    *((f"torch: {name}.step, 10^7", rule, (name, 10**7, bar)) for name, bar in RULES.items()),
    ("float32: AdamW.step in bfloat16, 10^7", half, (10**7,)),
    ("plain NumPy: Adam.step, 10^7", plain_numpy, (10**7,)),
    ("normal moments: AdamW.step of denormal ones, 10^6", denormals, (10**6,)),
    ("import fastloss, after import numpy (the peer)", import_time, ()),
    ("worst first call", first_call, ()),
    ("same bits", same_bits, ()),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the time; for a look, not for a claim")
    parser.add_argument("--only", default="", metavar="NAME", help="rows whose name holds this")
    parser.add_argument("--threads", type=int, default=THREADS, help="for each side; with 1 a busy machine hurts least")
    options = parser.parse_args()
    fl.set_num_threads(options.threads)
    threads = fl.get_num_threads()
    torch.set_num_threads(threads)
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"fastloss {fl.__version__}, numpy {np.__version__}, torch {torch.__version__}, {threads} threads{load}; float32")
    table = Table()
    for title, function, arguments in ROWS:
        if options.only in title:
            function(table, title, *arguments, seconds=0.5 if options.quick else 5)
    return table.missed


if __name__ == "__main__":
    sys.exit(main())
