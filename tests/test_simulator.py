"""The CUDA engine's tests under Numba's simulator, which takes an interpreter that was started for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from . import cuda_simulator

FOLDER = Path(__file__).parent
LONGEST = ["test_cuda.py", "test_cuda_updates.py"]  # these first: two workers share the modules
MODULES = LONGEST + [path.name for path in sorted(FOLDER.glob("test_cuda*.py")) if path.name not in LONGEST]
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
ENVIRONMENT["NUMBA_ENABLE_CUDASIM"] = "1"


@pytest.mark.skipif(cuda_simulator.SIMULATED, reason="this is the simulator's run")
@pytest.mark.skipif(not cuda_simulator.INSTALLED, reason="needs numba-cuda: pip install 'fastloss[cuda]'")
@pytest.mark.parametrize("chosen", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
@pytest.mark.parametrize("module", MODULES)
def test_under_the_simulator(module, chosen):
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", chosen]
    command.append(str(FOLDER / module))
    done = subprocess.run(
        command, cwd=FOLDER.parent, env=ENVIRONMENT, capture_output=True, text=True, timeout=1500, check=False
    )
    if chosen == "slow" and done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED:
        pytest.skip("no test of this module is slow")
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2_000:]
    assert " passed" in done.stdout, "nothing was run"
