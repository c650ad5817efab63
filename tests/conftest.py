"""How the suite runs in several processes at once (`pytest -n auto`): how many, which tests first, and who takes what."""

import os

import pytest

MOST_WORKERS = 16  # each imports and collects everything


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """One worker for each core that this process may use: its affinity and its cgroup's quota count, as for the engine's threads."""
    from fastloss._kernels.cpu.engine import available_cores

    return min(available_cores(), MOST_WORKERS)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Each worker has one stretch of the tests, so that a module's fixtures are made once; an idle worker takes half of another's rest."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


def pytest_collection_modifyitems(items):
    """The simulator's runs, each as long as a whole module, come first: at the end one worker would be left alone with them."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: item.path.name != "test_simulator.py")
