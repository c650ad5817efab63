"""Failures of memory, injected: a call is made again and again, and each time another one of its allocations fails.

Three allocators are made to fail, one at a time: those of CPython (which the engine takes its memory from as well), and NumPy's
allocator of the arrays' data.
"""

import ctypes
import functools
import sys
from contextlib import contextmanager

import numpy as np
import pytest

_testcapi = pytest.importorskip("_testcapi")  # part of CPython's tests, which some distributions leave out
_MALLOC = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_CALLOC = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)
_REALLOC = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_FREE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_PATIENCE = 8
_SET_HANDLER = 304  # the place of PyDataMem_SetHandler among the functions of NumPy's C interface


class _Handler(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char * 127), ("version", ctypes.c_uint8), ("context", ctypes.c_void_p),
        ("malloc", _MALLOC), ("calloc", _CALLOC), ("realloc", _REALLOC), ("free", _FREE),
    )  # fmt: skip


class _ArrayData:
    """NumPy's memory for arrays, of which one allocation fails."""

    def __init__(self):
        self.left = -1  # how many more succeed; negative: all
        self.failed = False
        pointer = ctypes.pythonapi.PyCapsule_GetPointer
        pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
        table = pointer(np._core._multiarray_umath._ARRAY_API, None)
        address = ctypes.cast(table, ctypes.POINTER(ctypes.c_void_p))[_SET_HANDLER]
        self.set = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p)(address)
        self.usual = self.set(None)
        usual = _Handler.from_address(pointer(self.usual, b"mem_handler"))

        def unless_it_fails(allocate):
            def counted(*arguments):
                self.left -= 1
                if self.left == -1:
                    self.failed = True
                    return None
                return allocate(*arguments)

            return counted

        # Memory is given back by NumPy's own function: it may be while an error is on its way, and Python code would lose that.
        self.handler = _Handler(
            b"failing", 1, None, _MALLOC(unless_it_fails(usual.malloc)), _CALLOC(unless_it_fails(usual.calloc)),
            usual.realloc, usual.free,
        )  # fmt: skip
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        self.capsule = new(ctypes.addressof(self.handler), b"mem_handler", None)

    def install(self):
        self.set(id(self.capsule))

    def remove(self):
        self.set(None)


@functools.cache
def _array_data():
    return _ArrayData()


@contextmanager
def _failing_arrays(count):
    arrays = _array_data()
    arrays.left, arrays.failed = count, False
    arrays.install()
    try:
        yield lambda: arrays.failed
    finally:
        arrays.remove()


def _failing_objects(call, count):
    """The call's result or its error, where allocation number `count` of CPython's fails; none fails after it."""
    found = None
    _testcapi.set_nomemory(count, count + 1)
    try:
        found = call()
    except BaseException as error:
        _testcapi.remove_mem_hooks()
        return error
    _testcapi.remove_mem_hooks()
    return found


def each_failure(make, call, most=3000):
    """Yield `(state, error)` for each allocation of `call(state)` that fails, until none is left to fail.

    `make()` makes a state anew, outside the failures: the arrays and objects that the call uses. The caller looks at what the call
    left of it.
    """
    survived = 0
    for count in range(1, most):
        state = make()
        call(state)  # what is made once is there
        state = make()
        result = _failing_objects(lambda state=state: call(state), count)
        if isinstance(result, BaseException):
            survived = 0
            yield state, result
        else:
            # The failure was made up for, or there was none: the call is over before.
            survived += 1
            if survived == _PATIENCE:
                break
    else:
        raise AssertionError(f"more than {most} allocations")
    for count in range(most):
        state = make()
        error = None
        with _failing_arrays(count) as failed:
            try:
                call(state)
            except BaseException as raised:
                error = raised
            did_fail = failed()
        if not did_fail:
            break
        yield state, error


if not hasattr(sys, "getrefcount"):  # another Python than CPython
    pytest.skip("CPython's allocators", allow_module_level=True)
