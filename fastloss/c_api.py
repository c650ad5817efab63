"""fastloss for C, cffi and Cython: where the headers are, and the table of functions that `fastloss_api.h` describes.

`CAPSULE` is what ``PyCapsule_Import("fastloss.c_api.CAPSULE", 0)`` finds; `ADDRESS` is the same table as a whole number, for cffi and
ctypes. Cython has ``from fastloss.c_api cimport import_fastloss`` for it, and ``from fastloss cimport huber_f64`` for the functions of
single numbers in `fastloss.h`.
"""

from math import isnan
from pathlib import Path

from . import losses
from ._kernels.cpu import engine
from .api import bound

# Compiler options with which these functions are as fast as the kernels. They change no result.
COMPILE_ARGS = ("-O3", "-fno-math-errno", "-fno-trapping-math")


def get_include() -> str:
    """The folder that holds `fastloss.h` and `fastloss_api.h`, for a C compiler's ``-I`` option.

    Returns
    -------
    str

    Examples
    --------
    >>> import fastloss as fl
    >>> from pathlib import Path
    >>> (Path(fl.get_include()) / "fastloss.h").exists()
    True
    """
    return str(Path(__file__).parent / "include")


def _plan(name, values):
    """The plan of a pointwise loss, by name; `values` are its hyperparameters in order (NaN stands for None), None means the defaults."""
    if name not in losses.POINTWISE:
        raise ValueError(f"bind: loss must be one of {', '.join(losses.POINTWISE)}, got {name!r}")
    loss = getattr(losses, name)
    names = list(loss.formula.parameters)
    if values is None:
        return bound("bind", loss, {})
    if len(values) != len(names):
        raise ValueError(f"{name}: hyperparameters must be {len(names)} numbers ({', '.join(names)}), got {len(values)}")
    return bound("bind", loss, {n: None if isnan(v) else v for n, v in zip(names, values, strict=True)})


CAPSULE, ADDRESS = engine.c_table(_plan)
