"""``python -m fastloss demo``: models trained on small data, where the choice of loss or optimizer shows.

`experiments` trains and measures, `report` writes the tables, `figure` draws the curves.
"""

import importlib
from pathlib import Path

PARTNERS = ("tqdm", "sklearn")


class Unready(Exception):
    """Something outside fastloss keeps the demo from running; the message says what, and the remedy."""


def run(plot: str | None = None) -> None:
    """Train, print the tables, and draw the curves into the file `plot` if one is named."""
    for module in (*PARTNERS, "matplotlib") if plot else PARTNERS:
        _require(module)
    if plot:
        _check_file(Path(plot))
    from . import experiments, report

    results = []
    for experiment, table in (
        (experiments.linear_regression, report.linear_regression),
        (experiments.breast_cancer, report.breast_cancer),
        (experiments.diabetes, report.diabetes),
    ):
        results.append(experiment(_progress))
        print(table(results[-1]), end="\n\n", flush=True)
    if plot:
        _save(plot, results)


def _require(module):
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise Unready(f'{module} must be installed: pip install "fastloss[demo]" ({error})') from error


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

    return tqdm(epochs, desc=name, unit=" epochs", leave=False, disable=None)


def _save(plot, results):
    from . import figure

    try:
        figure.draw(*results).savefig(plot, dpi=150)
    except OSError as error:
        raise Unready(f"--plot must be a file that can be written, got {plot!r} ({error.strerror})") from error
    print(f"curves drawn into {plot}")
