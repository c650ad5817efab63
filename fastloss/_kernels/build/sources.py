"""Print what the build must know beforehand: `python sources.py PACKAGE files`, those that the generated text depends on;
`python sources.py PACKAGE units`, the names of the units of kernels."""

import sys
from pathlib import Path

FOLDERS = ("formula", "vecmath", "losses", "optimizers")


def units(package):
    """One for each family of losses, one for all update rules, one for the vector math by itself."""
    return [*(f"losses_{file.stem}" for file in sorted((package / "losses").glob("[!_]*.py"))), "optimizers", "vecmath"]


def files(package):
    return sorted(file for folder in FOLDERS for file in (package / folder).glob("*.py"))


if __name__ == "__main__":
    print(*{"units": units, "files": files}[sys.argv[2]](Path(sys.argv[1])), sep="\n")
