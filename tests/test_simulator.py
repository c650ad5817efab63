"""The CUDA engine's tests under Numba's simulator, which takes an interpreter that was started for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from . import cuda_simulator

FOLDER = Path(__file__).parent
MODULES = [path.name for path in sorted(FOLDER.glob("test_*.py")) if "\npytestmark = cuda_simulator.needed" in path.read_text()]


@pytest.mark.skipif(cuda_simulator.SIMULATED, reason="this is the simulator's run")
@pytest.mark.skipif(not cuda_simulator.INSTALLED, reason="needs numba-cuda: pip install 'fastloss[cuda]'")
@pytest.mark.parametrize("module", MODULES)
def test_under_the_simulator(module):
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(FOLDER / module)]
    run = subprocess.run(command, cwd=FOLDER.parent, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert run.returncode == 0, run.stdout[-10_000:] + run.stderr[-2_000:]
    assert " passed" in run.stdout, "nothing was run"
