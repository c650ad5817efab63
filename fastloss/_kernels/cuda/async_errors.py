"""Errors that kernels find in the data, reported asynchronously: by flags in the host's memory, so that no call waits for the GPU.

A kernel writes where it found an invalid number. The next call on the same GPU looks at the flags and raises, or `check` does, having
waited. No lock is held: a signal handler may make a call in the middle of another one's.
"""

import itertools

from . import device

_SLOTS = 1024
_numbers = itertools.count()
_messages = {}
_pages = {}


class Page:
    """The flags of one GPU: the first says that there is something, the others hold a place counted from 1."""

    def __init__(self):
        self.flags, self.address = device.mapped(_SLOTS)
        self.flags[:] = 0


def page(number):
    """The flags of the GPU of that number."""
    return _pages.get(number) or _pages.setdefault(number, Page())


def slot(message):
    """The flag for an error that may be reported; `message(index)` makes the exception."""
    found = 1 + next(_numbers) % (_SLOTS - 1)
    _messages[found] = message
    return found


def raise_reported(number):
    """Raise the first error that kernels have reported so far."""
    own = _pages.get(number)
    if own is None or not own.flags[0]:
        return
    own.flags[0] = 0
    reported = {k: int(own.flags[k]) for k in range(1, _SLOTS) if own.flags[k]}
    if not reported:
        # A kernel is just reporting: the index will follow the flag.
        own.flags[0] = 1
        return
    own.flags[list(reported)] = 0
    first = min(reported)
    raise _messages[first](reported[first] - 1)


def check():
    """Wait for the current GPU, and raise what its kernels have reported."""
    device.wait(None)
    raise_reported(device.current())
