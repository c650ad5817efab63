# The tensors of an optimizer, bound to the engine: what is checked, cut and measured before the passes over their tiles.

cdef class Sweep:
    """The tensors of an optimizer, bound once: parameters and their states, rewritten in place at every step.

    `tensors` holds `(group, name, param, states, extras)`; `extras` is a dictionary of what goes with the parameter: arrays
    `remainder`, `average`, `copy`, the `seed` of a parameter that is rounded at random, and `wide`, true of one that is computed in
    double whatever its dtype. The buffers stay exported while the sweep lives, so NumPy refuses to resize the arrays.
    """

    cdef str who
    cdef list names
    cdef list gradients
    cdef list groups
    cdef list held
    cdef list members
    cdef list variants
    cdef bint any_whole
    cdef Py_ssize_t count
    cdef Py_ssize_t group_count
    cdef Update* updates
    cdef Py_buffer* views
    cdef Py_ssize_t view_count
    cdef Py_buffer** params
    cdef TensorSegments segments
    # Where written memory lies: extents that overlap are one span, `members` the arrays in each.
    cdef Span* spans
    cdef Py_ssize_t span_count
    cdef list owners
    # From what size on a gradient's elements may take a state out of its dtype's range.
    cdef double risky
    # For each group its hyperparameters, and what the kernels take of them.
    cdef double* parameters
    cdef double* uniforms

    def __cinit__(self, *args):
        self.updates = NULL
        self.views = NULL
        self.params = NULL
        self.spans = NULL
        self.parameters = NULL
        self.uniforms = NULL
        self.view_count = 0
        memset(&self.segments, 0, sizeof(TensorSegments))

    def __dealloc__(self):
        cdef Py_ssize_t k
        for k in range(self.view_count):
            PyBuffer_Release(&self.views[k])
        free_segments(&self.segments)
        PyMem_Free(self.updates)
        PyMem_Free(self.views)
        PyMem_Free(self.params)
        PyMem_Free(self.spans)
        PyMem_Free(self.parameters)
        PyMem_Free(self.uniforms)

    def __init__(self, str who, list tensors):
        cdef Py_ssize_t k
        cdef Update* update
        cdef int s
        self.who = who
        self.count = len(tensors)
        self.groups = [tensor[0] for tensor in tensors]
        self.names = [tensor[1] for tensor in tensors]
        self.gradients = [f"the gradient of {name}" for name in self.names]
        total_views = sum(1 + len(states) + len(extras) for _, _, _, states, extras in tensors)
        self.risky = INFINITY
        self.held = []
        self.group_count = 1 + max(self.groups, default=0)
        self.updates = <Update*>allocate(self.count * sizeof(Update))
        memset(self.updates, 0, self.count * sizeof(Update))
        self.views = <Py_buffer*>allocate(total_views * sizeof(Py_buffer))
        self.params = <Py_buffer**>allocate(self.count * sizeof(Py_buffer*))
        self.spans = <Span*>allocate(total_views * sizeof(Span))
        self.parameters = <double*>allocate(self.group_count * MAX_UNIFORMS * sizeof(double))
        memset(self.parameters, 0, self.group_count * MAX_UNIFORMS * sizeof(double))
        self.uniforms = <double*>allocate(self.group_count * MAX_UNIFORMS * sizeof(double))
        self.owners = []
        for k, (group, name, param, states, extras) in enumerate(tensors):
            update = &self.updates[k]
            self.params[k] = &self.views[self.view_count]
            update.work = &WORK[F64 if param.dtype == np.float64 or "wide" in extras else F32]
            self.bind(update, &update.arrays[0], name, param)
            for s, state in enumerate(states):
                self.bind(update, &update.arrays[2 + s], f"the state of {name}", state)
            if "remainder" in extras:
                self.bind(update, &update.remainder, f"the remainder of {name}", extras["remainder"])
            if "average" in extras:
                self.bind(update, &update.average, f"the average of {name}", extras["average"])
            if "copy" in extras:
                self.bind(update, &update.copy, f"the copy of {name}", extras["copy"])
            update.dithers = "seed" in extras
            update.seed = extras.get("seed", 0)
            update.used = 2 + len(states)
            update.count = param.size
            update.group = group
            add_segment(&self.segments, k, 0, update.count, 0, update.group)
        self.check_apart()

    cdef int bind(self, Update* update, Operand* operand, str name, object array) except -1:
        """Take a written array's buffer for good."""
        cdef Py_buffer* view = &self.views[self.view_count]
        cdef int code
        # A dtype may say in so many words that its byte order is the native one; its buffer would too.
        half = arrays.is_bfloat16(array.dtype)
        memory = array.view(np.uint16 if half else array.dtype.newbyteorder("="))
        PyObject_GetBuffer(memory, view, PyBUF_FORMAT | PyBUF_STRIDES | PyBUF_WRITABLE)
        self.view_count += 1
        self.owners.append(name)
        self.held.append(array)
        code = BF16 if half else code_of(view)
        if overlaps_itself(view):
            raise arrays.overlap_error(self.who, name, "itself")
        if not lay_out(operand, view, code, update.work, view.ndim, view.shape):
            raise ValueError(f"{self.who}: {name} must have at most {MAX_DIMS} separate dimensions, got strides {array.strides}")
        update.writes_f16 = update.writes_f16 or code == F16
        # Numbers up to the root of the root of the dtype's largest: their squares take nothing out of its range.
        self.risky = min(self.risky, 0.0 if code == F16 else 2.0**256 if code == F64 else 2.0**32)
        extent(view, &self.spans[self.view_count - 1].low, &self.spans[self.view_count - 1].high)
        return 0

    cdef int check_apart(self) except -1:
        """No memory may be written twice in a step."""
        cdef Py_ssize_t k, pairs = 0
        cdef uintptr_t end = 0
        cdef list own = []
        self.members = []
        self.span_count = 0
        order = sorted((self.spans[k].low, self.spans[k].high, k) for k in range(self.view_count) if self.spans[k].low < self.spans[k].high)
        for low, high, k in order:
            if not self.span_count or low >= end:
                own = [self.held[k]]
                self.members.append(own)
                end = high
                # Spans are fewer than views, and those that are overwritten are in `order`.
                self.spans[self.span_count] = Span(low, end)
                self.span_count += 1
                continue
            pairs += len(own)
            if pairs > MOST_PAIRS or any(arrays.share_memory(self.held[k], other) for other in own):
                raise arrays.overlap_error(self.who, self.owners[k], "another parameter or state")
            own.append(self.held[k])
            end = max(end, <uintptr_t>high)
            self.spans[self.span_count - 1].high = end
        return 0

    cdef bint touches(self, const Py_buffer* view, object grad) except -1:
        """Whether a gradient has elements that the step writes."""
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
        while left < self.span_count and self.spans[left].low < high:
            if any(arrays.share_memory(grad, other) for other in self.members[left]):
                return True
            left += 1
        return False

    def step(self, StepOptions args):
        """One step, whole or not at all: what `args.result` makes of the norm, of whether it was left out, and of overflow.

        All that may fail comes before anything is written; then the step is
        taken and its counts replaced, and no signal handler runs between the two. Not for two threads at once.
        """
        cdef Py_buffer* views
        cdef Py_ssize_t held = 0
        cdef Py_ssize_t k
        cdef TensorSegments own
        cdef StepArgs this
        cdef Norm norm
        cdef const double* rates = NULL
        cdef double* uniforms = NULL
        cdef Factor* factors = NULL
        cdef int overflowed = 0
        cdef list grads = args.grads
        cdef dict sparse = args.sparse or {}
        row_lr, row_mask = args.row_lr, args.row_mask
        if len(grads) != self.count:
            raise ValueError(f"{self.who}: grads must hold {self.count} arrays, one for each parameter, got {len(grads)}")
        memset(&own, 0, sizeof(TensorSegments))
        memset(&this, 0, sizeof(StepArgs))
        views = <Py_buffer*>allocate(self.count * sizeof(Py_buffer))
        try:
            factors = <Factor*>allocate(self.group_count * sizeof(Factor))
            for k in range(self.count):
                self.take_gradient(&views[k], &held, k, grads[k], sparse.get(k) if sparse else None)
            self.choose(args.variants, args.vectors)
            this.updates, this.segments, this.uniforms = self.updates, &self.segments, self.uniforms
            this.limit, this.ema_weight, this.step = args.clip_value, args.ema_weight, args.step
            this.overflowed, this.factors = &overflowed, factors
            if row_lr is not None:
                rates = <const double*><uintptr_t>row_lr.ctypes.data
                own.vectors = self.group_count * len(row_lr)
            own.vectors += self.group_count
            if self.any_whole or sparse or row_lr is not None or row_mask is not None:
                self.cut(&own, sparse, row_lr, row_mask)
                this.segments = &own
            if own.vectors > self.group_count:
                uniforms = <double*>allocate(own.vectors * MAX_UNIFORMS * sizeof(double))
                memcpy(uniforms, self.uniforms, self.group_count * MAX_UNIFORMS * sizeof(double))
                this.uniforms = uniforms
            if row_lr is not None:
                self.fill_rows(uniforms, rates, len(row_lr))
            norm.raw, norm.exponent = NAN, 0
            if args.measures:
                this.backwards = True
                norm = self.measure(&this, grads)
                if args.skips and not isfinite(norm.raw):
                    return args.result(total_norm(&norm, args.grad_scale), True, False)
            this.scales = set_factors(factors, args.signs, args.grad_scale, &norm, args.max_norm) or this.limit != INFINITY
            if self.any_whole:
                self.fold(&this, uniforms, rates)
            if args.skips and self.is_risky(&norm, &factors[0], this.limit):
                self.run(probe_task, &this, UPDATE_COST)
                if overflowed:
                    return args.result(total_norm(&norm, args.grad_scale), True, True)
            # Made before the step is taken, for no memory might be had after it.
            usual, unusual = args.usual, args.unusual
            if args.measures:
                found = total_norm(&norm, args.grad_scale)
                usual, unusual = args.result(found, False, False), args.result(found, False, True)
            self.run(update_task, &this, UPDATE_COST)
            replace(args.counts)
        finally:
            for k in range(held):
                PyBuffer_Release(&views[k])
            PyMem_Free(views)
            PyMem_Free(uniforms)
            PyMem_Free(factors)
            free_segments(&own)
        return unusual if overflowed else usual

    cdef bint is_risky(self, const Norm* norm, const Factor* factor, double limit) noexcept:
        """Whether a gradient's element, scaled and clipped, may be so large that it takes a state out of its dtype's range."""
        return min(fabs(ldexp(norm.raw * factor.first, norm.exponent) * factor.second), limit) >= self.risky

    cdef int take_gradient(self, Py_buffer* view, Py_ssize_t* held, Py_ssize_t k, object grad, object rows) except -1:
        """Hold and lay out a tensor's gradient, or that of some of its rows."""
        cdef Update* update = &self.updates[k]
        cdef int code, d
        cdef bint fits
        grad = take_buffer(view, &code, self.who, self.gradients[k], grad)
        held[0] += 1
        if rows is None:
            fits = same_shape(view, self.params[k])
        else:
            fits = view.ndim == self.params[k].ndim and view.shape[0] == len(rows)
            for d in range(1, view.ndim if fits else 0):
                fits = fits and view.shape[d] == self.params[k].shape[d]
        if code > BF16 or not fits or self.touches(view, grad):
            self.refuse(k, grad, rows)
        update.has_f16 = update.writes_f16 or code == F16
        if not lay_out(&update.arrays[1], view, code, update.work, view.ndim, view.shape):
            PyBuffer_Release(view)
            held[0] -= 1
            take_buffer(view, &code, self.who, self.gradients[k], np.ascontiguousarray(grad))
            held[0] += 1
            lay_out(&update.arrays[1], view, code, update.work, view.ndim, view.shape)
        return 0

    cdef int choose(self, list variants, list vectors) except -1:
        """Hand the kernels the numbers of this step, each group its own."""
        cdef RuleVariant variant
        cdef Update* update
        cdef double* parameters
        cdef Py_ssize_t g, k
        for g in range(len(variants)):
            variant = variants[g]
            parameters = self.parameters + MAX_UNIFORMS * g
            for k, value in enumerate(vectors[g]):
                parameters[k] = value
            variant.fill(parameters, self.uniforms + MAX_UNIFORMS * g)
        if variants != self.variants:
            self.any_whole = False
            for k in range(self.count):
                update = &self.updates[k]
                variant = variants[update.group]
                update.kernel = variant.kernels[update.work.native]
                update.fold = variant.folds[update.work.native]
                update.sums, update.squares, update.reads = variant.sums, variant.squares, variant.reads
                update.is_whole = variant.length >= 0
                self.any_whole = self.any_whole or update.is_whole
            self.variants = variants
        return 0

    cdef int cut(self, TensorSegments* to, dict sparse, object row_lr, object row_mask) except -1:
        """The segments of a step in which not all rows move, or not all alike, or tensors have numbers of their own.

        These come behind the `to.vectors` of groups and rows, and are counted there.
        """
        cdef Py_ssize_t k, r, row, last, width, count, vector
        cdef bint by_row = row_lr is not None
        cdef bint apart = by_row or row_mask is not None
        cdef const int64_t* rows
        cdef const uint8_t* moves
        for k in range(self.count):
            width = self.row_width(k)
            vector = self.updates[k].group
            if self.updates[k].is_whole and not apart:
                vector = to.vectors
                to.vectors += 1
            if k in sparse:
                rows = <const int64_t*><uintptr_t>sparse[k].ctypes.data
                for r in range(len(sparse[k])):
                    add_segment(to, k, rows[r] * width, (rows[r] + 1) * width, (rows[r] - r) * width, vector)
            elif not apart:
                add_segment(to, k, 0, self.updates[k].count, 0, vector)
            else:
                count = self.params[k].shape[0]
                if count != len(row_lr if row_mask is None else row_mask):
                    raise ValueError(f"{self.who}: {self.names[k]} must have {len(row_lr if row_mask is None else row_mask)} rows, got {count}")
                moves = NULL if row_mask is None else <const uint8_t*><uintptr_t>row_mask.ctypes.data
                row = 0
                while row < count:
                    last = row + 1
                    # Rows of the same numbers go together.
                    while not by_row and not self.updates[k].is_whole and last < count and moves[last] == moves[row]:
                        last += 1
                    if moves == NULL or moves[row]:
                        if self.updates[k].is_whole:
                            vector = to.vectors
                            to.vectors += 1
                        elif by_row:
                            vector = self.group_count + self.updates[k].group * count + row
                        add_segment(to, k, row * width, last * width, 0, vector)
                    row = last
        return 0

    cdef Py_ssize_t row_width(self, Py_ssize_t k) noexcept:
        """The number of elements in a row of a tensor."""
        return self.updates[k].count // self.params[k].shape[0] if self.params[k].ndim and self.params[k].shape[0] else 0

    cdef int fill_rows(self, double* uniforms, const double* rates, Py_ssize_t rows) except -1:
        """Behind the numbers of every group those of every group's rows, each with a learning rate of its own."""
        cdef RuleVariant variant
        cdef double[MAX_UNIFORMS] parameters
        cdef Py_ssize_t g, row
        for g in range(len(self.variants)):
            variant = self.variants[g]
            memcpy(parameters, self.parameters + MAX_UNIFORMS * g, sizeof(parameters))
            for row in range(rows):
                parameters[variant.lr_slot] = rates[row]
                variant.fill(parameters, uniforms + MAX_UNIFORMS * (self.group_count + g * rows + row))
        return 0

    cdef int fold(self, StepArgs* this, double* uniforms, const double* rates) except -1:
        """Give numbers of its own to all that a rule looks at as a whole: what goes into the sums first, then with them all."""
        cdef Py_ssize_t k
        cdef int most = 0
        self.fill_wholes(this, uniforms, rates)
        for k in range(self.count):
            most = max(most, self.updates[k].sums)
        sums = bytearray(max(<Py_ssize_t>1, most * this.segments.count) * sizeof(double))
        this.sums_by_segment = <double*><char*>sums
        self.run(fold_task, this, FOLD_COST)
        this.backwards = not this.backwards
        self.fill_wholes(this, uniforms, rates)
        return 0

    cdef int fill_wholes(self, const StepArgs* this, double* uniforms, const double* rates) except -1:
        """The numbers of every tensor, or row, that a rule looks at as a whole; before there are sums, those that need none."""
        cdef RuleVariant variant
        cdef double[MAX_UNIFORMS] parameters
        cdef const TensorSegment* segments = this.segments.segments
        cdef const TensorSegment* segment
        cdef Py_ssize_t first = 0, last, elements
        cdef int f
        while first < this.segments.count:
            segment = &segments[first]
            elements, last = 0, first
            while last < this.segments.count and segments[last].vector == segment.vector:
                elements += segments[last].stop - segments[last].start
                last += 1
            if self.updates[segment.update].is_whole:
                variant = self.variants[self.updates[segment.update].group]
                memcpy(parameters, self.parameters + MAX_UNIFORMS * self.updates[segment.update].group, sizeof(parameters))
                if rates != NULL:
                    parameters[variant.lr_slot] = rates[segment.start // self.row_width(segment.update)]
                parameters[variant.length] = elements
                for f in range(variant.sums if this.sums_by_segment != NULL else 0):
                    parameters[variant.length + 1 + f] = tree_sum(this.sums_by_segment + f * this.segments.count + first, last - first)
                variant.fill(parameters, uniforms + MAX_UNIFORMS * segment.vector)
            first = last
        return 0

    cdef int run(self, fastloss_work work, StepArgs* this, double cost) except -1:
        """A pass over all segments. A step is whole or not at all: no looking for Ctrl-C within it."""
        cdef Scratch scratch
        take_scratch(&scratch, 0, (MAX_ARRAYS + 1) * TILE_BYTES, this.segments.task_count, this.segments.elements * UNIT_NS * cost)
        if this.segments.task_count == 1:
            work(this, 0, scratch.each)
        else:
            with nogil:
                fastloss_run(work, NULL, this, this.segments.task_count, scratch.threads, scratch.each, scratch.room)
        return_scratch(&scratch)
        return 0

    cdef Norm measure(self, StepArgs* this, list grads) except *:
        """The norm of all gradients as they were given; not finite if one of them is not."""
        cdef Norm norm
        sums = bytearray(max(<Py_ssize_t>1, this.segments.task_count) * sizeof(double))
        this.squares_by_task = <double*><char*>sums
        self.run(measure_task, this, MEASURE_COST)
        norm.raw, norm.exponent = tree_sum(this.squares_by_task, this.segments.task_count), 0
        if norm.raw == INFINITY or norm.raw < LEAST_SQUARE:
            # Squares of doubles may be beyond the doubles while they are not.
            norm.raw, norm.exponent = norms.scaled_norm(grads)
        else:
            norm.raw = sqrt(norm.raw)
        return norm

    cdef int refuse(self, Py_ssize_t k, object grad, object rows) except -1:
        name = self.gradients[k]
        arrays.check_floating(self.who, name, grad)
        shape = tuple(self.params[k].shape[d] for d in range(self.params[k].ndim))
        if rows is not None:
            shape = (len(rows), *shape[1:])
        if grad.shape != shape:
            raise ValueError(f"{self.who}: {name} must have {'its shape' if rows is None else 'the shape'} {shape}, got {grad.shape}")
        raise arrays.overlap_error(self.who, name, "a parameter or its state")
