"""How many threads the engine may use."""

import operator
import os
from contextlib import contextmanager

from ._kernels.cpu import engine


def get_num_threads() -> int:
    """The number of threads that a long call may use, the caller's included."""
    return engine.get_num_threads()


def set_num_threads(count: int) -> None:
    """Let long calls use up to `count` threads; more than there are cores to run on count as that many.

    At import it is the number of cores that the process may run on (affinity and cgroup limits counted), or
    ``FASTLOSS_NUM_THREADS``. Results do not depend on it, not in their last bit.
    """
    engine.set_num_threads(_checked("set_num_threads: count", count))


@contextmanager
def threadpool_limits(limits: int):
    """Use at most `limits` threads inside a ``with`` block: ``with fl.threadpool_limits(1): ...``."""
    before = engine.get_num_threads()
    engine.set_num_threads(min(before, _checked("threadpool_limits: limits", limits)))
    try:
        yield
    finally:
        engine.set_num_threads(before)


def _checked(who, count):
    try:
        count = operator.index(count)
    except TypeError:
        raise TypeError(f"{who} must be a whole number >= 1, got {count!r}") from None
    if count < 1:
        raise ValueError(f"{who} must be >= 1, got {count}")
    return min(count, engine.available_cores())


def _from_environment():
    wanted = os.environ.get("FASTLOSS_NUM_THREADS", "")
    if wanted:
        if not wanted.isdecimal() or int(wanted) < 1:
            raise ImportError(f"fastloss: FASTLOSS_NUM_THREADS must be a whole number >= 1, got {wanted!r}")
        set_num_threads(int(wanted))


_from_environment()
