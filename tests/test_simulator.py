"""The CUDA engine's tests under Numba's simulator, which takes an interpreter that was started for it."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from . import cuda_simulator

FOLDER = Path(__file__).parent
MODULES = [path.name for path in sorted(FOLDER.glob("test_cuda*.py"))]
LONGEST = "test_cuda_updates.py"


def run(module):
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(FOLDER / module)]
    return subprocess.run(
        command, cwd=FOLDER.parent, env=environment, capture_output=True, text=True, timeout=1500, check=False
    )


@pytest.fixture(scope="module")
def runs():
    """All modules' runs, two at a time, the longest first."""
    with ThreadPoolExecutor(2) as pool:
        yield {module: pool.submit(run, module) for module in sorted(MODULES, key=lambda module: module != LONGEST)}


@pytest.mark.skipif(cuda_simulator.SIMULATED, reason="this is the simulator's run")
@pytest.mark.skipif(not cuda_simulator.INSTALLED, reason="needs numba-cuda: pip install 'fastloss[cuda]'")
@pytest.mark.parametrize("module", MODULES)
def test_under_the_simulator(runs, module):
    done = runs[module].result()
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2_000:]
    assert " passed" in done.stdout, "nothing was run"
