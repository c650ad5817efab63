"""The tests of CUDA arrays, on a machine without a GPU: each file in a process of its own, under Numba's simulator."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cuda_simulator import HAS_GPU, HAS_NUMBA, SIMULATED

FILES = sorted(Path(__file__).parent.glob("test_cuda*.py"))


@pytest.mark.skipif(not HAS_NUMBA, reason="needs numba-cuda, of the extra `cuda`")
@pytest.mark.skipif(SIMULATED or HAS_GPU, reason="they run by themselves")
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_under_the_simulator(file):
    arguments = ["-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)]
    done = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"NUMBA_ENABLE_CUDASIM": "1"},
        cwd=file.parent,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2000:]
