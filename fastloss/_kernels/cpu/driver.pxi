# The walk over tiles: load, formula, weight and scale, store, sum. Written once, for every loss and every update rule.

cdef extern from "stream.h" nogil:
    ctypedef struct Stream:
        pass
    void begin_stream(Stream*)
    void end_stream(Stream*)

cdef enum:
    MAX_DIMS = 8
    MAX_ARRAYS = 12
    TILE = 1024
    # Large enough that taking it from the counter costs nothing, small enough to be waited for.
    CHUNK = 16 * TILE
    # Room for a tile of doubles, and a stagger: buffers a page apart would get in each other's way in the L1 cache.
    TILE_BYTES = TILE * 8 + 192

ctypedef void (*kernel_function)(Py_ssize_t, void**, const double*) noexcept nogil
ctypedef void (*uniforms_function)(const double*, double*) noexcept nogil
ctypedef void (*load_function)(const void*, Py_ssize_t, void*, Py_ssize_t) noexcept nogil
ctypedef void (*store_function)(const void*, void*, Py_ssize_t, Py_ssize_t) noexcept nogil
ctypedef void (*scale_function)(const void*, double, void*, Py_ssize_t) noexcept nogil
ctypedef void (*stream_function)(const void*, double, void*, Py_ssize_t, Stream*) noexcept nogil
ctypedef void (*weigh_function)(const void*, const void*, double, void*, Py_ssize_t) noexcept nogil
ctypedef Py_ssize_t (*outside_function)(const void*, double, double, bint, Py_ssize_t) noexcept nogil
ctypedef void (*times_function)(const double*, double, void*, Py_ssize_t) noexcept nogil
ctypedef void (*split_function)(const void*, Py_ssize_t, void*, Py_ssize_t, Py_ssize_t) noexcept nogil
ctypedef void (*pick_function)(const void*, Py_ssize_t, Py_ssize_t, const void*, void*, Py_ssize_t) noexcept nogil
ctypedef void (*add_function)(void*, Py_ssize_t, Py_ssize_t, const void*, const void*, Py_ssize_t) noexcept nogil
ctypedef Py_ssize_t (*index_function)(const void*, Py_ssize_t) noexcept nogil
ctypedef void (*predict_function)(const void*, Py_ssize_t, Py_ssize_t, void*, void*, Py_ssize_t) noexcept nogil
ctypedef Py_ssize_t (*count_labels_function)(Py_ssize_t*, double*, Py_ssize_t, Py_ssize_t, Py_ssize_t) noexcept nogil
ctypedef void (*run_function)(void*, Py_ssize_t, bint) noexcept nogil
ctypedef void (*run_on_function)(void*, double*, Py_ssize_t) noexcept nogil
ctypedef bint (*rise_function)(void*, const void*, Py_ssize_t) noexcept nogil
ctypedef void (*adjust_function)(const void*, double, double, void*, Py_ssize_t) noexcept nogil
ctypedef void (*blend_function)(void*, const void*, double, Py_ssize_t) noexcept nogil
ctypedef void (*dither_function)(float*, uint32_t, Py_ssize_t, Py_ssize_t) noexcept nogil
ctypedef double (*sum_function)(const void*, Py_ssize_t) noexcept nogil

cdef struct Tilework:
    # One precision's functions, from the chosen level's module.
    Py_ssize_t itemsize
    # The dtype that needs no conversion.
    int native
    load_function[DTYPES] load
    store_function[DTYPES] store
    scale_function scale
    # `scale` past the caches.
    stream_function stream
    weigh_function weigh
    outside_function outside
    times_function times
    sum_function sum
    sum_function squares
    # Of an update: scale and clip; move an average; add; round at random.
    adjust_function adjust
    blend_function blend
    blend_function plus
    dither_function dither
    sum_function largest
    # Rows to planes, and back.
    split_function split
    split_function join
    pick_function pick
    add_function add
    # Which element of a row is the first largest; of rows side by side.
    index_function first_largest
    predict_function predict
    rise_function rise
    # Running sums, along a row and across rows.
    run_function run
    run_on_function run_on

cdef struct Operand:
    # An array in the C order of the call's shape, dimensions merged where they are contiguous to each other.
    char* data
    int dims
    Py_ssize_t[MAX_DIMS] shape
    Py_ssize_t[MAX_DIMS] strides
    load_function load
    store_function store
    # The kernel may work on the memory itself: contiguous, and of the kernel's own type.
    bint direct

cdef struct Job:
    kernel_function kernel
    const double* uniforms
    const Tilework* work
    Py_ssize_t count
    int inputs
    int outputs
    Operand[MAX_ARRAYS] arrays
    Operand weights
    # The first output is the value: summed or stored with its weight; the others are scaled by `factor` as well.
    bint has_value
    bint sums
    double factor
    bint stream
    double* sums_by_chunk


cdef inline void gather(const Operand* a, Py_ssize_t start, Py_ssize_t count, char* tile, Py_ssize_t itemsize) noexcept nogil:
    """Elements [start, start + count) of the operand, into a tile."""
    cdef Py_ssize_t[MAX_DIMS] index
    cdef Py_ssize_t run
    cdef char* data
    if a.dims == 1:
        a.load(a.data + start * a.strides[0], a.strides[0], tile, count)
        return
    data = locate(a, start, index)
    while count > 0:
        run = min(a.shape[a.dims - 1] - index[a.dims - 1], count)
        a.load(data, a.strides[a.dims - 1], tile, run)
        tile += run * itemsize
        count -= run
        data = advance(a, data, index, run)


cdef inline void scatter(const Operand* a, Py_ssize_t start, Py_ssize_t count, const char* tile, Py_ssize_t itemsize) noexcept nogil:
    """A tile, into elements [start, start + count) of the operand."""
    cdef Py_ssize_t[MAX_DIMS] index
    cdef Py_ssize_t run
    cdef char* data
    if a.dims == 1:
        a.store(tile, a.data + start * a.strides[0], a.strides[0], count)
        return
    data = locate(a, start, index)
    while count > 0:
        run = min(a.shape[a.dims - 1] - index[a.dims - 1], count)
        a.store(tile, data, a.strides[a.dims - 1], run)
        tile += run * itemsize
        count -= run
        data = advance(a, data, index, run)


cdef inline char* locate(const Operand* a, Py_ssize_t start, Py_ssize_t* index) noexcept nogil:
    cdef char* data = a.data
    cdef int d
    for d in range(a.dims - 1, -1, -1):
        index[d] = start % a.shape[d]
        start //= a.shape[d]
        data += index[d] * a.strides[d]
    return data


cdef inline char* advance(const Operand* a, char* data, Py_ssize_t* index, Py_ssize_t run) noexcept nogil:
    """Step `run` elements along the last dimension, and on to the next rows at its end."""
    cdef int d = a.dims - 1
    index[d] += run
    data += run * a.strides[d]
    while d > 0 and index[d] == a.shape[d]:
        data -= index[d] * a.strides[d]
        index[d] = 0
        d -= 1
        index[d] += 1
        data += a.strides[d]
    return data


cdef inline Py_ssize_t tile_spacing(const Tilework* work) noexcept nogil:
    """From tile to tile: staggered, as buffers a page apart would get in each other's way in the L1 cache."""
    return TILE * work.itemsize + 192


cdef size_t loss_room(const Job* job) noexcept nogil:
    """The memory that a thread needs for `loss_chunk`."""
    return (job.inputs + job.outputs + 1) * tile_spacing(job.work)


cdef void loss_chunk(void* context, Py_ssize_t chunk, char* scratch) noexcept nogil:
    """One chunk of a loss: every tile is loaded, computed, weighted, scaled, stored and summed while it is in the L1 cache."""
    cdef const Job* job = <const Job*>context
    cdef const Tilework* work = job.work
    cdef Py_ssize_t spacing = tile_spacing(work)
    cdef void* tiles[MAX_ARRAYS]
    cdef const Operand* a
    cdef char* target
    cdef Stream[MAX_ARRAYS] streams
    cdef const char* weights = NULL
    cdef bint weighted = job.weights.data != NULL
    cdef bint rescale = weighted or job.factor != 1 or job.stream
    cdef Py_ssize_t start = chunk * CHUNK
    cdef Py_ssize_t stop = min(start + CHUNK, job.count)
    cdef Py_ssize_t n
    cdef double total = 0
    cdef int k
    cdef bint is_value
    if job.stream:
        for k in range(job.outputs):
            begin_stream(&streams[k])
    while start < stop:
        n = min(<Py_ssize_t>TILE, stop - start)
        for k in range(job.inputs + job.outputs):
            a = &job.arrays[k]
            is_value = job.has_value and k == job.inputs
            tiles[k] = scratch + k * spacing
            if a.data != NULL and a.direct and (k < job.inputs or not (weighted if is_value else rescale)):
                tiles[k] = a.data + start * work.itemsize
            elif k < job.inputs:
                gather(a, start, n, <char*>tiles[k], work.itemsize)
        job.kernel(n, tiles, job.uniforms)
        if weighted:
            weights = scratch + (job.inputs + job.outputs) * spacing
            if job.weights.direct:
                weights = job.weights.data + start * work.itemsize
            else:
                gather(&job.weights, start, n, <char*>weights, work.itemsize)
        for k in range(job.inputs, job.inputs + job.outputs):
            a = &job.arrays[k]
            is_value = job.has_value and k == job.inputs
            target = a.data + start * work.itemsize if a.data != NULL and a.direct else <char*>tiles[k]
            if weighted:
                work.weigh(tiles[k], weights, 1.0 if is_value else job.factor, target, n)
            elif rescale and not is_value and a.data != NULL:
                if job.stream and a.direct:
                    work.stream(tiles[k], job.factor, target, n, &streams[k - job.inputs])
                else:
                    work.scale(tiles[k], job.factor, target, n)
            if is_value and job.sums:
                total += work.sum(target, n)
            if a.data != NULL and not a.direct:
                scatter(a, start, n, target, work.itemsize)
        start += n
    if job.stream:
        for k in range(job.outputs):
            end_stream(&streams[k])
    if job.sums:
        job.sums_by_chunk[chunk] = total


cdef struct Scan:
    # A look at an input before anything is written: is it all within [low, high], and what is its sum?
    const Operand* array
    const Tilework* work
    Py_ssize_t count
    double low
    double high
    bint nan_is_outside
    bint sums
    double* sums_by_chunk
    # The chunk's first element outside, or -1.
    Py_ssize_t* found_by_chunk


cdef void scan_chunk(void* context, Py_ssize_t chunk, char* tile) noexcept nogil:
    cdef const Scan* scan = <const Scan*>context
    cdef const Tilework* work = scan.work
    cdef const char* source
    cdef Py_ssize_t start = chunk * CHUNK
    cdef Py_ssize_t stop = min(start + CHUNK, scan.count)
    cdef Py_ssize_t n, found
    cdef double total = 0
    scan.found_by_chunk[chunk] = -1
    while start < stop:
        n = min(<Py_ssize_t>TILE, stop - start)
        source = tile
        if scan.array.direct:
            source = scan.array.data + start * work.itemsize
        else:
            gather(scan.array, start, n, tile, work.itemsize)
        found = work.outside(source, scan.low, scan.high, scan.nan_is_outside, n)
        if found < n:
            scan.found_by_chunk[chunk] = start + found
            return
        if scan.sums:
            total += work.sum(source, n)
        start += n
    scan.sums_by_chunk[chunk] = total


cdef double tree_sum(const double* values, Py_ssize_t count) noexcept nogil:
    """Pairwise: the same order for the same count, whoever computed the parts."""
    cdef Py_ssize_t half
    cdef Py_ssize_t i
    cdef double total = 0
    if count <= 8:
        for i in range(count):
            total += values[i]
        return total
    half = count // 2
    return tree_sum(values, half) + tree_sum(values + half, count - half)
