"""Does a second thread hurt when others want the cores? python benchmarks/load.py [--paced]

Calls of `binary_cross_entropy_with_logits.value_and_grad` with all threads against calls with one, in one process, while as
many other processes as there are cores do nothing but burn them; then the same without them. Bar: with threads, neither the
median nor the 99th percentile is more than 1.25 times that with one.

What is fair here:

- The two take turns in blocks of 20 calls, in an order drawn by lot, after one call that is not counted. Call by call, each
  would find half of the arrays in the other core's caches, and calls on one thread would run beside a helper that still
  spins. Blocks are short against the time in which a load changes, so both meet the same one.
- Calls follow each other without a pause, so the kernel takes the core away in the middle of calls, of either kind alike,
  as often as the time they spend on it: that is the load, and is counted. Where about one call in a hundred is hit, the
  99th percentile lies on the edge between a call's time and a slice (some 3 ms), and is a matter of luck: the range behind
  a ratio tells. It holds 95 of 100 ratios of blocks drawn anew from those measured; a miss whose range includes the bar is
  none.
- After a loss the pool lets its helpers rest for a multiple of what was lost. Half of that rest goes by while one thread
  has its turn, so that the pool tries, and loses, up to twice as often per call as in a program with threads on throughout:
  the comparison leans against threads.
- `--paced` sleeps a little before each call, as a program does that waits for data. Helpers are asleep then, and must be
  woken; the caller has used less than its share, and is hardly ever interrupted in a call.
"""

import argparse
import os
import subprocess
import sys
import time

import numpy as np
from suite.inputs import inputs, outputs
from timing import show_time

import fastloss as fl

THREADS = fl.get_num_threads()
BAR = 1.25
BLOCK = 21
# Elements, and calls of each kind.
SIZES = {10**3: 20_000, 10**5: 10_000, 10**6: 4_000}
PACED_FEWER, PAUSE = 10, 1e-3
BURN = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    sum(range(100_000))"


class Burners:
    """As many processes that use all the time they get as there are cores; they end with this one."""

    def __init__(self, count):
        self.count = count

    def __enter__(self):
        self.processes = [subprocess.Popen([sys.executable, "-c", BURN]) for _ in range(self.count)]
        time.sleep(0.5)

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()


def measure(size, calls, pause):
    """Seconds per call: {threads: array of (blocks, calls in a block)}."""
    pred, target = inputs(fl.binary_cross_entropy_with_logits, size)
    grad = outputs(fl.binary_cross_entropy_with_logits, (pred, target))
    call = fl.binary_cross_entropy_with_logits.value_and_grad
    clock = time.perf_counter
    blocks = {1: [], THREADS: []}
    rng = np.random.default_rng(0)
    for _ in range(max(1, calls // (BLOCK - 1))):
        for threads in rng.permutation([1, THREADS]).tolist():
            fl.set_num_threads(threads)
            times = []
            for _ in range(BLOCK):
                if pause:
                    time.sleep(pause)
                start = clock()
                call(pred, target, grad_out=grad)
                times.append(clock() - start)
            blocks[threads].append(times[1:])
    fl.set_num_threads(THREADS)
    return {threads: np.array(times) for threads, times in blocks.items()}


def ratio(blocks, statistic):
    """Of the statistic with threads to that with one: (ratio, low, high), the range by a bootstrap over pairs of blocks."""
    one, many = blocks[1], blocks[THREADS]
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(200):
        pick = rng.integers(0, len(one), len(one))
        drawn.append(statistic(many[pick]) / statistic(one[pick]))
    return statistic(many) / statistic(one), *np.quantile(drawn, [0.025, 0.975])


def percentile99(times):
    return float(np.quantile(times, 0.99))


def report(name, size, blocks):
    """Prints a row; returns how many bars it misses."""
    missed = 0
    for label, statistic in (("median", lambda times: float(np.median(times))), ("p99", percentile99)):
        one, many = (show_time(statistic(blocks[threads])) for threads in (1, THREADS))
        value, low, high = ratio(blocks, statistic)
        mark = "pass" if value <= BAR else "MISS"
        missed += mark == "MISS"
        between = f"[{low:.2f} {high:.2f}]"
        print(f"{name:6} 10^{len(str(size)) - 1} {label:7} {one:>9} {many:>9}  {value:5.2f} {between:15} {mark}", flush=True)
    return missed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paced", action="store_true", help=f"sleep {show_time(PAUSE)} before each call; a tenth of the calls")
    parser.add_argument("--burners", type=int, default=THREADS, help="processes that burn cores (default: one for each)")
    options = parser.parse_args()
    if THREADS == 1:
        sys.exit("load.py compares threads with one: this machine, or FASTLOSS_NUM_THREADS, allows one only")
    load = f", load before {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"fastloss {fl.__version__}, {THREADS} threads, {options.burners} burners{load}")
    print(f"{'':19} {'1 thread':>9} {'threads':>9}  ratio {'[95 %]':15} <= {BAR}")
    missed = 0
    for name, burners in (("busy", options.burners), ("quiet", 0)):
        with Burners(burners):
            for size, calls in SIZES.items():
                blocks = measure(size, calls // PACED_FEWER, PAUSE) if options.paced else measure(size, calls, 0)
                missed += report(name, size, blocks)
    return missed


if __name__ == "__main__":
    sys.exit(main())
