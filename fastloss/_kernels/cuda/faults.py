"""What kernels report: numbers that do not belong, by a flag in the host's memory, so that nobody waits for the GPU.

A kernel writes where it found something; the next call looks, or `check` does after it has waited. No lock is held: a signal handler may
make a call while another one is here.
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
    """A place for what may be reported; `message(index)` makes an exception of it."""
    found = 1 + next(_numbers) % (_SLOTS - 1)
    _messages[found] = message
    return found


def raise_reported(number):
    """Raise what kernels have reported so far."""
    own = _pages.get(number)
    if own is None or not own.flags[0]:
        return
    own.flags[0] = 0
    reported = {k: int(own.flags[k]) for k in range(1, _SLOTS) if own.flags[k]}
    if not reported:
        # The kernel is at it: what it found is on its way behind the flag.
        own.flags[0] = 1
        return
    own.flags[list(reported)] = 0
    first = min(reported)
    raise _messages[first](reported[first] - 1)


def check():
    """Wait for the present GPU, and raise what its kernels reported."""
    device.wait(None)
    raise_reported(device.current())
