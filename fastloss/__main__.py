"""The command line: ``python -m fastloss info`` and ``python -m fastloss demo [--plot FILE]``."""

import argparse
import sys
from collections.abc import Sequence

from .demo import Unready, run
from .information import describe


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 2 for what the caller can mend."""
    parser = argparse.ArgumentParser(prog="python -m fastloss", description="Losses and optimizer steps for NumPy arrays.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    info = commands.add_parser("info", help="versions, instruction set, threads, GPU, extras")
    info.set_defaults(run=lambda _: _info())
    demo = commands.add_parser("demo", help="train a few models and show how losses and optimizers differ")
    demo.add_argument("--plot", metavar="FILE", help="draw the results into FILE (.png, .pdf, .svg, ...)")
    demo.set_defaults(run=lambda given: _demo(given.plot))
    given = parser.parse_args(arguments)
    return given.run(given)


def _info():
    print(describe())
    return 0


def _demo(plot):
    try:
        run(plot)
    except Unready as reason:
        print(f"fastloss demo: {reason}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
