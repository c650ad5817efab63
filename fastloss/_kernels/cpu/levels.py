"""Which build of the tile kernels serves this processor; `FASTLOSS_ISA` asks for a lower one."""

import importlib
import os

NAMES = {4: "x86-64-v4", 3: "x86-64-v3", 2: "x86-64-v2", 0: "plain"}


def choose(supported):
    """The (name, module) of the best built level that the processor supports."""
    usable = [level for level in NAMES if level <= supported]
    wanted = os.environ.get("FASTLOSS_ISA", "")
    if wanted:
        usable = [level for level in usable if NAMES[level] in (wanted, f"x86-64-{wanted}")]
        if not usable:
            offers = ", ".join(NAMES[level] for level in NAMES if level <= supported)
            raise ImportError(f"fastloss: FASTLOSS_ISA must be a level that this processor runs ({offers}), got {wanted!r}")
    for level in usable:
        name = "tiles_" + NAMES[level].rsplit("-", 1)[-1]
        try:
            return NAMES[level], importlib.import_module("." + name, __package__)
        except ModuleNotFoundError as missing:
            if missing.name != f"{__package__}.{name}":
                raise
    tried = ", ".join(NAMES[level] for level in usable)
    raise ImportError(f"fastloss: this build must hold kernels for {tried}, got none of them: build it again on this machine")
