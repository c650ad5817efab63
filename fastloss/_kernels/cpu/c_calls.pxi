# The engine as C functions, for programs that hold no arrays of NumPy. include/fastloss_api.h says what each does.

from cpython.pycapsule cimport PyCapsule_GetContext, PyCapsule_GetPointer, PyCapsule_New, PyCapsule_SetContext, PyCapsule_SetDestructor
from cpython.ref cimport Py_DECREF, Py_INCREF

from fastloss.c_api cimport (
    FASTLOSS_API_VERSION,
    FASTLOSS_BAD_DIVISOR,
    FASTLOSS_BAD_WEIGHT,
    FASTLOSS_DONE,
    FASTLOSS_MEAN,
    FASTLOSS_NO_MEMORY,
    FASTLOSS_NONE,
    FASTLOSS_OUTSIDE,
    FASTLOSS_REFUSED,
    fastloss_api,
    fastloss_bound,
    fastloss_tile,
)

WANTED = {"v": VALUE, "g": GRAD, "vg": VALUE | GRAD, "gh": GRAD | HESS, "vgh": VALUE | GRAD | HESS}

cdef fastloss_api C_TABLE
# (name of a loss, its hyperparameters in order or None) -> Plan: who knows the losses stands above the engine.
cdef object c_plan = None


def c_table(find_plan):
    """The capsule of the C functions, and their table's address; `find_plan` makes the plan of a loss, given by name."""
    global c_plan
    c_plan = find_plan
    return PyCapsule_New(&C_TABLE, "fastloss.c_api.CAPSULE", NULL), <uintptr_t>&C_TABLE


cdef int write_bound(fastloss_bound* bound, Plan plan, int want, int precision) except -1:
    cdef int k
    cdef fastloss_bound new
    memset(&new, 0, sizeof(fastloss_bound))
    new.tile = <fastloss_tile>plan.kernel(want, precision)
    new.itemsize = WORK[precision].itemsize
    new.inputs = len(plan.inputs)
    new.has_value = (want & VALUE) != 0
    new.outputs = new.has_value + plan.differentiable * (((want & GRAD) != 0) + ((want & HESS) != 0))
    new.cost = plan.costs[want]
    for k in range(MAX_UNIFORMS):
        new.uniforms[k] = plan.uniforms[k]
    for k in range(new.inputs):
        new.lowest[k], new.highest[k] = -INFINITY, INFINITY
        if plan.domains[k] is not None:
            new.lowest[k], new.highest[k] = plan.domains[k].ends64 if precision == F64 else plan.domains[k].ends32
    bound[0] = new
    return 0


cdef int c_bind(fastloss_bound* bound, const char* loss, const char* wanted, int itemsize, const double* hyperparameters, int count, char* message, size_t room) noexcept with gil:
    try:
        given = None if hyperparameters == NULL else [hyperparameters[k] for k in range(count)]
        plan, results = c_plan(loss.decode(), given), wanted.decode()
        if itemsize != 4 and itemsize != 8:
            raise ValueError(f"{plan.who}: itemsize must be 4 or 8, got {itemsize}")
        if results not in WANTED:
            raise ValueError(f"{plan.who}: wanted must be one of {', '.join(WANTED)}, got {results!r}")
        write_bound(bound, plan, WANTED[results], F64 if itemsize == 8 else F32)
        return FASTLOSS_DONE
    except BaseException as error:
        said = str(error).encode()[: max(0, <Py_ssize_t>room - 1)]
        if room:
            memcpy(message, <const char*>said, len(said) + 1)
        return FASTLOSS_REFUSED


cdef fastloss_tile c_find(const char* name) noexcept with gil:
    try:
        return <fastloss_tile>address(name.decode())
    except (KeyError, UnicodeDecodeError):
        return NULL


cdef void on_memory(Operand* a, const void* memory, const Tilework* work, Py_ssize_t count) noexcept nogil:
    """A contiguous array of the kernel's own type."""
    a.data = <char*>memory
    a.load, a.store = work.load[work.native], work.store[work.native]
    a.dims = 1
    a.shape[0], a.strides[0] = count, work.itemsize
    a.direct = True


cdef int c_scan(Operand* a, const Tilework* work, Py_ssize_t count, double low, double high, bint is_weight, double* total) noexcept nogil:
    """Whether all elements are within [low, high]: 1, 0, or FASTLOSS_NO_MEMORY; and their sum."""
    cdef Scan job
    cdef Py_ssize_t k, chunks = (count + CHUNK - 1) // CHUNK
    cdef int inside = 1
    cdef int threads = c_threads(count * UNIT_NS * 10)
    cdef size_t shared = whole_lines(chunks * (sizeof(double) + sizeof(Py_ssize_t)))
    cdef char* memory = <char*>PyMem_RawMalloc(shared + threads * whole_lines(TILE_BYTES) + 64)
    if memory == NULL:
        return FASTLOSS_NO_MEMORY
    job.sums_by_chunk = <double*>aligned(memory)
    job.found_by_chunk = <Py_ssize_t*>(job.sums_by_chunk + chunks)
    job.array, job.work, job.count = a, work, count
    job.low, job.high = low, high
    job.nan_is_outside = job.sums = is_weight
    fastloss_run(scan_chunk, NULL, &job, chunks, threads, aligned(memory) + shared, whole_lines(TILE_BYTES))
    for k in range(chunks):
        if job.found_by_chunk[k] >= 0:
            inside = 0
    if is_weight and inside:
        total[0] = tree_sum(job.sums_by_chunk, chunks)
    PyMem_RawFree(memory)
    return inside


cdef inline int c_threads(double nanoseconds) noexcept nogil:
    return fastloss_get_num_threads() if nanoseconds > SERIAL_NS else 1


cdef int c_check(Job* job, const fastloss_bound* bound, int reduction, double* denominator) noexcept nogil:
    """Look at inputs and weights; FASTLOSS_DONE, and what the sum is to be divided by."""
    cdef int k, found
    cdef double least = FLT_MIN if bound.itemsize == 4 else DBL_MIN
    cdef double most = FLT_MAX if bound.itemsize == 4 else DBL_MAX
    for k in range(bound.inputs):
        if bound.lowest[k] > -INFINITY or bound.highest[k] < INFINITY:
            found = c_scan(&job.arrays[k], job.work, job.count, bound.lowest[k], bound.highest[k], False, NULL)
            if found != 1:
                return found or FASTLOSS_OUTSIDE
    denominator[0] = job.count
    if job.weights.data != NULL:
        found = c_scan(&job.weights, job.work, job.count, 0, most, True, denominator)
        if found != 1:
            return found or FASTLOSS_BAD_WEIGHT
    if reduction == FASTLOSS_MEAN and denominator[0] > 0 and not least <= 1 / denominator[0] <= most:
        return FASTLOSS_BAD_DIVISOR
    return FASTLOSS_DONE


cdef int c_evaluate(const fastloss_bound* bound, Py_ssize_t count, const void** inputs, const void* sample_weight, int reduction, double* value, void** outputs) noexcept nogil:
    cdef Job job
    cdef double denominator
    cdef double total
    cdef int j, k, found, threads
    cdef Py_ssize_t chunks = (count + CHUNK - 1) // CHUNK
    cdef size_t room, shared
    cdef char* memory
    job.kernel, job.uniforms = <kernel_function>bound.tile, bound.uniforms
    job.work = &WORK[F64 if bound.itemsize == 8 else F32]
    job.count, job.inputs, job.outputs = count, bound.inputs, bound.outputs
    for k in range(bound.inputs):
        on_memory(&job.arrays[k], inputs[k], job.work, count)
    on_memory(&job.weights, sample_weight, job.work, count)
    found = c_check(&job, bound, reduction, &denominator)
    if found != FASTLOSS_DONE:
        return found
    job.has_value = bound.has_value
    job.sums = job.has_value and reduction != FASTLOSS_NONE
    for k in range(bound.outputs):
        on_memory(&job.arrays[bound.inputs + k], NULL if k == 0 and job.sums else outputs[k], job.work, count)
        job.arrays[bound.inputs + k].direct = job.arrays[bound.inputs + k].data != NULL
        for j in range(bound.inputs):
            # Each element is read before it is written, given a tile of its own.
            job.arrays[j].direct = job.arrays[j].direct and inputs[j] != outputs[k]
        job.weights.direct = job.weights.direct and sample_weight != outputs[k]
    job.factor = 1.0
    if reduction == FASTLOSS_MEAN:
        job.factor = 1.0 / denominator if denominator > 0 else 0.0
    job.stream = count * job.work.itemsize > STREAM_BYTES
    room, shared = whole_lines(loss_room(&job)), whole_lines(chunks * sizeof(double))
    threads = c_threads(element_time(bound.cost, count, F64 if bound.itemsize == 8 else F32))
    memory = <char*>PyMem_RawMalloc(shared + threads * room + 64)
    if memory == NULL:
        return FASTLOSS_NO_MEMORY
    job.sums_by_chunk = <double*>aligned(memory)
    fastloss_run(loss_chunk, NULL, &job, chunks, threads, aligned(memory) + shared, room)
    if job.sums:
        total = tree_sum(job.sums_by_chunk, chunks)
        if reduction == FASTLOSS_MEAN:
            total = total / denominator if denominator > 0 else NAN
        value[0] = total
    PyMem_RawFree(memory)
    return FASTLOSS_DONE


cdef double c_evaluate_one(int count, double* x, void* context) noexcept nogil:
    cdef const fastloss_bound* bound = <const fastloss_bound*>context
    cdef double[MAX_ARRAYS] results
    cdef void* tiles[MAX_ARRAYS]
    cdef int k
    if count != bound.inputs or bound.itemsize != 8:
        return NAN
    for k in range(bound.inputs):
        tiles[k] = &x[k]
    for k in range(bound.outputs):
        tiles[bound.inputs + k] = &results[k]
    bound.tile(1, tiles, bound.uniforms)
    return results[0]


cdef int c_get_num_threads() noexcept nogil:
    return fastloss_get_num_threads()


cdef void c_set_num_threads(int count) noexcept nogil:
    fastloss_set_num_threads(count)


C_TABLE.version, C_TABLE.size = FASTLOSS_API_VERSION, sizeof(fastloss_api)
C_TABLE.find, C_TABLE.bind = c_find, c_bind
C_TABLE.evaluate, C_TABLE.evaluate_one = c_evaluate, c_evaluate_one
C_TABLE.get_num_threads, C_TABLE.set_num_threads = c_get_num_threads, c_set_num_threads


cdef void free_bound(object capsule) noexcept:
    PyMem_Free(PyCapsule_GetPointer(capsule, NULL))
    Py_DECREF(<object>PyCapsule_GetContext(capsule))


def c_callable(Plan plan):
    """(function, context): two capsules for scipy.LowLevelCallable; the second owns the bound loss and keeps its code alive."""
    cdef fastloss_bound* bound = <fastloss_bound*>allocate(sizeof(fastloss_bound))
    try:
        write_bound(bound, plan, VALUE, F64)
        context = PyCapsule_New(bound, NULL, NULL)
    except BaseException:
        PyMem_Free(bound)
        raise
    Py_INCREF(plan)
    PyCapsule_SetContext(context, <void*>plan)
    PyCapsule_SetDestructor(context, free_bound)
    return PyCapsule_New(<void*>c_evaluate_one, "double (int, double *, void *)", NULL), context
