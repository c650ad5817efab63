"""``python -m fastloss demo``: models trained on small data, where the choice of loss or optimizer shows.

`linear`, `digits` and `race` train and measure, `report` writes the tables, `figure` draws the picture.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import digits, linear, race, report

EXPERIMENTS: tuple[tuple[Callable[..., Any], Callable[[Any], str]], ...] = (
    (linear.linear_regression, report.linear_regression),
    (linear.breast_cancer, report.breast_cancer),
    (linear.diabetes, report.diabetes),
    (digits.digit_classes, report.digit_classes),
    (digits.digit_pairs, report.digit_pairs),
    (race.optimizer_race, report.optimizer_race),
)


class Unready(Exception):
    """Something outside fastloss keeps the demo from running; the message says what, and the remedy."""


def run(plot: str | None = None) -> None:
    """Train, print the tables, and draw the picture into the file `plot` if one is named."""
    if plot:
        _require("matplotlib.figure", "matplotlib")
        _check_file(Path(plot))
    _require("tqdm", "tqdm")
    _require("sklearn.datasets", "scikit-learn")
    results: list[Any] = []
    # The threads of BLAS wait for one another: with the cores busy elsewhere, the digits took 11 s and not 1.
    with _require("threadpoolctl", "scikit-learn").threadpool_limits(1, user_api="blas"):
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

    # A linear model takes some 20 ms to train, less than the 100 between two of tqdm's usual updates.
    return tqdm(epochs, desc=name, unit=" epochs", leave=False, disable=None, mininterval=0.005)


def _save(plot, results):
    from . import figure

    try:
        figure.draw(*results).savefig(plot, dpi=150)
    except OSError as error:
        raise Unready(f"--plot must be a file that can be written, got {plot!r} ({error.strerror})") from error
    print(f"picture drawn into {plot}")
