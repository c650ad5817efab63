# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The CPU engine: from NumPy arrays to tiles and back, for losses (`Plan`, `RowPlan`) and update rules (`Sweep`)."""

from cpython.buffer cimport PyBUF_FORMAT, PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from libc.float cimport DBL_MAX, DBL_MIN, FLT_MAX, FLT_MIN
from libc.math cimport INFINITY, NAN, isfinite, sqrt
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

import warnings

import numpy as np

from .. import arrays
from ... import interop
from . import levels, norms

cdef extern from "cpu.h":
    int fastloss_cpu_level()

cdef extern from "pool.h" nogil:
    ctypedef void (*fastloss_work)(void* context, Py_ssize_t chunk) noexcept nogil
    ctypedef int (*fastloss_poll)(void* context) noexcept nogil
    int fastloss_run(fastloss_work work, fastloss_poll poll, void* context, Py_ssize_t chunks, int threads)
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
    # Numbers of a formula that are the same for all elements, and the hyperparameters they come from.
    MAX_UNIFORMS = 32
    # Chunks whose sums fit on the stack.
    FEW = 64
    # What an update, a look at its gradient, and what it sums beforehand cost in additions, for the choice of threads.
    UPDATE_COST = 60
    MEASURE_COST = 12
    FOLD_COST = 30
    # Groups whose numbers fit on the stack.
    MAX_GROUPS = 16

cdef enum:
    VALUE = 1
    GRAD = 2
    HESS = 4
    HVP = 8

include "driver.pxi"

cdef object ndarray = np.ndarray
cdef object empty = np.empty
# Below this much work, waking a second thread costs more than it saves.
cdef double SERIAL_NS = 50e3
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


DTYPE_NAMES = ("f32", "f64", "f16", "bf16", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64")


cdef void bind_tilework(int precision, str real) except *:
    cdef Tilework* work = &WORK[precision]
    memset(work, 0, sizeof(Tilework))
    work.itemsize = 8 if precision == F64 else 4
    work.native = precision
    for code, name in enumerate(DTYPE_NAMES):
        work.load[code] = <load_function>address(f"load_{name}_{real}")
    for code in range(F32, BF16 + 1):
        work.store[code] = <store_function>address(f"store_{DTYPE_NAMES[code]}_{real}")
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
    count_labels = <count_labels_function>address("count_labels")


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
        return {1: I8, 2: I16, 4: I32, 8: I64}[view.itemsize]
    if letter in (b"B", b"H", b"I", b"L", b"Q"):
        return {1: U8, 2: U16, 4: U32, 8: U64}[view.itemsize]
    return -1


cdef struct Held:
    # The buffers of one call, to be released together: an array that needs a copy of itself takes two.
    int count
    Py_buffer[3 * MAX_ARRAYS] views
    int[3 * MAX_ARRAYS] codes


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
    array = take_buffer(&held.views[held.count], &held.codes[held.count], who, name, array)
    held.count += 1
    return array


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


cdef object operand(Operand* a, Held* held, str who, str name, object array, const Tilework* work, str first_name, object first):
    """Hold an input and lay it out over `first`'s shape; returns the array held."""
    cdef const Py_buffer* over = &held.views[0]
    array = hold(held, who, name, array)
    cdef int last = held.count - 1
    if not lay_out(a, &held.views[last], held.codes[last], work, over.ndim, over.shape):
        if not broadcasts(&held.views[last], over.ndim, over.shape):
            raise arrays.shape_error(who, name, array.shape, first_name, first.shape)
        # More separate dimensions than an operand has room for.
        array = hold(held, who, name, np.ascontiguousarray(np.broadcast_to(array, first.shape)))
        last = held.count - 1
        lay_out(a, &held.views[last], held.codes[last], work, over.ndim, over.shape)
    return array


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


# --- losses ---------------------------------------------------------------------------------------------------------------

cdef class Plan:
    """One variant of a loss, bound to its kernels and to the values of its hyperparameters."""

    cdef readonly str who
    cdef readonly str variant
    cdef readonly tuple inputs
    cdef readonly tuple domains
    cdef int differentiable
    cdef object gradient_of
    cdef kernel_function[8][2] kernels
    cdef int[8] costs
    cdef double[MAX_UNIFORMS] uniforms
    cdef object library

    def __init__(self, who, variant, inputs, domains, gradient_of, vector, library=None):
        cdef double[MAX_UNIFORMS] parameters
        self.library = _tiles if library is None else library
        self.who, self.variant, self.inputs, self.domains = who, variant, inputs, domains
        self.differentiable = len(gradient_of)
        memset(self.uniforms, 0, sizeof(self.uniforms))
        self.gradient_of = tuple(inputs.index(name) for name in gradient_of)
        for i, value in enumerate(vector):
            parameters[i] = value
        memset(self.kernels, 0, sizeof(self.kernels))
        (<uniforms_function>address_in(self.library, variant + "_uniforms"))(parameters, self.uniforms)

    def evaluate(self, int want, tuple inputs, object sample_weight, str reduction, object normalizer, object value_out, object grad_out, object hess_out, bint check):
        """The requested values: what the public calls forward to. Returns (value, gradient, hessian), None where not asked for."""
        cdef Held held
        held.count = 0
        if is_foreign(inputs, value_out, grad_out, hess_out):
            return interop.evaluate(self, want, inputs, sample_weight, reduction, normalizer, value_out, grad_out, hess_out, check)
        try:
            return _evaluate(self, want, inputs, sample_weight, reduction, normalizer, value_out, grad_out, hess_out, check, &held)
        finally:
            release(&held)

    cdef kernel_function kernel(self, int want, int precision) except NULL:
        if self.kernels[want][precision] == NULL:
            letters = "v" * (want & VALUE > 0) + "g" * (want & GRAD > 0) + "h" * (want & HESS > 0)
            name = f"{self.variant}_{letters}_{'f64' if precision else 'f32'}"
            self.costs[want] = self.library.cost(name)
            if precision == F32:
                self.check_single()
            self.kernels[want][precision] = <kernel_function>address_in(self.library, name)
        return self.kernels[want][precision]

    cdef int check_single(self) except -1:
        """Refuse hyperparameters that float32 cannot hold: the kernel would compute with 0 or infinity instead."""
        cdef int k
        cdef double held
        for k in range(MAX_UNIFORMS):
            held = <float>self.uniforms[k]
            if (held == 0) != (self.uniforms[k] == 0) or (held - held != 0) != (self.uniforms[k] - self.uniforms[k] != 0):
                raise ValueError(f"{self.who}: hyperparameters, and what the formula makes of them, must be within float32's range "
                                 f"for a float32 input, got {self.uniforms[k]:g}")
        return 0


cdef inline bint is_plain(object out) noexcept:
    return out is None or type(out) is ndarray


cdef inline bint is_foreign(tuple inputs, object value_out, object grad_out, object hess_out) except -1:
    """Whether the first input, or an output, is an array of another library."""
    if is_plain(value_out) and is_plain(grad_out) and is_plain(hess_out) and len(inputs) and type(inputs[0]) is ndarray:
        return False
    return interop.is_foreign(inputs, value_out, grad_out, hess_out)


cdef int ask_for_signals(void* context) noexcept nogil:
    with gil:
        return PyErr_CheckSignals()


cdef int run(fastloss_work work, void* job, Py_ssize_t count, double nanoseconds) except -1:
    """Run all chunks of `count` elements, on threads where that pays."""
    return run_chunks(work, job, (count + CHUNK - 1) // CHUNK, nanoseconds)


cdef int run_chunks(fastloss_work work, void* job, Py_ssize_t chunks, double nanoseconds) except -1:
    cdef int threads = 1
    cdef int stopped
    if chunks == 1:
        work(job, 0)
    elif chunks:
        if nanoseconds > SERIAL_NS:
            threads = fastloss_get_num_threads()
        with nogil:
            stopped = fastloss_run(work, ask_for_signals, job, chunks, threads)
        if stopped:
            return -1
    return 0


cdef double scan(Operand* a, const Tilework* work, Py_ssize_t count, str who, str name, object domain, object array, object first) except? -1:
    """Check every element of an input against its domain; returns their sum where that is asked for."""
    cdef Scan job
    cdef double[FEW] few
    cdef Py_ssize_t[FEW] few_found
    cdef Py_ssize_t chunks = (count + CHUNK - 1) // CHUNK
    cdef Py_ssize_t k
    job.array = a
    job.work = work
    job.count = count
    job.low, job.high = domain.ends32 if work.itemsize == 4 else domain.ends64
    job.nan_is_outside = domain.nan_is_outside
    job.sums = domain.is_summed
    job.sums_by_chunk = few
    job.found_by_chunk = few_found
    if chunks > FEW:
        job.sums_by_chunk = <double*>allocate(chunks * (sizeof(double) + sizeof(Py_ssize_t)))
        job.found_by_chunk = <Py_ssize_t*>(job.sums_by_chunk + chunks)
    try:
        run(scan_chunk, &job, count, count * UNIT_NS * 10)
        for k in range(chunks):
            if job.found_by_chunk[k] >= 0:
                raise arrays.domain_error(who, name, domain, array, first.shape, job.found_by_chunk[k])
        return tree_sum(job.sums_by_chunk, chunks)
    finally:
        if chunks > FEW:
            PyMem_Free(job.sums_by_chunk)


cdef object _evaluate(Plan plan, int want, tuple inputs, object sample_weight, str reduction, object normalizer, object value_out, object grad_out, object hess_out, bint check, Held* held):
    cdef Job job
    cdef int k
    cdef Py_ssize_t count = 1
    cdef int count_inputs = len(plan.inputs)
    cdef str who = plan.who
    cdef double denominator = 1
    cdef double weight_sum = 0
    cdef list given = []
    cdef list copies = []
    if len(inputs) != count_inputs:
        raise TypeError(f"{who}: takes {count_inputs} arrays ({', '.join(plan.inputs)}), got {len(inputs)}; hyperparameters go by name")
    if reduction != "mean" and reduction != "sum" and reduction != "none":
        raise ValueError(f"{who}: reduction must be 'mean', 'sum' or 'none', got {reduction!r}")

    # The first input decides the shape and the precision.
    cdef object first = hold(held, who, plan.inputs[0], inputs[0])
    if held.codes[0] > BF16:
        arrays.check_floating(who, plan.inputs[0], first)
    cdef int precision = F64 if held.codes[0] == F64 else F32
    cdef const Tilework* work = &WORK[precision]
    cdef Py_buffer* over = &held.views[0]
    for k in range(over.ndim):
        count *= over.shape[k]
    given.append(first)
    if not lay_out(&job.arrays[0], over, held.codes[0], work, over.ndim, over.shape):
        hold(held, who, plan.inputs[0], np.ascontiguousarray(first))
        lay_out(&job.arrays[0], &held.views[1], held.codes[1], work, over.ndim, over.shape)
    for k in range(1, count_inputs):
        given.append(operand(&job.arrays[k], held, who, plan.inputs[k], inputs[k], work, plan.inputs[0], first))
    if plan.differentiable > 1:
        for k in plan.gradient_of[1:]:
            arrays.check_floating(who, plan.inputs[k], given[k])
            if want & (GRAD | HESS):
                arrays.check_same(who, plan.inputs[k], given[k], plan.inputs[0], first)
    job.weights.data = NULL
    if sample_weight is not None:
        sample_weight = operand(&job.weights, held, who, "sample_weight", sample_weight, work, plan.inputs[0], first)
    cdef int held_inputs = held.count

    # The data's domains, then what the sum is divided by: both before anything is written.
    if check:
        for k in range(count_inputs):
            if plan.domains[k] is not None:
                scan(&job.arrays[k], work, count, who, plan.inputs[k], plan.domains[k], given[k], first)
    if sample_weight is not None:
        weight_sum = scan(&job.weights, work, count, who, "sample_weight", arrays.WEIGHTS, sample_weight, first)
    if normalizer is not None and reduction != "mean":
        raise ValueError(f"{who}: normalizer goes with reduction='mean', got reduction={reduction!r}")
    if reduction == "mean":
        if normalizer is None:
            denominator = weight_sum if sample_weight is not None else count
        else:
            denominator = count if isinstance(normalizer, str) and normalizer == "samples" else arrays.check_normalizer(who, normalizer)
        if denominator > 0:
            if not (FLT_MIN if precision == F32 else DBL_MIN) <= 1.0 / denominator <= (FLT_MAX if precision == F32 else DBL_MAX):
                raise arrays.divisor_error(who, denominator, normalizer, first)

    # Outputs.
    job.has_value = want & VALUE
    job.sums = job.has_value and reduction != "none"
    job.inputs = count_inputs
    job.outputs = 0
    value = None
    gradients = hessians = None
    if job.has_value:
        value = output(&job, held, plan, "value_out", value_out, first, copies, held_inputs, not job.sums)
    if job.sums and value_out is not None:
        # Written at the end: no other output may lie over it.
        arrays.check_output(who, "value_out", value_out, (), first.dtype)
        hold(held, who, "value_out", np.asarray(value_out))
    if want & GRAD:
        gradients = outputs(&job, held, plan, "grad_out", grad_out, first, copies, held_inputs)
    if want & HESS:
        hessians = outputs(&job, held, plan, "hess_out", hess_out, first, copies, held_inputs)

    # The pass.
    job.kernel = plan.kernel(want, precision)
    job.uniforms = plan.uniforms
    job.work = work
    job.count = count
    job.factor = 1.0 / denominator if denominator > 0 else 0.0
    if not reduction == "mean":
        job.factor = 1.0
    job.stream = count * work.itemsize > STREAM_BYTES
    cdef double total = 0
    cdef double[FEW] few
    cdef Py_ssize_t chunks = (count + CHUNK - 1) // CHUNK
    job.sums_by_chunk = few
    if chunks > FEW:
        job.sums_by_chunk = <double*>allocate(chunks * sizeof(double))
    try:
        run(loss_chunk, &job, count, count * UNIT_NS * (8 + plan.costs[want]) * (2 if precision == F64 else 1))
        if job.sums:
            total = tree_sum(job.sums_by_chunk, chunks)
    finally:
        if chunks > FEW:
            PyMem_Free(job.sums_by_chunk)
    for target, source in copies:
        target[...] = source
    if job.sums:
        if reduction == "mean":
            if denominator > 0:
                total /= denominator
            else:
                total = float("nan")
                warnings.warn(f"{who}: the mean of nothing is nan (no elements, or all weights are zero)", RuntimeWarning, stacklevel=2)
        value = total
        if value_out is not None:
            with np.errstate(over="ignore"):  # infinity in a narrow dtype, as in its arrays
                value_out[...] = total
            value = value_out
    return value, gradients, hessians


cdef object output(Job* job, Held* held, Plan plan, str name, object out, object first, list copies, int held_inputs, bint stored=True):
    """Add an output to the job: the given array, or a new one, or none at all for a value that is only summed."""
    cdef Operand* a = &job.arrays[job.inputs + job.outputs]
    cdef const Tilework* work = &WORK[F64 if held.codes[0] == F64 else F32]
    cdef const Py_buffer* over = &held.views[0]
    cdef const Py_buffer* view
    cdef int j, k
    cdef bint buffered = False
    job.outputs += 1
    if not stored:
        a.data = NULL
        a.direct = False
        return None
    if out is None:
        out = empty(first.shape, first.dtype)
        hold(held, plan.who, name, out)
        lay_out(a, &held.views[held.count - 1], held.codes[0], work, over.ndim, over.shape)
        if over.ndim <= MAX_DIMS:
            return out
    else:
        hold_output(held, plan.who, name, out, first)
    view = &held.views[held.count - 1]
    if overlaps_itself(view):
        raise arrays.overlap_error(plan.who, name, "itself")
    for j in range(held_inputs):
        if overlap(view, &held.views[j]):
            if same_elements(view, &held.views[j]) and held.codes[j] == held.codes[0]:
                # Each element is read before it is written, given a tile of its own.
                for k in range(job.inputs):
                    if job.arrays[k].data == view.buf:
                        job.arrays[k].direct = False
                if job.weights.data == view.buf:
                    job.weights.direct = False
            else:
                buffered = True
    for j in range(held_inputs, held.count - 1):
        if overlap(view, &held.views[j]):
            raise arrays.overlap_error(plan.who, name, "another output")
    if buffered or not lay_out(a, view, held.codes[0], work, over.ndim, over.shape):
        buffer = empty(first.shape, first.dtype)
        copies.append((out, buffer))
        hold(held, plan.who, name, buffer.reshape(-1))
        flat(a, &held.views[held.count - 1], held.codes[0], work)
    return out


cdef int hold_output(Held* held, str who, str name, object out, object first) except -1:
    """Hold an array that takes results for `first`."""
    cdef const Py_buffer* view
    if type(out) is ndarray and hold(held, who, name, out) is out:
        view = &held.views[held.count - 1]
        if not view.readonly and held.codes[held.count - 1] == held.codes[0] and same_shape(view, &held.views[0]):
            return 0
    arrays.check_output(who, name, out, first.shape, first.dtype)
    hold(held, who, name, np.asarray(out))  # a subclass
    return 0


cdef void flat(Operand* a, const Py_buffer* view, int code, const Tilework* work) noexcept:
    """Lay out a contiguous one-dimensional buffer."""
    lay_out(a, view, code, work, 1, view.shape)


cdef object outputs(Job* job, Held* held, Plan plan, str name, object out, object first, list copies, int held_inputs):
    """One output for each differentiable input; a tuple of them where there are several."""
    cdef int k
    if plan.differentiable == 1:
        return output(job, held, plan, name, out, first, copies, held_inputs)
    if out is None:
        out = (None,) * plan.differentiable
    elif not isinstance(out, tuple | list) or len(out) != plan.differentiable:
        raise TypeError(f"{plan.who}: {name} must be {plan.differentiable} arrays, one for each of {', '.join(plan.inputs[k] for k in plan.gradient_of)}")
    return tuple(output(job, held, plan, f"{name}[{k}]", out[k], first, copies, held_inputs) for k in range(plan.differentiable))


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
