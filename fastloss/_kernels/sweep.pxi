# Update rules: all tensors of an optimizer in one call.

cdef struct Piece:
    Py_ssize_t job
    Py_ssize_t start
    Py_ssize_t stop

cdef struct Round:
    # One step: pieces of tensors, gathered into grains of about a chunk, the unit that a thread takes.
    const Job* jobs
    const Piece* pieces
    const Py_ssize_t* grains

cdef struct Span:
    uintptr_t low
    uintptr_t high


cdef void sweep_grain(void* context, Py_ssize_t grain) noexcept nogil:
    cdef const Round* this = <const Round*>context
    cdef Py_ssize_t p
    for p in range(this.grains[grain], this.grains[grain + 1]):
        update_chunk(&this.jobs[this.pieces[p].job], this.pieces[p].start, this.pieces[p].stop)


cdef class RuleVariant:
    """One variant of an update rule, bound to its kernels."""

    cdef readonly str name
    cdef uniforms_function fill
    cdef kernel_function[2] kernels

    def __init__(self, name):
        self.name = name
        self.fill = <uniforms_function>address(name + "_uniforms")
        self.kernels[F32] = <kernel_function>address(name + "_step_f32")
        self.kernels[F64] = <kernel_function>address(name + "_step_f64")


cdef class Sweep:
    """The tensors of an optimizer, bound once: parameters and their states, rewritten in place at every step.

    `tensors` holds `(group, name, param, states)`. The buffers stay exported while the sweep lives, so NumPy
    refuses to resize the arrays.
    """

    cdef str who
    cdef list names
    cdef list gradients
    cdef list groups
    cdef list variants
    cdef Py_ssize_t count
    cdef Py_ssize_t grain_count
    cdef Py_ssize_t elements
    cdef Job* jobs
    cdef Py_buffer* views
    cdef Py_ssize_t view_count
    cdef Py_buffer** params
    cdef Piece* pieces
    cdef Py_ssize_t* grains
    cdef Span* spans
    cdef Py_ssize_t span_count
    cdef list owners
    cdef double* uniforms

    def __cinit__(self, *args):
        self.jobs = NULL
        self.views = NULL
        self.params = NULL
        self.pieces = NULL
        self.grains = NULL
        self.spans = NULL
        self.uniforms = NULL
        self.view_count = 0

    def __dealloc__(self):
        cdef Py_ssize_t k
        for k in range(self.view_count):
            PyBuffer_Release(&self.views[k])
        PyMem_Free(self.jobs)
        PyMem_Free(self.views)
        PyMem_Free(self.params)
        PyMem_Free(self.pieces)
        PyMem_Free(self.grains)
        PyMem_Free(self.spans)
        PyMem_Free(self.uniforms)

    def __init__(self, str who, list tensors):
        cdef Py_ssize_t k, start, filled, p
        cdef Py_ssize_t piece_count = 0
        cdef Job* job
        cdef int s
        self.who = who
        self.count = len(tensors)
        self.groups = [group for group, _, _, _ in tensors]
        self.names = [name for _, name, _, _ in tensors]
        self.gradients = [f"the gradient of {name}" for name in self.names]
        total_views = sum(1 + len(states) for _, _, _, states in tensors)
        self.jobs = <Job*>allocate(self.count * sizeof(Job))
        self.views = <Py_buffer*>allocate(total_views * sizeof(Py_buffer))
        self.params = <Py_buffer**>allocate(self.count * sizeof(Py_buffer*))
        self.spans = <Span*>allocate(total_views * sizeof(Span))
        self.uniforms = <double*>allocate((1 + max(self.groups, default=0)) * MAX_UNIFORMS * sizeof(double))
        self.elements = 0
        self.owners = []
        for k, (group, name, param, states) in enumerate(tensors):
            job = &self.jobs[k]
            self.params[k] = &self.views[self.view_count]
            self.bind(job, 0, name, param)
            for s, state in enumerate(states):
                self.bind(job, 2 + s, f"the state of {name}", state)
            job.inputs = 2 + len(states)
            job.outputs = 0
            job.count = param.size
            job.uniforms = self.uniforms + MAX_UNIFORMS * <Py_ssize_t>group
            self.elements += job.count
            piece_count += (job.count + CHUNK - 1) // CHUNK
        self.check_apart()
        self.pieces = <Piece*>allocate(piece_count * sizeof(Piece))
        self.grains = <Py_ssize_t*>allocate((piece_count + 1) * sizeof(Py_ssize_t))
        self.grain_count = 0
        p = 0
        filled = CHUNK
        for k in range(self.count):
            for start in range(0, self.jobs[k].count, CHUNK):
                if filled >= CHUNK:
                    self.grains[self.grain_count] = p
                    self.grain_count += 1
                    filled = 0
                self.pieces[p] = Piece(k, start, min(start + CHUNK, self.jobs[k].count))
                filled += self.pieces[p].stop - start
                p += 1
        self.grains[self.grain_count] = p

    cdef int bind(self, Job* job, int position, str name, object array) except -1:
        """Take a written array's buffer for good."""
        cdef Py_buffer* view = &self.views[self.view_count]
        cdef int code
        memory = array.view(np.uint16) if arrays.is_bfloat16(array.dtype) else array
        PyObject_GetBuffer(memory, view, PyBUF_FORMAT | PyBUF_STRIDES | PyBUF_WRITABLE)
        self.view_count += 1
        self.owners.append(name)
        code = BF16 if memory is not array else code_of(view)
        if position == 0:
            job.work = &WORK[F64 if code == F64 else F32]
        if overlaps_itself(view):
            raise arrays.overlap_error(self.who, name, "itself")
        if not lay_out(&job.arrays[position], view, code, job.work, view.ndim, view.shape):
            raise ValueError(f"{self.who}: {name} must have at most {MAX_DIMS} separate dimensions, got strides {array.strides}")
        extent(view, &self.spans[self.view_count - 1].low, &self.spans[self.view_count - 1].high)
        return 0

    cdef int check_apart(self) except -1:
        """No memory may be written twice in a step."""
        cdef Py_ssize_t k
        owners = sorted((self.spans[k].low, self.spans[k].high, k) for k in range(self.view_count) if self.spans[k].low < self.spans[k].high)
        for (_, high, _), (low, _, k) in zip(owners, owners[1:], strict=False):
            if low < high:
                raise arrays.overlap_error(self.who, self.owners[k], "another parameter or state")
        spans = [(low, high) for low, high, _ in owners]
        for k, (low, high) in enumerate(spans):
            self.spans[k] = Span(low, high)
        self.span_count = len(spans)
        return 0

    cdef bint touches(self, const Py_buffer* view) noexcept:
        """Whether a gradient lies in memory that the step writes."""
        cdef uintptr_t low, high
        cdef Py_ssize_t left = 0
        cdef Py_ssize_t right = self.span_count
        cdef Py_ssize_t middle
        extent(view, &low, &high)
        while left < right:
            middle = (left + right) // 2
            if self.spans[middle].high <= low:
                left = middle + 1
            else:
                right = middle
        return left < self.span_count and self.spans[left].low < high

    def step(self, list variants, list vectors, list grads):
        """One step: a variant and a vector of hyperparameters for each group, a gradient for each tensor. Whole or not at all.

        Not for two threads at once.
        """
        cdef Py_buffer* views
        cdef Py_buffer* view
        cdef Py_ssize_t held = 0
        cdef Py_ssize_t k
        cdef Job* job
        cdef Round this
        cdef int code, threads
        if len(grads) != self.count:
            raise ValueError(f"{self.who}: grads must hold {self.count} arrays, one for each parameter, got {len(grads)}")
        views = <Py_buffer*>allocate(self.count * sizeof(Py_buffer))
        try:
            for k in range(self.count):
                job = &self.jobs[k]
                view = &views[k]
                grad = take_buffer(view, &code, self.who, self.gradients[k], grads[k])
                held += 1
                if code > BF16 or not same_shape(view, self.params[k]) or self.touches(view):
                    self.refuse(k, grad, view)
                if not lay_out(&job.arrays[1], view, code, job.work, view.ndim, view.shape):
                    PyBuffer_Release(view)
                    held -= 1
                    take_buffer(view, &code, self.who, self.gradients[k], np.ascontiguousarray(grad))
                    held += 1
                    lay_out(&job.arrays[1], view, code, job.work, view.ndim, view.shape)
                job.arrays[1].store = NULL
            self.choose(variants, vectors)
            this = Round(self.jobs, self.pieces, self.grains)
            if self.grain_count == 1:
                sweep_grain(&this, 0)
            elif self.grain_count:
                # A step is whole or not at all: no looking for Ctrl-C within it.
                threads = fastloss_get_num_threads() if self.elements * UNIT_NS * UPDATE_COST > SERIAL_NS else 1
                with nogil:
                    fastloss_run(sweep_grain, NULL, &this, self.grain_count, threads)
        finally:
            for k in range(held):
                PyBuffer_Release(&views[k])
            PyMem_Free(views)

    cdef int choose(self, list variants, list vectors) except -1:
        """Hand the kernels the numbers of this step, each group its own."""
        cdef RuleVariant variant
        cdef double[MAX_UNIFORMS] parameters
        cdef Py_ssize_t g, k
        for g in range(len(variants)):
            variant = variants[g]
            for k, value in enumerate(vectors[g]):
                parameters[k] = value
            variant.fill(parameters, self.uniforms + MAX_UNIFORMS * g)
        if variants != self.variants:
            for k in range(self.count):
                variant = variants[self.groups[k]]
                self.jobs[k].kernel = variant.kernels[F64 if self.jobs[k].work.itemsize == 8 else F32]
            self.variants = variants
        return 0

    cdef int refuse(self, Py_ssize_t k, object grad, const Py_buffer* view) except -1:
        name = self.gradients[k]
        arrays.check_floating(self.who, name, grad)
        shape = tuple(self.params[k].shape[d] for d in range(self.params[k].ndim))
        if grad.shape != shape:
            raise ValueError(f"{self.who}: {name} must have its shape {shape}, got {grad.shape}")
        raise arrays.overlap_error(self.who, name, "a parameter or its state")
