# The engine for Cython: whole arrays with threads, tile functions by name. The header says what each member does.

from cpython.pycapsule cimport PyCapsule_Import
from libc.stdint cimport int32_t, uint32_t

cdef extern from "fastloss_api.h" nogil:
    ctypedef void (*fastloss_tile)(Py_ssize_t count, void** arrays, const double* uniforms) noexcept nogil

    enum:
        FASTLOSS_API_VERSION
        FASTLOSS_NONE
        FASTLOSS_SUM
        FASTLOSS_MEAN
        FASTLOSS_DONE
        FASTLOSS_REFUSED
        FASTLOSS_NO_MEMORY
        FASTLOSS_BAD_WEIGHT
        FASTLOSS_OUTSIDE
        FASTLOSS_BAD_DIVISOR

    ctypedef struct fastloss_bound:
        fastloss_tile tile
        int32_t itemsize
        int32_t inputs
        int32_t outputs
        int32_t has_value
        int32_t cost
        int32_t reserved
        double* uniforms
        double* lowest
        double* highest

    ctypedef struct fastloss_api:
        uint32_t version
        uint32_t size
        fastloss_tile (*find)(const char* name) noexcept nogil
        int (*bind)(fastloss_bound* bound, const char* loss, const char* wanted, int itemsize, const double* hyperparameters,
                    int count, char* message, size_t room) noexcept nogil
        int (*evaluate)(const fastloss_bound* bound, Py_ssize_t count, const void** inputs, const void* sample_weight,
                        int reduction, double* value, void** outputs) noexcept nogil
        double (*evaluate_one)(int count, double* x, void* bound) noexcept nogil
        int (*get_num_threads)() noexcept nogil
        void (*set_num_threads)(int count) noexcept nogil


cdef inline const fastloss_api* import_fastloss() except NULL:
    """The table of functions; ImportError if the installed fastloss speaks another version of it."""
    cdef const fastloss_api* api = <const fastloss_api*>PyCapsule_Import("fastloss.c_api.CAPSULE", 0)
    if api.version != FASTLOSS_API_VERSION:
        raise ImportError(f"fastloss: the C interface must be version {FASTLOSS_API_VERSION}, as this module was built for, got {api.version}")
    return api
