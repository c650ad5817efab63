"""Print the files that the generated kernels depend on: `python sources.py PROJECT_ROOT`."""

import sys
from pathlib import Path

FOLDERS = ("formula", "vecmath", "losses", "optimizers")

if __name__ == "__main__":
    package = Path(sys.argv[1]) / "fastloss"
    print(*sorted(str(file) for folder in FOLDERS for file in (package / folder).glob("*.py")), sep="\n")
