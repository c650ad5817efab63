"""Where in a formula an error comes from: its author sees the line, not the compiler's inside."""

import contextlib
import linecache
import os

from .graph import FormulaError

_COMPILER = os.path.dirname(__file__)


@contextlib.contextmanager
def located(who):
    """Errors of the formula language, and what Python says of symbols used as something else, with the formula's name and line."""
    try:
        yield
    except FormulaError as error:
        raise FormulaError(f"{who}: {error}{_place(error)}") from error
    except ArithmeticError as error:
        raise FormulaError(f"{who}: numbers must be within the range of float64, got {error}{_place(error)}") from error
    except (TypeError, AttributeError) as error:
        message = f"a formula must be made of operators and the functions of fastloss.math, got {error}"
        raise FormulaError(f"{who}: {message}{_place(error)}") from error


def _place(error):
    """The innermost line that is not the compiler's."""
    file, line, step = None, 0, error.__traceback__
    while step is not None:
        code = step.tb_frame.f_code
        if os.path.dirname(code.co_filename) != _COMPILER and code.co_filename != contextlib.__file__:
            file, line = code.co_filename, step.tb_lineno
        step = step.tb_next
    if file is None:
        return ""
    text = linecache.getline(file, line).strip()
    return f" (line {line} of {os.path.basename(file)}{': ' * bool(text)}{text})"
