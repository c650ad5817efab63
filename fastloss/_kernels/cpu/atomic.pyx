# cython: language_level=3, boundscheck=False, wraparound=False
"""What must not be interrupted: no signal handler runs within these calls, because no Python code does.

`Turn` is the lock of an object whose calls change it; `replace` and `assign` change several things as one act.
"""

import os

cdef extern from "pythread.h" nogil:
    ctypedef void* PyThread_type_lock
    ctypedef enum PyLockStatus:
        PY_LOCK_FAILURE
        PY_LOCK_ACQUIRED
        PY_LOCK_INTR
    unsigned long PyThread_get_thread_ident()
    PyThread_type_lock PyThread_allocate_lock()
    void PyThread_free_lock(PyThread_type_lock)
    int PyThread_acquire_lock(PyThread_type_lock, int wait)
    PyLockStatus PyThread_acquire_lock_timed(PyThread_type_lock, long long microseconds, int interruptible)
    void PyThread_release_lock(PyThread_type_lock)

cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1

# How many forks lie between this process and the first one, and the thread that the last of them left alive.
cdef long forks = 0
cdef unsigned long survivor = 0


def _forked():
    global forks, survivor
    forks += 1
    survivor = PyThread_get_thread_ident()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


cdef class Turn:
    """A lock, used as ``with turn:``, that a forked child never finds held by a thread that it does not have.

    A thread that holds it already, such as one interrupted by a signal handler, gets a RuntimeError and does not wait for itself.
    """

    cdef PyThread_type_lock lock
    cdef unsigned long owner  # 0 while nobody holds it
    cdef long forks
    cdef str who

    def __cinit__(self, str who):
        self.who = who
        self.owner = 0
        self.forks = forks
        self.lock = PyThread_allocate_lock()
        if self.lock == NULL:
            raise MemoryError()

    def __dealloc__(self):
        # One that is held is still its holder's, or that of a thread which a fork left behind.
        if self.lock != NULL and self.owner == 0:
            PyThread_free_lock(self.lock)

    cdef int renew(self) except -1:
        """In a forked child: what a thread of the parent held nobody will release."""
        cdef PyThread_type_lock fresh
        if self.owner != survivor:
            fresh = PyThread_allocate_lock()
            if fresh == NULL:
                raise MemoryError()
            self.lock = fresh
            self.owner = 0
        self.forks = forks
        return 0

    @property
    def is_mine(self):
        """Whether this thread holds it."""
        if self.forks != forks:
            self.renew()
        return self.owner == PyThread_get_thread_ident()

    def __enter__(self):
        cdef PyLockStatus status = PY_LOCK_INTR
        if self.is_mine:
            raise RuntimeError(
                f"{self.who}: must not be used from within its own step, as by a signal handler or a schedule that steps it"
            )
        if not PyThread_acquire_lock(self.lock, 0):
            while status == PY_LOCK_INTR:
                with nogil:
                    status = PyThread_acquire_lock_timed(self.lock, -1, 1)
                if status == PY_LOCK_INTR:
                    PyErr_CheckSignals()
        self.owner = PyThread_get_thread_ident()

    def __exit__(self, kind, error, trace):
        self.owner = 0
        PyThread_release_lock(self.lock)


cpdef int replace(list changes) except -1:
    """For each (object, name, value) let the object's attribute, or a dictionary's entry, be the value.

    Where these are there already nothing is allocated, so nothing can fail.
    """
    for place, name, value in changes:
        if type(place) is dict:
            (<dict>place)[name] = value
        else:
            setattr(place, name, value)
    return 0


def assign(list targets, list values, list changes=None):
    """Copy the numbers of arrays into others, as ``target[...] = value``, and then `replace` by the changes."""
    cdef Py_ssize_t k
    for k in range(min(len(targets), len(values))):
        if targets[k] is not values[k]:
            targets[k][...] = values[k]
    if changes is not None:
        replace(changes)
