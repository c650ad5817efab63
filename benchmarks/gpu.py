"""fastloss on a GPU, in one command: python benchmarks/gpu.py [--quick] [--only NAME] [--results FOLDER] [--seconds 460]

Builds and installs the package where it is not, runs the tests that are for GPUs on the GPU itself, then holds losses and optimizer steps
against what the memory gives and against PyTorch. It writes `results/<device>.md` after each row: what was measured stays if the command
is cut off, and a later one with `--only` fills in what is missing. The exit status counts the bars missed. README.md beside this file
says how to bring it to a machine without a package index.

Times are medians of CUDA events, rivals in turn. Before each run memory of twice the second-level cache is written over, and the GPU
waits until the host has queued all of it: what the host takes is measured by itself, at the end.
"""

import argparse
import datetime
import importlib.util
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from gpu_table import Line, Table, adamw_bytes, file_name, last_line, pointwise_bytes, rows_bytes

HERE = Path(__file__).parent
ROOT = HERE.parent
NEEDED = {"torch": "PyTorch with CUDA", "numba_cuda": "numba-cuda"}
LOSSES = {
    "squared_error": "mse_loss",
    "huber": "huber_loss",
    "binary_cross_entropy_with_logits": "binary_cross_entropy_with_logits",
}


@dataclass
class Settings:
    """How much is measured."""

    quick: bool = False
    count: int = field(init=False)
    repeats: int = field(init=False)

    def __post_init__(self):
        self.count = 10**6 if self.quick else 10**8
        self.repeats = 5 if self.quick else 25


class Device:
    """The GPU as PyTorch has it, and how time is measured on it."""

    def __init__(self, settings):
        import torch

        self.torch, self.settings = torch, settings
        properties = torch.cuda.get_device_properties(0)
        cache = getattr(properties, "L2_cache_size", 0) or 64 << 20
        self._flush = torch.empty(2 * cache, dtype=torch.uint8, device="cuda")
        # Some milliseconds, in cycles: longer than any rival's launches take the host.
        self._wait = 4_000_000
        self._copied = None

    def times(self, rivals):
        """Median seconds of each rival, `{name: call}`, in turn."""
        torch = self.torch
        for call in rivals.values():
            for _ in range(3):
                call()
        events = {name: [] for name in rivals}
        order = list(rivals)
        for _ in range(self.settings.repeats):
            for name in order:
                torch.cuda.synchronize()
                self._flush.zero_()
                torch.cuda._sleep(self._wait)
                start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                rivals[name]()
                stop.record()
                events[name].append((start, stop))
            order.reverse()
        torch.cuda.synchronize()
        return {name: median(a.elapsed_time(b) for a, b in pairs) * 1e-3 for name, pairs in events.items()}

    def copied(self):
        """Bytes per second, read and written, of a copy of a GiB from the device to itself."""
        if self._copied is None:
            source = self.torch.empty((1 << 24 if self.settings.quick else 1 << 30) // 4, device="cuda").normal_()
            target = self.torch.empty_like(source)
            self._copied = 2 * 4 * source.numel() / self.times({"copy": lambda: target.copy_(source)})["copy"]
        return self._copied

    def host(self, call, calls=200):
        """Median seconds that the host takes for a call, which is not waited for."""
        for _ in range(20):
            call()
        found = []
        for _ in range(20):
            self.torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(calls):
                call()
            found.append((time.perf_counter() - start) / calls)
        self.torch.cuda.synchronize()
        return median(found)


def shown(seconds):
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} us"


def against_copy(device, what, seconds, size, least):
    """The line of the share of a copy's bytes per second."""
    share, speed = size / seconds / device.copied(), size / seconds
    return Line(f"{what}: of a copy's bytes/s", shown(seconds), share, "", least, note=f"({speed / 1e12:.2f} TB/s)")


def against(what, ours, theirs, least):
    return Line(what, shown(ours), theirs / ours, "x", least, note=f"({shown(theirs)})")


def agree(torch, ours, theirs, tolerance):
    """Whether the results to be timed are the same."""
    worst = float((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max())
    if not worst <= tolerance:
        raise AssertionError(f"results differ from PyTorch's by {worst:.1e} of the largest")


# --- rows -----------------------------------------------------------------------------------------------------------------


def copy(device):
    yield Line("copy, device to device", measured=device.copied() / 1e12, unit=" TB/s")


def pointwise(name):
    def row(device):
        import fastloss as fl

        torch, count = device.torch, device.settings.count
        theirs, loss = getattr(torch.nn.functional, LOSSES[name]), getattr(fl, name)
        pred = torch.randn(count, device="cuda")
        target = torch.rand(count, device="cuda") if "binary" in name else torch.randn(count, device="cuda")
        grad, leaf = torch.empty_like(pred), pred.clone().requires_grad_()
        compiled = torch.compile(theirs)

        def backward(function):
            leaf.grad = None
            function(leaf, target).backward()

        def run():
            return loss.value_and_grad(pred, target, grad_out=grad)

        run()
        backward(theirs)
        agree(torch, grad, leaf.grad, 1e-4)
        rivals, failed = {"ours": run, "eager": lambda: backward(theirs)}, None
        try:
            backward(compiled)
            rivals["compiled"] = lambda: backward(compiled)
        except Exception as error:  # its compiler has needs of its own
            failed = f"skipped: {last_line(error)}"
        times, what = device.times(rivals), f"{name}, value + gradient, {count:.0e}"
        yield against_copy(device, what, times["ours"], pointwise_bytes(count), 0.85)
        yield against(f"{what}: torch eager", times["ours"], times["eager"], 2.5)
        if failed:
            yield Line(f"{what}: torch.compile", least=1.0, unit="x", note=failed)
        else:
            yield against(f"{what}: torch.compile", times["ours"], times["compiled"], 1.0)

    return row


def cross_entropy(rows, length, dtype):
    def row(device):
        import fastloss as fl

        torch, shape = device.torch, (rows // 64 if device.settings.quick else rows, length)
        logits = torch.randn(shape, device="cuda").to(getattr(torch, dtype))
        labels = torch.randint(0, length, shape[:1], device="cuda")
        grad, leaf = torch.empty_like(logits), logits.clone().requires_grad_()

        def run():
            return fl.cross_entropy.value_and_grad(logits, labels, grad_out=grad)

        def backward():
            leaf.grad = None
            torch.nn.functional.cross_entropy(leaf, labels).backward()

        run()
        backward()
        agree(torch, grad, leaf.grad, 1e-4 if dtype == "float32" else 2e-2)
        times, what = device.times({"ours": run, "eager": backward}), f"cross_entropy {shape[0]}x{length} {dtype}"
        moved = rows_bytes(*shape, logits.element_size())
        yield against_copy(device, what, times["ours"], moved, 0.8)
        yield against(f"{what}: torch eager", times["ours"], times["eager"], 2.5)

    return row


def linear(device):
    import fastloss as fl

    torch, rows = device.torch, 512 if device.settings.quick else 8192
    x, weight = (torch.randn(n, 2048, device="cuda", dtype=torch.bfloat16) / 32 for n in (rows, 32_000))
    labels = torch.randint(0, 32_000, (rows,), device="cuda")
    leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_()]

    def run():
        return fl.linear_cross_entropy.value_and_grad(x, weight, labels)

    def backward():
        for leaf in leaves:
            leaf.grad = None
        torch.nn.functional.cross_entropy(torch.nn.functional.linear(*leaves), labels).backward()

    backward()
    for mine, leaf in zip(run()[1], leaves, strict=True):
        agree(torch, mine, leaf.grad, 5e-2)
    times = device.times({"ours": run, "eager": backward})
    yield against(f"linear_cross_entropy {rows}x2048x32000 bfloat16: torch eager", times["ours"], times["eager"], None)


def drawn(torch, tensors, size, dtype):
    return [[torch.randn(size, device="cuda").to(dtype) for _ in range(tensors)] for _ in range(2)]


def adamw(tensors, size):
    def row(device):
        import fastloss as fl

        torch, count = device.torch, size // 100 if device.settings.quick else size
        params, grads = drawn(torch, tensors, count, torch.float32)
        copies = [param.clone().requires_grad_() for param in params]
        for own, grad in zip(copies, grads, strict=True):
            own.grad = grad
        ours = fl.AdamW(params, lr=1e-3, weight_decay=0.01)
        theirs = torch.optim.AdamW(copies, lr=1e-3, weight_decay=0.01, fused=True)
        ours.step(grads)
        theirs.step()
        agree(torch, params[0], copies[0].detach(), 1e-5)
        times, what = (
            device.times({"ours": lambda: ours.step(grads), "fused": theirs.step}),
            f"AdamW.step, {tensors} of {count:.0e}",
        )
        yield against_copy(device, what, times["ours"], adamw_bytes(tensors * count), 0.85)
        yield against(f"{what}: torch fused", times["ours"], times["fused"], 1.0)

    return row


def half(device):
    """Parameters, gradients and moments of two bytes against those of four."""
    import ml_dtypes

    import fastloss as fl

    torch, count = device.torch, device.settings.count
    (params,), (grads,) = drawn(torch, 1, count, torch.float32)
    wide, narrow = fl.AdamW([params]), fl.AdamW([params.bfloat16()], state_dtype=ml_dtypes.bfloat16)
    short = [grads.bfloat16()]
    times = device.times({"ours": lambda: narrow.step(short), "wide": lambda: wide.step([grads])})
    yield against("AdamW.step, bfloat16 parameters and state: its own float32 step", times["ours"], times["wide"], 1.6)


def overhead(device):
    import fastloss as fl

    torch = device.torch
    pred, target = torch.randn(1000, device="cuda"), torch.randn(1000, device="cuda")
    logits, labels = torch.randn(64, 1000, device="cuda"), torch.randint(0, 1000, (64,), device="cuda")
    for loss, given in ((fl.squared_error, (pred, target)), (fl.cross_entropy, (logits, labels))):
        what = f"host, {loss.__name__} value + gradient"
        grad = torch.empty_like(given[0])
        seconds = device.host(lambda loss=loss, given=given, grad=grad: loss.value_and_grad(*given, grad_out=grad))
        yield Line(f"{what}: a call", shown(seconds), seconds * 1e6, " us", most=40)
        seconds = device.host(loss.prepare("value_and_grad", *given, grad_out=grad))
        yield Line(f"{what}: a prepared call", shown(seconds), seconds * 1e6, " us", most=15)


def step_overhead(device):
    import fastloss as fl

    params, grads = drawn(device.torch, 1, 1000, device.torch.float32)
    ours = fl.AdamW(params)
    seconds = device.host(lambda: ours.step(grads))
    yield Line("host, AdamW.step", shown(seconds), seconds * 1e6, " us", most=40)


def same_bits(device):
    """Values and gradients of five runs, with other work between them."""
    import fastloss as fl

    torch = device.torch
    pred, target = torch.randn(10**6 + 37, device="cuda"), torch.rand(10**6 + 37, device="cuda")
    labels = torch.randint(0, 3001, (257,), device="cuda")
    calls = {name: (getattr(fl, name), (pred, target)) for name in LOSSES}
    for dtype in (torch.float32, torch.bfloat16):
        calls[f"cross_entropy {dtype}"] = fl.cross_entropy, (torch.randn(257, 3001, device="cuda").to(dtype), labels)
    differing = []
    for name, (loss, given) in calls.items():
        runs = []
        for _ in range(5):
            runs.append([result.clone() for result in loss.value_and_grad(*given)])
            torch.randn(1024, 1024, device="cuda") @ torch.randn(1024, 1024, device="cuda")
        if any(not torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True)):
            differing.append(name)
    note = f"differing: {', '.join(differing)}" if differing else "all equal"
    yield Line("same bits from run to run", f"{len(calls)} calls", float(not differing), "", 1, note=note)


def of_cupy(device):
    """CuPy's arrays over PyTorch's memory: results are CuPy's, of the same bits."""
    try:
        import cupy
    except ImportError:
        yield Line("CuPy's arrays", note="skipped: no CuPy", least=1)
        return
    import fastloss as fl

    torch = device.torch
    pred, target = torch.randn(10**5, device="cuda"), torch.randn(10**5, device="cuda")
    torch.cuda.synchronize()
    value, grad = fl.huber.value_and_grad(cupy.from_dlpack(pred), cupy.from_dlpack(target))
    expected = fl.huber.value_and_grad(pred, target)
    cupy.cuda.Device().synchronize()
    same = type(grad) is cupy.ndarray and all(
        torch.equal(torch.from_dlpack(mine), other) for mine, other in zip((value, grad), expected, strict=True)
    )
    yield Line("CuPy's arrays: PyTorch's bits", measured=float(same), least=1)


def tests(device):
    """The tests for GPUs, on the GPU: in several processes where pytest can."""
    several = ["-n", str(min(8, os.cpu_count() or 1))] if importlib.util.find_spec("xdist") else []
    files = sorted(str(path) for path in (ROOT / "tests").glob("test_cuda*.py"))
    command = [
        sys.executable,
        "-P",
        "-m",
        "pytest",
        "-q",
        "--no-header",
        "--tb=line",
        "-p",
        "no:cacheprovider",
        *several,
        *files,
    ]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
        lines = (done.stdout.strip() or done.stderr.strip() or "no output").splitlines()
        if done.returncode:
            print("\n".join(lines[-40:]))
        yield Line("tests", measured=float(done.returncode == 0), least=1, note=lines[-1].strip("= "))
    except subprocess.TimeoutExpired:
        yield Line("tests", least=1, note="not done within 240 s")


ROWS = {
    "tests": tests,
    "copy": copy,
    **{name: pointwise(name) for name in LOSSES},
    **{
        f"cross_entropy {rows}x{length} {dtype}": cross_entropy(rows, length, dtype)
        for rows, length in ((8192, 32_000), (4096, 128_256))
        for dtype in ("float32", "bfloat16")
    },
    "AdamW one": adamw(1, 10**8),
    "AdamW many": adamw(1000, 10**5),
    "AdamW bfloat16": half,
    "host overhead": overhead,
    "AdamW host overhead": step_overhead,
    "same bits": same_bits,
    "cupy": of_cupy,
    "linear_cross_entropy": linear,
}


# --- the command ----------------------------------------------------------------------------------------------------------


def missing():
    """What is needed and not there, in words."""
    found = [words for name, words in NEEDED.items() if importlib.util.find_spec(name) is None]
    if importlib.util.find_spec("torch") is not None:
        import torch

        if not torch.cuda.is_available():
            found.append("a GPU that PyTorch sees (torch.cuda.is_available() is False)")
    return found


def install():
    """Build the package here where there is none."""
    if importlib.util.find_spec("fastloss") is None:
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-build-isolation",
            "--no-deps",
            "--no-index",
            str(ROOT),
        ]
        if subprocess.run(command, check=False).returncode:
            sys.exit(f"gpu.py: fastloss must be installed, and could not be: {' '.join(command)} (see benchmarks/README.md)")
        importlib.invalidate_caches()


def facts():
    """What results depend on."""
    import numba_cuda
    import torch

    import fastloss

    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        driver = "unknown"
    cupy = sys.modules.get("cupy") or (importlib.import_module("cupy") if importlib.util.find_spec("cupy") else None)
    return {
        "device": torch.cuda.get_device_name(0),
        "driver": f"{driver}, CUDA {torch.version.cuda}",
        "versions": f"fastloss {fastloss.__version__}, numba-cuda {numba_cuda.__version__}, torch {torch.__version__}, "
        f"cupy {cupy.__version__ if cupy else 'absent'}, Python {sys.version.split()[0]}",
    }


def measure(table, device, names, seconds):
    """All rows of these names: one that fails says so in its line, and the others go on."""
    start = time.perf_counter()
    for name in names:
        table.lines.pop(name, None)  # that it failed, or was not begun
        if time.perf_counter() - start > seconds:
            table.add(Line(name, note=f"skipped: {seconds:g} s were over"))
            continue
        try:
            for line in ROWS[name](device):
                table.add(line)
        except Exception as error:
            # An optimizer that takes no CUDA arrays says so.
            refused = isinstance(error, TypeError) and name.startswith("AdamW")
            table.add(Line(name, note=f"{'skipped' if refused else 'failed'}: {last_line(error)}", least=1))
        if device is not None:
            device.torch.cuda.empty_cache()


def parsed(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small arrays, few repetitions: does it run?")
    parser.add_argument("--only", default="", metavar="NAME", help=f"the rows whose name holds this, of: {', '.join(ROWS)}")
    parser.add_argument("--results", type=Path, default=HERE / "results", metavar="FOLDER", help="where the table is written")
    parser.add_argument("--seconds", type=float, default=460, help="no row is begun after these")
    options = parser.parse_args(arguments)
    options.names = [name for name in ROWS if options.only in name]
    if not options.names:
        parser.error(f"--only must be part of a row's name, of {', '.join(ROWS)}, got {options.only!r}")
    return options


def main():
    options = parsed()
    absent = missing()
    if absent:
        sys.exit(f"gpu.py: needs {', '.join(NEEDED.values())} and a GPU; missing: {'; '.join(absent)}")
    install()
    about = facts()
    name = file_name(about["device"])
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    table = Table(options.results / (f"quick-{name}" if options.quick else name), about, date)
    device = None if options.names == ["tests"] else Device(Settings(options.quick))
    measure(table, device, options.names, options.seconds)
    sys.exit(min(table.missed, 100))


if __name__ == "__main__":
    main()
