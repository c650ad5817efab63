# A loss along a line: value, slope and curvature at `pred + step * direction`, in one pass and without an array for that point.


cdef struct Line:
    # A job whose first input moves; its outputs are never stored.
    Job job
    Operand direction
    double step
    int differentiable
    # Of the moved input.
    bint checks
    double low
    double high
    # The chunk's three sums, and its first element outside, or -1.
    double* sums_by_chunk
    Py_ssize_t* found_by_chunk


cdef void line_chunk(void* context, Py_ssize_t chunk, char* scratch) noexcept nogil:
    cdef const Line* line = <const Line*>context
    cdef const Job* job = &line.job
    cdef const Tilework* work = job.work
    cdef Py_ssize_t spacing = tile_spacing(work)
    cdef void* tiles[MAX_ARRAYS]
    cdef char* direction = scratch + (job.inputs + job.outputs) * spacing
    cdef char* weights = scratch + (job.inputs + job.outputs + 1) * spacing
    cdef Py_ssize_t start = chunk * CHUNK
    cdef Py_ssize_t stop = min(start + CHUNK, job.count)
    cdef Py_ssize_t n, found
    cdef double[3] sums
    cdef int k, role
    sums[0] = sums[1] = sums[2] = 0
    line.found_by_chunk[chunk] = -1
    while start < stop:
        n = min(<Py_ssize_t>TILE, stop - start)
        for k in range(job.inputs + job.outputs):
            tiles[k] = scratch + k * spacing
            if k and k < job.inputs and job.arrays[k].direct:
                tiles[k] = job.arrays[k].data + start * work.itemsize
            elif k < job.inputs:
                gather(&job.arrays[k], start, n, <char*>tiles[k], work.itemsize)
        gather(&line.direction, start, n, direction, work.itemsize)
        work.plus(tiles[0], direction, line.step, n)
        if line.checks:
            found = work.outside(tiles[0], line.low, line.high, False, n)
            if found < n:
                line.found_by_chunk[chunk] = start + found
                return
        job.kernel(n, tiles, job.uniforms)
        if job.weights.data != NULL:
            gather(&job.weights, start, n, weights, work.itemsize)
        # The value, the first gradient, the first Hessian.
        for role in range(3):
            k = job.inputs + (0 if role == 0 else 1 + (role - 1) * line.differentiable)
            for _ in range(role):
                work.weigh(tiles[k], direction, 1.0, tiles[k], n)
            if job.weights.data != NULL:
                work.weigh(tiles[k], weights, 1.0, tiles[k], n)
            sums[role] += work.sum(tiles[k], n)
        start += n
    for role in range(3):
        line.sums_by_chunk[role * ((job.count + CHUNK - 1) // CHUNK) + chunk] = sums[role]


def along(Plan plan, tuple inputs, direction, double step, sample_weight, reduction, normalizer, bint check):
    """(value, slope, curvature) of the reduced loss at `inputs[0] + step * direction`."""
    cdef Request request
    requests.check_reduction(plan.who, reduction, normalizer, ("mean", "sum"), " along a line")
    begin_request(&request, plan.who, VALUE, reduction, normalizer, check)
    try:
        return evaluate_along(plan, &request, inputs, direction, step, sample_weight, normalizer)
    finally:
        release(&request.held)


cdef tuple evaluate_along(Plan plan, Request* r, tuple inputs, object direction, double step, object sample_weight, object normalizer):
    cdef Line line
    cdef Scratch scratch
    cdef double[3] sums
    cdef int k
    cdef Py_ssize_t chunk, chunks
    cdef list given = take_elements(plan, r, &line.job, inputs)
    direction = operand(r, &line.direction, plan.who, "direction", direction, plan.inputs[0], given[0])
    arrays.check_floating(plan.who, "direction", direction)
    # The domain of what moves is looked at where it has moved to.
    divide(r, plan.who, normalizer, weigh_elements(plan, r, &line.job, given, sample_weight, 1), given[0])
    line.checks = r.check and plan.domains[0] is not None
    if line.checks:
        line.low, line.high = plan.domains[0].ends64 if r.precision == F64 else plan.domains[0].ends32
    line.step, line.differentiable = step, plan.differentiable
    line.job.kernel = plan.kernel(VALUE | GRAD | HESS, r.precision)
    line.job.uniforms = plan.uniforms
    line.job.outputs = 1 + 2 * plan.differentiable
    chunks = (line.job.count + CHUNK - 1) // CHUNK
    take_scratch(
        &scratch, chunks * (3 * sizeof(double) + sizeof(Py_ssize_t)), (line.job.inputs + line.job.outputs + 2) * tile_spacing(r.work), chunks,
        element_time(plan.costs[VALUE | GRAD | HESS] + 4, line.job.count, r.precision),
    )
    try:
        line.sums_by_chunk = <double*>scratch.shared
        line.found_by_chunk = <Py_ssize_t*>(line.sums_by_chunk + 3 * chunks)
        run_chunks(line_chunk, &line, chunks, &scratch)
        for chunk in range(chunks):
            if line.found_by_chunk[chunk] >= 0:
                with np.errstate(all="ignore"):
                    moved = np.asarray(given[0], np.float64) + step * np.asarray(direction, np.float64)
                raise arrays.domain_error(plan.who, plan.inputs[0], plan.domains[0], moved, given[0].shape, line.found_by_chunk[chunk])
        for k in range(3):
            sums[k] = tree_sum(line.sums_by_chunk + k * chunks, chunks) / r.divisor if r.divisor > 0 else NAN
        return sums[0], sums[1], sums[2]
    finally:
        return_scratch(&scratch)
