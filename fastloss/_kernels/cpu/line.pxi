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


cdef void line_chunk(void* context, Py_ssize_t chunk) noexcept nogil:
    cdef const Line* line = <const Line*>context
    cdef const Job* job = &line.job
    cdef const Tilework* work = job.work
    cdef char[(MAX_ARRAYS + 2) * TILE_BYTES + 64] memory
    cdef char* scratch = aligned(memory)
    cdef Py_ssize_t spacing = TILE * work.itemsize + 192
    cdef void* tiles[MAX_ARRAYS]
    cdef char* direction = scratch + MAX_ARRAYS * spacing
    cdef char* weights = scratch + (MAX_ARRAYS + 1) * spacing
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


def along(Plan plan, tuple inputs, direction, double step, sample_weight, str reduction, normalizer, bint check):
    """(value, slope, curvature) of the reduced loss at `inputs[0] + step * direction`."""
    cdef Held held
    held.count = 0
    try:
        return _along(plan, inputs, direction, step, sample_weight, reduction, normalizer, check, &held)
    finally:
        release(&held)


cdef object _along(Plan plan, tuple inputs, direction, double step, sample_weight, str reduction, normalizer, bint check, Held* held):
    cdef Line line
    cdef int k, precision
    cdef Py_ssize_t chunk, chunks
    cdef double weight_sum = 0, denominator = 1
    if reduction != "mean" and reduction != "sum":
        raise ValueError(f"{plan.who}: reduction must be 'mean' or 'sum' along a line, got {reduction!r}")
    if len(inputs) != len(plan.inputs):
        raise TypeError(f"{plan.who}: takes {len(plan.inputs)} arrays ({', '.join(plan.inputs)}), got {len(inputs)}; hyperparameters go by name")
    first = hold(held, plan.who, plan.inputs[0], inputs[0])
    if held.codes[0] > BF16:
        arrays.check_floating(plan.who, plan.inputs[0], first)
    precision = F64 if held.codes[0] == F64 else F32
    line.job.work = &WORK[precision]
    line.job.count = 1
    for k in range(held.views[0].ndim):
        line.job.count *= held.views[0].shape[k]
    given = [first]
    if not lay_out(&line.job.arrays[0], &held.views[0], held.codes[0], line.job.work, held.views[0].ndim, held.views[0].shape):
        hold(held, plan.who, plan.inputs[0], np.ascontiguousarray(first))
        lay_out(&line.job.arrays[0], &held.views[1], held.codes[1], line.job.work, held.views[0].ndim, held.views[0].shape)
    for k in range(1, len(inputs)):
        given.append(operand(&line.job.arrays[k], held, plan.who, plan.inputs[k], inputs[k], line.job.work, plan.inputs[0], first))
    direction = operand(&line.direction, held, plan.who, "direction", direction, line.job.work, plan.inputs[0], first)
    arrays.check_floating(plan.who, "direction", direction)
    line.job.weights.data = NULL
    if sample_weight is not None:
        sample_weight = operand(&line.job.weights, held, plan.who, "sample_weight", sample_weight, line.job.work, plan.inputs[0], first)
        weight_sum = scan(&line.job.weights, line.job.work, line.job.count, plan.who, "sample_weight", arrays.WEIGHTS, sample_weight, first)
    if check:
        for k in range(1, len(inputs)):
            if plan.domains[k] is not None:
                scan(&line.job.arrays[k], line.job.work, line.job.count, plan.who, plan.inputs[k], plan.domains[k], given[k], first)
    denominator = arrays.divisor(plan.who, reduction, normalizer, line.job.count, weight_sum if sample_weight is not None else None)
    line.checks = check and plan.domains[0] is not None
    if line.checks:
        line.low, line.high = plan.domains[0].ends64 if precision == F64 else plan.domains[0].ends32
    line.step, line.differentiable = step, plan.differentiable
    line.job.kernel = plan.kernel(VALUE | GRAD | HESS, precision)
    line.job.uniforms = plan.uniforms
    line.job.inputs, line.job.outputs = len(inputs), 1 + 2 * plan.differentiable
    chunks = (line.job.count + CHUNK - 1) // CHUNK
    line.sums_by_chunk = <double*>allocate(chunks * (3 * sizeof(double) + sizeof(Py_ssize_t)))
    line.found_by_chunk = <Py_ssize_t*>(line.sums_by_chunk + 3 * chunks)
    try:
        run(line_chunk, &line, line.job.count, line.job.count * UNIT_NS * (12 + plan.costs[VALUE | GRAD | HESS]) * (2 if precision == F64 else 1))
        for chunk in range(chunks):
            if line.found_by_chunk[chunk] >= 0:
                moved = np.asarray(first, np.float64) + step * np.asarray(direction, np.float64)
                raise arrays.domain_error(plan.who, plan.inputs[0], plan.domains[0], moved, first.shape, line.found_by_chunk[chunk])
        return tuple([tree_sum(line.sums_by_chunk + k * chunks, chunks) / denominator if denominator > 0 else float("nan") for k in range(3)])
    finally:
        PyMem_Free(line.sums_by_chunk)
