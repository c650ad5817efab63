"""``python -m fastloss demo``: models trained on small data, where the choice of loss or optimizer shows.

`linear` trains and measures, `report` writes the tables, `figure` draws the curves.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import linear, report

EXPERIMENTS: tuple[tuple[Callable[..., Any], Callable[[Any], str]], ...] = (
    (linear.linear_regression, report.linear_regression),
    (linear.breast_cancer, report.breast_cancer),
    (linear.diabetes, report.diabetes),
)


class Unready(Exception):
    """Something outside fastloss keeps the demo from running; the message says what, and the remedy."""


def run(plot: str | None = None) -> None:
    """Train, print the tables, and draw the curves into the file `plot` if one is named."""
    if plot:
        _require("matplotlib.figure", "matplotlib")
        _check_file(Path(plot))
    _require("tqdm", "tqdm")
    _require("sklearn.datasets", "scikit-learn")
    results: list[Any] = []
    for experiment, table in EXPERIMENTS:
        results.append(experiment(_progress))
        print(table(results[-1]), end="\n\n", flush=True)
    if plot:
        _save(plot, results)


def _require(module, package):
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise Unready(f'{package} must be installed: pip install "fastloss[demo]" ({error})') from error


def _check_file(file):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    endings = FigureCanvasAgg.get_supported_filetypes()
    if file.suffix[1:].lower() not in endings:
        raise Unready(f"--plot must end in one of {', '.join(f'.{ending}' for ending in sorted(endings))}, got {str(file)!r}")
    if not file.parent.is_dir():
        raise Unready(f"--plot must lie in a folder that exists, got {str(file)!r}")


def _progress(epochs, name):
    """`epochs`, with a bar on a terminal's stderr that is gone when a table is printed."""
    from tqdm import tqdm

    # A training takes some 20 ms, less than the 100 between two of tqdm's usual updates.
    return tqdm(epochs, desc=name, unit=" epochs", leave=False, disable=None, mininterval=0.005)


def _save(plot, results):
    from . import figure

    try:
        figure.draw(*results).savefig(plot, dpi=150)
    except OSError as error:
        raise Unready(f"--plot must be a file that can be written, got {plot!r} ({error.strerror})") from error
    print(f"curves drawn into {plot}")
