"""What this installation is and runs on, as text for ``python -m fastloss info`` and for bug reports."""

import ctypes
import importlib.metadata
import platform
import re
import textwrap

import numpy as np

from . import __version__
from ._kernels.cpu import engine
from .threads import get_num_threads

_REQUIREMENT = re.compile(r"""(?P<name>[\w.-]+).*;\s*extra\s*==\s*["'](?P<extra>[\w.-]+)["']""")
_WIDTH = 80


def describe() -> str:
    """The report, one fact per line, at most 80 columns wide."""
    facts = {
        "fastloss": __version__,
        "Python": f"{platform.python_version()} ({platform.python_implementation()}, {platform.system()} {platform.machine()})",
        "NumPy": np.__version__,
        "kernels": f"{engine.ISA} (the processor runs {engine.SUPPORTED})",
        "threads": f"{get_num_threads()} of {engine.available_cores()} cores",
        "GPU": _gpu(),
    }
    for extra, versions in extras().items():
        facts[f"extra {extra}"] = ", ".join(f"{name} {version or '(missing)'}" for name, version in versions.items())
    return "\n".join(_line(name, fact) for name, fact in facts.items())


def extras() -> dict[str, dict[str, str | None]]:
    """For each extra its packages and their installed versions, None where one is missing."""
    found: dict[str, dict[str, str | None]] = {}
    for requirement in _requirements():
        match = _REQUIREMENT.match(requirement)
        if match:
            found.setdefault(match["extra"], {})[match["name"]] = _version(match["name"])
    return found


def _requirements():
    try:
        return importlib.metadata.requires("fastloss") or []
    except importlib.metadata.PackageNotFoundError:  # run from a build folder
        return []


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpu():
    version = _version("numba-cuda")
    if not version:
        return 'none (numba-cuda comes with pip install "fastloss[cuda]")'
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return f"none: no driver is found (numba-cuda {version})"
    return f"through numba-cuda {version}"


def _line(name, fact):
    return textwrap.fill(fact, _WIDTH, initial_indent=f"{name:<14}", subsequent_indent=" " * 14, break_on_hyphens=False)
