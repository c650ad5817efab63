"""Rivals timed against each other on a machine that others use too."""

from dataclasses import dataclass
from time import perf_counter, sleep
from timeit import Timer

import numpy as np

BLOCK = 2e-3
LEAST_CALLS = 3
# OpenMP's idle threads spin for a few milliseconds, on the cores that the next rival is to use.
SETTLE = 15e-3


@dataclass
class Times:
    """Seconds per call, one number for each round."""

    rounds: np.ndarray

    @property
    def median(self):
        return float(np.median(self.rounds))

    @property
    def best(self):
        return float(self.rounds.min())

    def __str__(self):
        return f"{show_time(self.median):>9} {show_time(self.best):>9}"

    def over(self, other):
        """Quartiles of the ratio to another rival's times in the same rounds."""
        return np.quantile(self.rounds / other.rounds, [0.25, 0.5, 0.75])


def alternate(rivals, seconds, least_rounds=5):
    """Time the rivals `{name: call}` in turn, round after round: `{name: Times}`.

    What the machine does besides falls on all of them alike, so the ratio within a round means more than any of the times. In a
    round each rival makes as many calls as fill 2 ms, and three at least. Before them the rival that went before has time to
    come to rest, and calls that are not timed take the caches from it. Every other round goes backwards.
    """
    timers = {name: Timer(call) for name, call in rivals.items()}
    numbers = {name: calls_in_a_block(timer) for name, timer in timers.items()}
    times = {name: [] for name in rivals}
    order = list(rivals)
    start = perf_counter()
    while perf_counter() - start < seconds or len(times[order[0]]) < least_rounds:
        for name in order:
            sleep(SETTLE)
            timers[name].timeit(1 + numbers[name] // 4)
            times[name].append(timers[name].timeit(numbers[name]) / numbers[name])
        order.reverse()
    return {name: Times(np.array(of)) for name, of in times.items()}


def calls_in_a_block(timer):
    timer.timeit(3)
    return max(LEAST_CALLS, round(BLOCK / min(timer.repeat(5, 1))))


def show_time(seconds):
    for unit, scale in (("s", 1), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale or unit == "us":
            return f"{seconds / scale:.3g} {unit}"
