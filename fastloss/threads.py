"""How many threads the engine may use."""

import operator
import os
from contextlib import contextmanager

from ._kernels.cpu import engine


def get_num_threads() -> int:
    """The number of threads that a long call may use now, the calling thread included."""
    return engine.get_num_threads()


def set_num_threads(count: int) -> None:
    """Let long calls use up to `count` threads, at most one for each available core.

    The default is the number of cores that the process may run on (CPU affinity and cgroup limits included), or
    ``FASTLOSS_NUM_THREADS``. Inside `threadpool_limits` the lower number counts; the new one holds once the limit has ended.
    Results are the same bit for bit for any number of threads.
    """
    engine.set_num_threads(_checked("set_num_threads: count", count))


@contextmanager
def threadpool_limits(limits: int):
    """Use at most `limits` threads inside a ``with`` block: ``with fl.threadpool_limits(1): ...``.

    The limit holds for the whole process, so that it also covers the threads that the block starts. Limits may be nested, and
    those of several threads may overlap and end in any order: the lowest one counts, and once all have ended the number of threads
    is what it was. A process forked inside the block inherits the limit.
    """
    limit = _checked("threadpool_limits: limits", limits)
    engine.limit_threads(limit, 1)
    try:
        yield
    finally:
        engine.limit_threads(limit, -1)


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
