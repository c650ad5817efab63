"""Calls whose allocations fail, one after the other: with MemoryError, and everything as it was before."""

import itertools

import pytest

_testcapi = pytest.importorskip("_testcapi")  # part of CPython's tests, which some distributions leave out

# Calls in a row that went through before it is taken that no allocation of theirs is left to fail.
_ENOUGH = 40


def fail_each(call, unchanged, numpy_loses=False):
    """Let each allocation of a call fail in turn; how many failed.

    `call()` raises MemoryError, after which `unchanged()` must hold; what goes through in spite of the failure must go through whole,
    which is the call's to check. Python's own allocations are those that fail, of objects and of the engine; not NumPy's of data.
    `numpy_loses`: the call uses functions of NumPy that return without an exception then, which is a SystemError.
    """
    failed = through = place = 0
    while through < _ENOUGH:
        _testcapi.set_nomemory(place, place + 1)
        try:
            call()
        except (MemoryError, SystemError) as error:
            _testcapi.remove_mem_hooks()
            assert type(error) is MemoryError or numpy_loses
            failed, through = failed + 1, 0
            assert unchanged(), f"changed by a failure of allocation {place}"
        else:
            _testcapi.remove_mem_hooks()
            through += 1
        finally:
            _testcapi.remove_mem_hooks()
        place += 1
    return failed


def fail_each_array(call, unchanged, monkeypatch, module, names=("zeros", "array", "empty")):
    """As `fail_each`, of the arrays that a module makes by NumPy's functions of these names."""
    for place in range(1000):
        counted = itertools.count()
        with monkeypatch.context() as patch:
            for name in names:
                patch.setattr(module.np, name, _failing(getattr(module.np, name), counted, place))
            try:
                call()
            except MemoryError:
                pass
            else:
                return place
        assert unchanged(), f"changed by a failure of array {place}"
    raise AssertionError("more than a thousand arrays")


def _failing(function, counted, place):
    def make(*args, **options):
        if next(counted) == place:
            raise MemoryError
        return function(*args, **options)

    return make
