# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The CPU engine: from NumPy arrays to tiles and back, for losses (`Plan`, `RowPlan`) and update rules (`Sweep`)."""

from cpython.buffer cimport PyBUF_FORMAT, PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_RawFree, PyMem_RawMalloc, PyMem_Realloc
from libc.float cimport DBL_MAX, DBL_MIN, FLT_MAX, FLT_MIN
from libc.math cimport INFINITY, NAN, isfinite, sqrt
from cpython.object cimport PyObject
from libc.stdint cimport INT64_MAX, INT64_MIN, int64_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy, memset


import numpy as np

from .. import arrays, formats, request as requests
from ... import interop
from . import levels, norms

cdef extern from "cpu.h":
    int fastloss_cpu_level()

cdef extern from "pool.h" nogil:
    ctypedef void (*fastloss_work)(void* context, Py_ssize_t chunk, char* scratch) noexcept nogil
    ctypedef int (*fastloss_poll)(void* context) noexcept nogil
    int fastloss_run(fastloss_work work, fastloss_poll poll, void* context, Py_ssize_t chunks, int threads, char* scratch, size_t room)
    int fastloss_get_num_threads()
    void fastloss_set_num_threads(int count)
    void fastloss_limit_threads(int limit, int by)
    int fastloss_available_cores()

cdef extern from "Python.h":
    int PyErr_CheckSignals()

cdef enum:
    F32, F64, F16, BF16, I8, I16, I32, I64, U8, U16, U32, U64
    DTYPES

cdef enum:
    # Buffers of a call: each input's, the weights', and of a result its own, one that it is computed into, and one for sums.
    MAX_VIEWS = 42
    # Numbers of a formula that are the same for all elements, and the hyperparameters they come from.
    MAX_UNIFORMS = 32
    # What an update, a look at its gradient, and what it sums beforehand cost in additions, for the choice of threads.
    UPDATE_COST = 60
    MEASURE_COST = 12
    FOLD_COST = 30

cdef enum:
    VALUE = 1
    GRAD = 2
    HESS = 4
    HVP = 8

include "scratch.pxi"
include "driver.pxi"

cdef object ndarray = np.ndarray
cdef object empty = np.empty
# A sum of squares below this may have lost some.
cdef double LEAST_SQUARE = 1e-250
# Results larger than this do not stay in the caches anyway.
cdef Py_ssize_t STREAM_BYTES = 8 << 20

# The level that the processor runs, and the one in use.
SUPPORTED = levels.NAMES[fastloss_cpu_level()]
ISA, _tiles = levels.choose(fastloss_cpu_level())
# What one unit of a kernel's cost takes per float32 element, roughly.
cdef double UNIT_NS = {"x86-64-v4": 0.008, "x86-64-v3": 0.016}.get(ISA, 0.04)

cdef Tilework[2] WORK
# Of labels only the loads.
cdef Tilework LABELS
cdef count_labels_function count_labels


cdef void* allocate(size_t size) except NULL:
    cdef void* memory = PyMem_Malloc(size or 1)
    if memory == NULL:
        raise MemoryError()
    return memory


cdef void* address(str name) except NULL:
    return address_in(_tiles, name)


cdef void* address_in(object library, str name) except NULL:
    """Where a function is: `library` is the module of the chosen level, or what compiles a user's formula at run time.

    Both offer `address(name)`, `cost(name)` of a kernel, and `layout(name)` of a row formula's program.
    """
    return <void*><uintptr_t>library.address(name)


DTYPE_NAMES = tuple(formats.FORMATS)
# The largest number of each that does not become infinite when it is stored.
cdef double[DTYPES] LARGEST
for code, own in enumerate(formats.FORMATS.values()):
    LARGEST[code] = own.largest or 0


cdef void bind_tilework(int precision, str real) except *:
    cdef Tilework* work = &WORK[precision]
    memset(work, 0, sizeof(Tilework))
    work.itemsize = 8 if precision == F64 else 4
    work.native = precision
    for code, own in enumerate(formats.FORMATS.values()):
        work.load[code] = <load_function>address(f"{own.load}_{real}")
        if own.is_floating:
            work.store[code] = <store_function>address(f"{own.store}_{real}")
    work.scale = <scale_function>address(f"scale_{real}")
    work.stream = <stream_function>address(f"stream_{real}")
    work.weigh = <weigh_function>address(f"weigh_{real}")
    work.outside = <outside_function>address(f"outside_{real}")
    work.times = <times_function>address(f"times_{real}")
    work.sum = <sum_function>address(f"sum_{real}")
    work.squares = <sum_function>address(f"squares_{real}")
    work.adjust = <adjust_function>address(f"adjust_{real}")
    work.blend = <blend_function>address(f"blend_{real}")
    work.plus = <blend_function>address(f"plus_{real}")
    work.dither = <dither_function>address("dither")
    work.largest = <sum_function>address(f"largest_{real}")
    work.split = <split_function>address(f"split_{real}")
    work.join = <split_function>address(f"join_{real}")
    work.pick = <pick_function>address(f"pick_{real}")
    work.add = <add_function>address(f"add_{real}")
    work.first_largest = <index_function>address(f"first_largest_{real}")
    work.predict = <predict_function>address(f"predict_{real}")
    work.rise = <rise_function>address(f"rise_{real}")
    work.run = <run_function>address(f"run_{real}")
    work.run_on = <run_on_function>address(f"run_on_{real}")


cdef void bind_labels() except *:
    global count_labels
    memset(&LABELS, 0, sizeof(Tilework))
    LABELS.itemsize = 8
    LABELS.native = I64
    for code, name in enumerate(DTYPE_NAMES):
        if code > BF16:
            LABELS.load[code] = <load_function>address(f"load_{name}_label")
    LABELS.load[U64] = <load_function>load_u64_label
    count_labels = <count_labels_function>address("count_labels")


cdef void load_u64_label(const uint64_t* source, Py_ssize_t stride, int64_t* labels, Py_ssize_t count) noexcept nogil:
    """Labels beyond int64 become its least number, which is no label and no `ignore_index`."""
    cdef Py_ssize_t i
    cdef uint64_t label
    for i in range(count):
        label = (<const uint64_t*>(<const char*>source + i * stride))[0]
        labels[i] = <int64_t>label if label <= <uint64_t>INT64_MAX else INT64_MIN


bind_tilework(F32, "f32")
bind_tilework(F64, "f64")
bind_labels()


# --- arrays ---------------------------------------------------------------------------------------------------------------

cdef int code_of(const Py_buffer* view) noexcept:
    """The element type of a buffer in native byte order, or -1."""
    cdef char letter = view.format[0]
    if letter == 0 or view.format[1] != 0:
        return -1
    if letter == b"f":
        return F32
    if letter == b"d":
        return F64
    if letter == b"e":
        return F16
    if letter == b"?":
        return U8
    if letter in (b"b", b"h", b"i", b"l", b"q"):
        return I8 if view.itemsize == 1 else I16 if view.itemsize == 2 else I32 if view.itemsize == 4 else I64
    if letter in (b"B", b"H", b"I", b"L", b"Q"):
        return U8 if view.itemsize == 1 else U16 if view.itemsize == 2 else U32 if view.itemsize == 4 else U64
    return -1


cdef struct Held:
    # The buffers of one call, to be released together.
    int count
    Py_buffer[MAX_VIEWS] views
    int[MAX_VIEWS] codes


cdef void release(Held* held) noexcept:
    cdef int k
    for k in range(held.count):
        PyBuffer_Release(&held.views[k])
    held.count = 0


cdef object take_buffer(Py_buffer* view, int* code, str who, str name, object array):
    """Take an array's buffer; returns the array that it came from, a converted one where the given one does not serve."""
    if type(array) is ndarray:
        try:
            PyObject_GetBuffer(array, view, PyBUF_FORMAT | PyBUF_STRIDES)
        except (ValueError, BufferError):
            pass  # bfloat16, datetime: no buffer
        else:
            code[0] = code_of(view)
            if code[0] >= 0:
                return array
            PyBuffer_Release(view)
    if type(array) is not ndarray or not arrays.is_bfloat16(array.dtype) or not array.flags.aligned:
        array = arrays.as_array(who, name, array)
    if arrays.is_bfloat16(array.dtype):
        PyObject_GetBuffer(array.view(np.uint16), view, PyBUF_FORMAT | PyBUF_STRIDES)
        code[0] = BF16
    else:
        PyObject_GetBuffer(array, view, PyBUF_FORMAT | PyBUF_STRIDES)
        code[0] = code_of(view)
    return array


cdef object hold(Held* held, str who, str name, object array):
    """`take_buffer`, released with the call's other buffers."""
    if held.count == MAX_VIEWS:
        raise ValueError(f"{who}: arrays must be fewer, got {name} beside {MAX_VIEWS}")
    array = take_buffer(&held.views[held.count], &held.codes[held.count], who, name, array)
    held.count += 1
    return array


cdef object hold_again(Held* held, str who, str name, object array):
    """Hold an array in the place of the one held last."""
    held.count -= 1
    PyBuffer_Release(&held.views[held.count])
    return hold(held, who, name, array)


cdef bint lay_out(Operand* a, const Py_buffer* view, int code, const Tilework* work, int dims, const Py_ssize_t* shape) noexcept:
    """Describe the buffer, broadcast to `shape`, as an operand; False if it does not broadcast or has too many dimensions."""
    cdef int d, own
    cdef Py_ssize_t length, stride
    cdef int offset = dims - view.ndim
    if offset < 0:
        return False
    a.data = <char*>view.buf
    a.load = work.load[code]
    a.store = work.store[code]
    a.dims = 0
    for d in range(dims):
        own = d - offset
        length = shape[d]
        if own < 0 or view.shape[own] == 1:
            stride = 0
        elif view.shape[own] == length:
            stride = view.strides[own]
        else:
            return False
        if length == 1:
            continue
        if a.dims and a.strides[a.dims - 1] == length * stride:
            a.shape[a.dims - 1] *= length
            a.strides[a.dims - 1] = stride
        elif a.dims == MAX_DIMS:
            return False
        else:
            a.shape[a.dims] = length
            a.strides[a.dims] = stride
            a.dims += 1
    if a.dims == 0:
        a.dims = 1
        a.shape[0] = 1
        a.strides[0] = work.itemsize
    a.direct = a.dims == 1 and a.strides[0] == view.itemsize and code == work.native
    return True


cdef bint broadcasts(const Py_buffer* view, int dims, const Py_ssize_t* shape) noexcept:
    cdef int d
    if view.ndim > dims:
        return False
    for d in range(view.ndim):
        if view.shape[d] != 1 and view.shape[d] != shape[dims - view.ndim + d]:
            return False
    return True


cdef void extent(const Py_buffer* view, uintptr_t* low, uintptr_t* high) noexcept:
    """The bytes that a buffer spans: [low, high)."""
    cdef int d
    low[0] = high[0] = <uintptr_t>view.buf
    for d in range(view.ndim):
        if view.shape[d] == 0:
            high[0] = low[0]
            return
        if view.strides[d] < 0:
            low[0] += (view.shape[d] - 1) * view.strides[d]
        else:
            high[0] += (view.shape[d] - 1) * view.strides[d]
    high[0] += view.itemsize


cdef bint overlap(const Py_buffer* a, const Py_buffer* b) noexcept:
    cdef uintptr_t a_low, a_high, b_low, b_high
    extent(a, &a_low, &a_high)
    extent(b, &b_low, &b_high)
    return a_low < b_high and b_low < a_high


cdef bint same_shape(const Py_buffer* a, const Py_buffer* b) noexcept:
    cdef int d
    if a.ndim != b.ndim:
        return False
    for d in range(a.ndim):
        if a.shape[d] != b.shape[d]:
            return False
    return True


cdef bint same_elements(const Py_buffer* a, const Py_buffer* b) noexcept:
    """Whether two buffers lay the same elements over the same memory."""
    cdef int d
    if a.buf != b.buf or a.itemsize != b.itemsize or not same_shape(a, b):
        return False
    for d in range(a.ndim):
        if a.shape[d] > 1 and a.strides[d] != b.strides[d]:
            return False
    return True


cdef bint overlaps_itself(const Py_buffer* view) noexcept:
    """Whether two elements may share memory: some dimension steps less far than the smaller-stepping ones reach."""
    cdef int d, e
    cdef Py_ssize_t reach, step, other
    if view.len == 0:
        return False
    for d in range(view.ndim):
        if view.shape[d] == 0:
            return False
    for d in range(view.ndim):
        if view.shape[d] < 2:
            continue
        step = view.strides[d] if view.strides[d] >= 0 else -view.strides[d]
        reach = view.itemsize
        for e in range(view.ndim):
            other = view.strides[e] if view.strides[e] >= 0 else -view.strides[e]
            if e != d and view.shape[e] > 1 and (other < step or (other == step and e > d)):
                reach += (view.shape[e] - 1) * other
        if step < reach:
            return True
    return False


cdef double scan(Operand* a, const Tilework* work, Py_ssize_t count, str who, str name, object domain, object array, tuple shape) except? -1:
    """Check every element of an input against its domain; returns their sum where that is asked for."""
    cdef Scan job
    cdef Scratch scratch
    cdef Py_ssize_t k, chunks = (count + CHUNK - 1) // CHUNK
    job.array = a
    job.work = work
    job.count = count
    job.low, job.high = domain.ends32 if work.itemsize == 4 else domain.ends64
    job.nan_is_outside = domain.nan_is_outside
    job.sums = domain.is_summed
    take_scratch(&scratch, chunks * (sizeof(double) + sizeof(Py_ssize_t)), TILE_BYTES, chunks, count * UNIT_NS * 10)
    try:
        job.sums_by_chunk = <double*>scratch.shared
        job.found_by_chunk = <Py_ssize_t*>(job.sums_by_chunk + chunks)
        run_chunks(scan_chunk, &job, chunks, &scratch)
        for k in range(chunks):
            if job.found_by_chunk[k] >= 0:
                raise arrays.domain_error(who, name, domain, array, shape, job.found_by_chunk[k])
        return tree_sum(job.sums_by_chunk, chunks) if job.sums else 0
    finally:
        return_scratch(&scratch)


include "request.pxi"
include "pointwise.pxi"
include "segments.pxi"
include "update_tiles.pxi"
include "step_options.pxi"
include "sweep.pxi"
include "rows.pxi"
include "row_calls.pxi"
include "centers.pxi"
include "line.pxi"
include "c_calls.pxi"


# --- threads --------------------------------------------------------------------------------------------------------------

def get_num_threads():
    return fastloss_get_num_threads()


def set_num_threads(int count):
    fastloss_set_num_threads(count)


def limit_threads(int limit, int by):
    """Add (`by` 1) or remove (-1) a limit that holds for the whole process; the lowest one counts."""
    fastloss_limit_threads(limit, by)


def available_cores():
    return fastloss_available_cores()


# --- the vector math, for its tests ----------------------------------------------------------------------------------------

def apply(str name, *inputs):
    """A primitive's kernel over contiguous arrays of one precision; the way to test and measure the vector math."""
    cdef void* tiles[4]
    cdef Py_ssize_t count = inputs[0].size
    result = np.empty_like(inputs[0])
    precision = "f64" if result.dtype == np.float64 else "f32"
    cdef kernel_function kernel = <kernel_function>address(f"{name}_map_{precision}")
    pointers = [array.__array_interface__["data"][0] for array in (*inputs, result)]
    for array in inputs:
        if array.dtype != result.dtype or not array.flags.c_contiguous or array.size != count:
            raise ValueError(f"{name}: inputs must be contiguous arrays of one shape and precision")
    for k, pointer in enumerate(pointers):
        tiles[k] = <void*><uintptr_t>pointer
    with nogil:
        kernel(count, tiles, NULL)
    return result
