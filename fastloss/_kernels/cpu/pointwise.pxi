# Pointwise losses: plans and their calls. The walk over the elements is in driver.pxi.

cdef class Plan:
    """One variant of a loss, bound to its kernels and to the values of its hyperparameters."""

    cdef readonly str who
    cdef readonly str variant
    cdef readonly tuple inputs
    cdef readonly tuple domains
    cdef int differentiable
    # Which inputs have gradients.
    cdef tuple places
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
        self.places = tuple(inputs.index(name) for name in gradient_of)
        for i, value in enumerate(vector):
            parameters[i] = value
        memset(self.kernels, 0, sizeof(self.kernels))
        (<uniforms_function>address_in(self.library, variant + "_uniforms"))(parameters, self.uniforms)

    def evaluate(self, int want, tuple inputs, object sample_weight, object reduction, object normalizer, object value_out, object grad_out, object hess_out, bint check):
        """The results that `want` names, a tuple: value, gradient, Hessian."""
        cdef Request request
        if is_foreign(inputs, value_out, grad_out, hess_out):
            return interop.evaluate(self, want, inputs, sample_weight, reduction, normalizer, value_out, grad_out, hess_out, check)
        begin_request(&request, self.who, want, reduction, normalizer, check)
        try:
            return evaluate_elements(self, &request, inputs, sample_weight, normalizer, value_out, grad_out, hess_out)
        finally:
            release(&request.held)

    cdef kernel_function kernel(self, int want, int precision) except NULL:
        if self.kernels[want][precision] == NULL:
            letters = "v" * (want & VALUE > 0) + "g" * (want & GRAD > 0) + "h" * (want & HESS > 0)
            name = f"{self.variant}_{letters}_{'f64' if precision else 'f32'}"
            self.costs[want] = self.library.cost(name)
            if precision == F32:
                check_single(self.who, self.uniforms)
            self.kernels[want][precision] = <kernel_function>address_in(self.library, name)
        return self.kernels[want][precision]


cdef int check_single(str who, const double* uniforms) except -1:
    """Refuse hyperparameters that float32 cannot hold."""
    cdef int k
    cdef double number, held
    for k in range(MAX_UNIFORMS):
        number, held = uniforms[k], <float>uniforms[k]
        if (held == 0) != (number == 0) or (held - held != 0) != (number - number != 0):
            requests.check_single(who, [number])
    return 0


cdef object evaluate_elements(Plan plan, Request* r, tuple inputs, object sample_weight, object normalizer, object value_out, object grad_out, object hess_out):
    cdef Job job
    cdef Scratch scratch
    cdef Py_ssize_t chunks
    cdef double total = 0
    cdef list given = take_elements(plan, r, &job, inputs)
    divide(r, plan.who, normalizer, weigh_elements(plan, r, &job, given, sample_weight), given[0])
    job.kernel = plan.kernel(r.want, r.precision)
    results = lay_out_results(plan, r, &job, value_out, grad_out, hess_out, given)
    job.uniforms = plan.uniforms
    job.factor = r.factor
    job.stream = job.count * r.work.itemsize > STREAM_BYTES
    chunks = (job.count + CHUNK - 1) // CHUNK
    take_scratch(&scratch, chunks * sizeof(double), loss_room(&job), chunks, element_time(plan.costs[r.want], job.count, r.precision))
    try:
        job.sums_by_chunk = <double*>scratch.shared
        run_chunks(loss_chunk, &job, chunks, &scratch)
        if job.sums:
            total = tree_sum(job.sums_by_chunk, chunks)
    finally:
        return_scratch(&scratch)
    finish_request(r, results, total)
    return results


cdef double element_time(int cost, Py_ssize_t count, int precision) noexcept nogil:
    """About how long a pass takes on one thread, in nanoseconds."""
    return count * UNIT_NS * (8 + cost) * (2 if precision == F64 else 1)


cdef list take_elements(Plan plan, Request* r, Job* job, tuple inputs):
    """Hold the inputs and lay them out over the first one's shape."""
    cdef int k, count = len(plan.inputs)
    cdef str who = plan.who
    cdef const Py_buffer* over = &r.held.views[0]
    if len(inputs) != count:
        raise TypeError(f"{who}: takes {count} arrays ({', '.join(plan.inputs)}), got {len(inputs)}; hyperparameters go by name")
    cdef object first = hold_first(r, who, plan.inputs[0], inputs[0])
    cdef list given = [first]
    job.work = r.work
    job.count = 1
    for k in range(over.ndim):
        job.count *= over.shape[k]
    r.count = job.count
    if not lay_out(&job.arrays[0], over, r.held.codes[0], r.work, over.ndim, over.shape):
        hold_again(&r.held, who, plan.inputs[0], np.ascontiguousarray(first))
        lay_out(&job.arrays[0], over, r.held.codes[0], r.work, over.ndim, over.shape)
    for k in range(1, count):
        given.append(operand(r, &job.arrays[k], who, plan.inputs[k], inputs[k], plan.inputs[0], first))
        if r.is_stretched:
            r.stretched |= 1 << k
    if plan.differentiable > 1:
        check_gradients(r, who, plan.inputs, plan.places, given)
        look_for_sums(r, plan.places)
    job.inputs = count
    job.outputs = 0
    return given


cdef object weigh_elements(Plan plan, Request* r, Job* job, list given, object sample_weight, int checked_from=0):
    """Lay out the weights and look at the data; returns the weights' sum, None without weights."""
    cdef int k
    cdef str who = plan.who
    job.weights.data = NULL
    if sample_weight is not None:
        sample_weight = operand(r, &job.weights, who, "sample_weight", sample_weight, plan.inputs[0], given[0])
    r.held_inputs = r.held.count
    if r.check:
        for k in range(checked_from, job.inputs):
            if plan.domains[k] is not None:
                scan(&job.arrays[k], r.work, job.count, who, plan.inputs[k], plan.domains[k], given[k], given[0].shape)
    if sample_weight is None:
        return None
    return scan(&job.weights, r.work, job.count, who, "sample_weight", arrays.WEIGHTS, sample_weight, given[0].shape)


cdef tuple lay_out_results(Plan plan, Request* r, Job* job, object value_out, object grad_out, object hess_out, list given):
    """Where the kernel's outputs go; returns what the caller gets."""
    cdef int k, value_index
    cdef int[MAX_RESULTS] indices
    cdef object first = given[0], value = None, gradients = None, hessians = None
    job.has_value = r.want & VALUE
    job.sums = is_reduced(r)
    if job.has_value:
        value = take_value(r, plan.who, value_out, first, None, &value_index)
        add_output(r, job, value_index, first)
    if r.want & GRAD:
        gradients = take_gradients(r, plan.who, "grad_out", grad_out, plan.inputs, plan.places, given, indices)
        for k in range(plan.differentiable):
            add_output(r, job, indices[k], first)
    if r.want & HESS:
        hessians = take_gradients(r, plan.who, "hess_out", hess_out, plan.inputs, plan.places, given, indices)
        for k in range(plan.differentiable):
            add_output(r, job, indices[k], first)
    return results_of(r, plan.who, value, gradients, hessians)


cdef int add_output(Request* r, Job* job, int index, object first) except -1:
    """The job's next output: the view of that index, or none for a value that is only summed."""
    cdef Operand* a = &job.arrays[job.inputs + job.outputs]
    cdef const Py_buffer* view = &r.held.views[index]
    cdef int k
    job.outputs += 1
    if index < 0:
        a.data = NULL
        a.direct = False
        return 0
    for k in range(job.inputs):
        # Each element is read before it is written, given a tile of its own.
        job.arrays[k].direct = job.arrays[k].direct and job.arrays[k].data != view.buf
    job.weights.direct = job.weights.direct and job.weights.data != view.buf
    if not lay_out(a, view, r.held.codes[index], r.work, view.ndim, view.shape):
        index = buffer_result(r, "", "", index, first.dtype)
        flat(a, &r.held.views[index], r.held.codes[index], r.work)
    return 0


cdef void flat(Operand* a, const Py_buffer* view, int code, const Tilework* work) noexcept:
    """Lay out a contiguous buffer."""
    cdef Py_ssize_t count = view.len // view.itemsize
    a.data = <char*>view.buf
    a.load, a.store = work.load[code], work.store[code]
    a.dims = 1
    a.shape[0], a.strides[0] = count, view.itemsize
    a.direct = code == work.native


cdef inline bint is_plain(object out) noexcept:
    return out is None or type(out) is ndarray


cdef inline bint is_foreign(tuple inputs, object value_out, object grad_out, object hess_out) except -1:
    """Whether the first input, or an output, is an array of another library."""
    if is_plain(value_out) and is_plain(grad_out) and is_plain(hess_out) and len(inputs) and type(inputs[0]) is ndarray:
        return False
    return interop.is_foreign(inputs, value_out, grad_out, hess_out)
