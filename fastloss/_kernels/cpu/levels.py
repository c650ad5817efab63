"""Which build of the kernels serves this processor; `FASTLOSS_ISA` asks for a lower one."""

import importlib
import os
from importlib.util import find_spec

NAMES = {4: "x86-64-v4", 3: "x86-64-v3", 2: "x86-64-v2", 0: "plain"}


class Library:
    """The kernels of one level, by name."""

    def __init__(self, module):
        self.address, self.cost, self.names = module.address, module.cost, module.names

    def layout(self, name):
        """What the engine is told of a row formula's program, or of a rule that looks at whole tensors; None of other rules."""
        from .layouts import LAYOUTS

        return LAYOUTS.get(name)


def choose(supported):
    """The (name, library) of the best built level that the processor supports."""
    wanted = os.environ.get("FASTLOSS_ISA", "")
    for level in _usable(supported):
        if wanted in ("", NAMES[level], _short(level)):
            return NAMES[level], Library(importlib.import_module(_module(level)))
    offers = ", ".join(NAMES[level] for level in _usable(supported))
    if wanted and offers:
        raise ImportError(
            f"fastloss: FASTLOSS_ISA must be a level that this build has and this processor runs ({offers}), got {wanted!r}"
        )
    runs = ", ".join(name for level, name in NAMES.items() if level <= supported)
    raise ImportError(f"fastloss: this build must hold kernels for {runs}, got none of them: build it again on this machine")


def _usable(supported):
    """The built levels that the processor supports, best first."""
    return (level for level in NAMES if level <= supported and find_spec(_module(level)))


def _short(level):
    return NAMES[level].rsplit("-", 1)[-1]


def _module(level):
    return f"{__package__}.tiles_{_short(level)}"
