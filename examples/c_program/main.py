"""Compile program.c through cffi and call it: python main.py [FOLDER TO BUILD IN]"""

import importlib.util
import sys
import tempfile
from pathlib import Path

import numpy as np
from cffi import FFI

import fastloss as fl

DECLARED = """
double fit_line(const double *x, const double *y, ptrdiff_t count, double c, double lr, int steps, double *line);
int whole_arrays(uintptr_t address, const double *pred, const double *target, ptrdiff_t count, double c, double *value,
                 double *grad, char *message, size_t room);
"""


def build(folder):
    """The compiled program: its ffi and its functions."""
    ffi = FFI()
    ffi.cdef(DECLARED)
    source = (Path(__file__).parent / "program.c").read_text(encoding="utf-8")
    flags = list(fl.c_api.COMPILE_ARGS)
    ffi.set_source("program", source, include_dirs=[fl.get_include()], extra_compile_args=flags)
    spec = importlib.util.spec_from_file_location("program", ffi.compile(tmpdir=str(folder)))
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    return program.ffi, program.lib


def main(folder):
    ffi, program = build(folder)

    def pointer(array):
        return ffi.from_buffer("double[]", array)

    x = np.linspace(-1, 1, 1001)
    y = 0.5 + 2 * x
    y[::5] += 30  # outliers
    line = np.zeros(2)
    loss = program.fit_line(pointer(x), pointer(y), len(x), 0.2, 0.2, 4000, pointer(line))
    value, grad, message = ffi.new("double *"), np.empty(len(x)), ffi.new("char[200]")
    pred = line[0] + line[1] * x
    arguments = (pointer(pred), pointer(y), len(x), 0.2, value, pointer(grad), message, len(message))
    if program.whole_arrays(fl.c_api.ADDRESS, *arguments):
        raise RuntimeError(ffi.string(message).decode())
    expected = fl.cauchy.value_and_grad(pred, y, c=0.2)
    assert value[0] == expected[0] and np.array_equal(grad, expected[1])  # the same engine: the same bits
    print(f"line {line[0]:.2f} + {line[1]:.2f} x, loss {loss:.3f}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(sys.argv[1] if len(sys.argv) > 1 else folder)
