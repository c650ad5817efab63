"""Print what the build must know beforehand: `python sources.py PACKAGE files`, those that the generated text depends on;
`python sources.py PACKAGE units`, the names of the units of kernels."""

import sys
from pathlib import Path

from generate import import_formulas, unit_names

FOLDERS = ("formula", "vecmath", "losses", "optimizers")


def files(package):
    return sorted(file for folder in FOLDERS for file in (package / folder).glob("*.py"))


def units(package):
    return unit_names(import_formulas(package))


if __name__ == "__main__":
    print(*{"units": units, "files": files}[sys.argv[2]](Path(sys.argv[1])), sep="\n")
