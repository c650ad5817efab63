"""Extras that are not installed, or not usable: an error that names them, as often as it is asked for, and nothing lost each time."""

import subprocess
import sys

import pytest

MISSING = """
import gc, sys, tracemalloc

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {package!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
import fastloss as fl
own = fl.loss(lambda pred, target: (pred - target) ** 2)

def attempts(count):
    for _ in range(count):
        try:
            {call}
        except ImportError as error:
            said = str(error)
        else:
            raise AssertionError("no error")
    gc.collect()
    return said

attempts(20)
tracemalloc.start()
attempts(20)
before = tracemalloc.get_traced_memory()[0]
said = attempts(200)
print((tracemalloc.get_traced_memory()[0] - before) // 200)
print(said)
"""


@pytest.mark.parametrize(
    ("package", "call", "said"),
    [
        ("numba_cuda", "fl.check_device()", "check_device: CUDA arrays need numba-cuda: pip install 'fastloss[cuda]'"),
        ("numba_cuda", "fl.huber.jit.cuda()", "huber.jit.cuda: CUDA arrays need numba-cuda: pip install 'fastloss[cuda]'"),
        ("numba", "fl.huber.jit", "huber.jit: Numba must be installed (pip install 'fastloss[jit]')"),
        ("numba", "fl.AdamW.jit", "AdamW.jit: Numba must be installed (pip install 'fastloss[jit]')"),
        ("llvmlite", "own([1.0], [1.0])", "llvmlite, which must be installed (pip install 'fastloss[jit]')"),
        ("ml_dtypes", "fl.interop.bfloat16('huber')", "huber: bfloat16 needs ml_dtypes"),
    ],
)
def test_44_a_missing_extra_is_named_and_asking_again_leaks_nothing(package, call, said):
    if package == "numba_cuda" and "jit" in call:
        pytest.importorskip("numba")
    program = MISSING.format(package=package, call=call)
    run = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    lost, message = run.stdout.splitlines()
    assert int(lost) < 50
    assert said in message


def test_a_numpy_that_numba_cuda_cannot_compile_under_is_named():
    pytest.importorskip("numba_cuda")
    program = "import numpy; vars(numpy).pop('row_stack')\nimport fastloss as fl\nfl.check_device()"
    run = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert "ImportError: check_device: CUDA arrays need NumPy below 2.5" in run.stderr
