"""What kernels report: numbers that do not belong, by a flag in the host's memory, so that nobody waits for the GPU.

A kernel writes where it found something; the next call looks, or `check` does after it has waited.
"""

import threading

from . import device

_SLOTS = 1024
_lock = threading.Lock()
_messages = {}
_pages = {}


class Page:
    """The flags of one GPU: the first says that there is something, the others hold a place counted from 1."""

    def __init__(self):
        self.flags, self.address = device.mapped(_SLOTS)
        self.flags[:] = 0


def page(number):
    """The flags of the GPU of that number."""
    if number not in _pages:
        with _lock:
            _pages.setdefault(number, Page())
    return _pages[number]


def slot(message):
    """A place for what may be reported; `message(index)` makes an exception of it."""
    with _lock:
        found = 1 + len(_messages) % (_SLOTS - 1)
        _messages[found] = message
    return found


def raise_reported(number):
    """Raise what kernels have reported so far."""
    own = _pages.get(number)
    if own is None or not own.flags[0]:
        return
    with _lock:
        own.flags[0] = 0
        reported = [k for k in range(1, _SLOTS) if own.flags[k]]
        if not reported:
            # The kernel is at it: what it found is on its way behind the flag.
            own.flags[0] = 1
        errors = [_messages[k](int(own.flags[k]) - 1) for k in reported]
        own.flags[reported] = 0
    if errors:
        raise errors[0]


def check():
    """Wait for the present GPU, and raise what its kernels reported."""
    device.wait(None)
    raise_reported(device.current())
