# Calls of row losses: plans, what is given to them, and results. The walk over the rows is in rows.pxi.


cdef enum:
    # What an input holds.
    ROW
    NUMBER
    LABEL
    LABELS_OF_ROW
    CLASS_WEIGHT

KINDS = {"row": ROW, "number": NUMBER, "label": LABEL, "labels": LABELS_OF_ROW, "class weight": CLASS_WEIGHT}


cdef class RowPlan:
    """One variant of a row formula, bound to its programs and to the values of its hyperparameters.

    `kinds` says of each input what it holds: "row", "number", "label", "labels" or "class weight"; rows lie along `axis`, and those of the
    label `ignore_index` are left out.
    """

    cdef readonly str who
    cdef readonly str variant
    cdef readonly tuple inputs
    cdef readonly tuple domains
    cdef readonly tuple differentiable
    # Which inputs have gradients.
    cdef tuple places
    cdef int[MAX_INPUTS] kinds
    cdef int axis
    cdef Py_ssize_t ignore_index
    cdef uniforms_function fill
    cdef double[MAX_UNIFORMS] parameters
    cdef int parameter_count
    cdef RowProgram* programs[16][2]
    cdef int[16] costs
    # By what is wanted, the numbers of the row that can be had besides: {name: which number}.
    cdef dict others
    cdef object library

    def __cinit__(self, *args):
        memset(self.programs, 0, sizeof(self.programs))

    def __dealloc__(self):
        for want in range(16):
            for precision in range(2):
                PyMem_Free(self.programs[want][precision])

    def __init__(self, who, variant, inputs, kinds, domains, differentiable, vector, axis, ignore_index, library=None):
        self.library = _tiles if library is None else library
        self.who, self.variant, self.inputs, self.domains, self.others = who, variant, inputs, domains, {}
        self.differentiable, self.axis, self.ignore_index = differentiable, axis, ignore_index
        self.places = tuple(inputs.index(name) for name in differentiable)
        self.fill = <uniforms_function>address_in(self.library, variant + "_uniforms")
        self.parameter_count = len(vector)
        for i, value in enumerate(vector):
            self.parameters[i] = value
        for i, kind in enumerate(kinds):
            self.kinds[i] = KINDS[kind]

    def evaluate(self, int want, tuple inputs, object sample_weight, object reduction, object normalizer, object value_out, object grad_out, object hess_out, bint check, tuple others=()):
        """As `Plan.evaluate`; what `others` names comes last, as a dictionary."""
        cdef Request request
        cdef Scratch memory
        if is_foreign(inputs, value_out, grad_out, hess_out):
            return interop.evaluate(self, want, inputs, sample_weight, reduction, normalizer, value_out, grad_out, hess_out, check, others)
        begin_request(&request, self.who, want, reduction, normalizer, check)
        take_scratch(&memory, sizeof(RowJob), 0, 1, 0)
        try:
            return evaluate_rows(self, <RowJob*>memory.shared, &request, inputs, sample_weight, normalizer, value_out, grad_out, hess_out, others)
        finally:
            release(&request.held)
            return_scratch(&memory)

    cdef const RowProgram* program(self, int want, int precision) except NULL:
        cdef RowProgram* program = self.programs[want][precision]
        if program != NULL:
            return program
        program = <RowProgram*>allocate(sizeof(RowProgram))
        try:
            self.fill_program(program, want, precision)
        except BaseException:
            PyMem_Free(program)
            raise
        self.programs[want][precision] = program
        return program

    cdef int fill_program(self, RowProgram* program, int want, int precision) except -1:
        letters = "p" if want & HVP else "vgh" if want & HESS else "vg" if want & GRAD else "v"
        layout = self.library.layout(f"{self.variant}_{letters}")
        name = f"{self.variant}_{letters}_{{}}{{}}_{'f64' if precision else 'f32'}"
        program.stages = len(layout["step"])
        self.costs[want] = layout["cost"]
        for k in range(program.stages):
            self.bind(&program.steps[k], name.format("step", k), layout["step"][k])
            self.bind(&program.along[k], name.format("along", k), layout["along"][k])
            self.bind(&program.across[k], name.format("across", k), layout["across"][k])
            self.bind(&program.again[k], name.format("again", k), layout["again"][k])
            if layout["loops"][k]:
                program.rising[k], program.following[k] = (number - NUMBERS_FROM for number in layout["loops"][k])
            program.folds_of[k] = len(layout["folds"][k])
            for f, (is_sum, number, row) in enumerate(layout["folds"][k]):
                program.folds[k][f] = Fold(is_sum, number - NUMBERS_FROM, row)
            program.runs_of[k] = len(layout["runs"][k])
            for f, (row, backwards) in enumerate(layout["runs"][k]):
                program.runs[k][f] = Run(row, backwards)
        program.rows = len(layout["rows"])
        for k, (_, kept) in enumerate(layout["rows"]):
            program.kept[k] = kept
        program.numbers = len(layout["numbers"])
        program.picks = len(layout["picks"])
        for k, (number, row) in enumerate(layout["picks"]):
            program.pick_number[k], program.pick_row[k] = number - NUMBERS_FROM, row
        program.outputs = len(layout["outputs"])
        for k, role in enumerate(layout["outputs"]):
            program.at_label[k] = layout["numbers"].index(f"label_{role}") if f"label_{role}" in layout["numbers"] else -1
        program.value = layout["numbers"].index("value") if want & ~HVP else 0
        self.others[want] = layout["others"]
        return 0

    cdef int bind(self, Loop* loop, str name, list arrays) except -1:
        loop.count = len(arrays)
        loop.kernel = NULL
        if arrays:
            loop.kernel = <kernel_function>address_in(self.library, name)
        for k, code in enumerate(arrays):
            loop.arrays[k] = code
        return 0


cdef int lay_out_rows(RowOperand* a, const Py_buffer* view, int code, const Tilework* work, int axis, const Py_buffer* first) except -1:
    """Describe an array of rows, `axis` being that of `first`; 0 if it does not fit."""
    cdef Py_buffer rest = view[0]
    cdef Py_ssize_t[2 * MAX_DIMS] shape
    cdef Py_ssize_t[2 * MAX_DIMS] strides
    cdef Py_ssize_t[2 * MAX_DIMS] over
    cdef int own = axis - (first.ndim - view.ndim)
    cdef int d
    if view.ndim > first.ndim or view.ndim > 2 * MAX_DIMS or first.ndim > 2 * MAX_DIMS or own < 0 or view.shape[own] != first.shape[axis]:
        return 0
    for d in range(view.ndim - 1):
        shape[d] = view.shape[d + (d >= own)]
        strides[d] = view.strides[d + (d >= own)]
    for d in range(first.ndim - 1):
        over[d] = first.shape[d + (d >= axis)]
    rest.shape, rest.strides, rest.ndim = shape, strides, view.ndim - 1
    if not lay_out(&a.rows, &rest, code, work, first.ndim - 1, over):
        return 0
    a.stride = view.strides[own]
    native = code == work.native
    a.along = native and a.stride == work.itemsize
    a.packed = a.along and a.rows.dims == 1 and a.rows.strides[0] == view.shape[own] * work.itemsize
    a.across = native and a.rows.dims == 1 and a.rows.strides[0] == work.itemsize
    return 1


cdef tuple evaluate_rows(RowPlan plan, RowJob* job, Request* r, tuple inputs, object sample_weight, object normalizer, object value_out, object grad_out, object hess_out, tuple others):
    cdef double[MAX_UNIFORMS] uniforms
    cdef double total = 0
    memset(job, 0, sizeof(RowJob))
    first = hold_rows(job, plan, r, inputs[0])
    job.program = plan.program(r.want, r.precision)
    fill_uniforms(plan, r, job.length, uniforms)
    job.uniforms = uniforms
    given = hold_inputs(job, plan, r, inputs, first)
    divide(r, plan.who, normalizer, weigh_rows(job, plan, r, given, sample_weight), first)
    job.factor = r.factor
    job.sums = is_reduced(r)
    results = lay_out_row_results(job, plan, r, given, value_out, grad_out, hess_out)
    found = None
    if others:
        found = other_outputs(job, plan, r, others, first)
        results = (*results, found)
    total = pass_over_rows(job, r, element_time(plan.costs[r.want], job.count * job.length, r.precision), found)
    finish_request(r, results, total)
    return results


cdef int fill_uniforms(RowPlan plan, Request* r, Py_ssize_t length, double* uniforms) except -1:
    """What the kernels take of the hyperparameters and the rows' length."""
    cdef double[MAX_UNIFORMS] parameters
    cdef int k
    for k in range(plan.parameter_count):
        parameters[k] = plan.parameters[k]
    parameters[plan.parameter_count] = length
    memset(uniforms, 0, MAX_UNIFORMS * sizeof(double))
    plan.fill(parameters, uniforms)
    if r.precision == F32:
        check_single(plan.who, uniforms)
    return 0


cdef double pass_over_rows(RowJob* job, Request* r, double nanoseconds, dict found) except? -1:
    """The pass: the sum of the values."""
    cdef Scratch scratch
    cdef Py_ssize_t chunk, chunks = group_rows(job)
    cdef size_t own = chunks * (sizeof(double) + sizeof(Py_ssize_t))
    cdef bint shares_rows = not job.side_by_side and job.members < 0 and job.length >= SHARED_ROW and job.count < 4 * fastloss_get_num_threads()
    cdef Py_ssize_t segments = (job.length + CHUNK - 1) // CHUNK
    if shares_rows:
        take_scratch(&scratch, whole_lines(own) + long_rows_room(job), pass_room(job), segments, nanoseconds / max(<Py_ssize_t>1, job.count) / job.program.stages)
    else:
        take_scratch(&scratch, own, across_room(job) if job.side_by_side else along_room(job), chunks, nanoseconds)
    try:
        job.sums_by_chunk = <double*>scratch.shared
        job.correct_by_chunk = <Py_ssize_t*>(job.sums_by_chunk + chunks)
        if shares_rows:
            run_long_rows(job, &scratch, scratch.shared + whole_lines(own))
        else:
            run_chunks(across_chunk if job.side_by_side else along_chunk, job, chunks, &scratch)
        if found is not None and "correct" in found:
            for chunk in range(chunks):
                found["correct"] += job.correct_by_chunk[chunk]
        return tree_sum(job.sums_by_chunk, chunks) if job.sums else 0
    finally:
        return_scratch(&scratch)


cdef tuple lay_out_row_results(RowJob* job, RowPlan plan, Request* r, list given, object value_out, object grad_out, object hess_out):
    """Where results go; returns what the caller gets."""
    cdef int index
    cdef int[MAX_RESULTS] indices
    cdef object value = None, gradients = None, hessians = None
    cdef tuple places = plan.places if r.want & ~HVP else (0,)
    if r.want & VALUE:
        value = take_value(r, plan.who, value_out, given[0], () if is_reduced(r) else rows_shape(job), &index)
        if index >= 0:
            lay_out_numbers(&job.value, r, index, job, given[0].dtype)
    if r.want & (GRAD | HVP):
        gradients = take_gradients(r, plan.who, "grad_out" if r.want & GRAD else "out", grad_out, plan.inputs, places, given, indices)
        add_row_outputs(job, r, len(places), indices, given[0])
    if r.want & HESS:
        hessians = take_gradients(r, plan.who, "hess_out", hess_out, plan.inputs, places, given, indices)
        add_row_outputs(job, r, len(places), indices, given[0])
    return results_of(r, plan.who, value, gradients, hessians)


cdef int add_row_outputs(RowJob* job, Request* r, int count, const int* indices, object first) except -1:
    cdef int k, index
    cdef RowOperand* rows
    for k in range(count):
        index, rows = indices[k], &job.outputs[job.outputs_laid]
        if not lay_out_rows(rows, &r.held.views[index], r.held.codes[index], job.work, job.axis, &r.held.views[0]):
            index = buffer_result(r, "", "", index, first.dtype)
            lay_out_rows(rows, &r.held.views[index], r.held.codes[index], job.work, job.axis, &r.held.views[0])
        job.outputs_laid += 1
    return 0


cdef int lay_out_numbers(Operand* a, Request* r, int index, const RowJob* job, object dtype) except -1:
    """Lay out a result of one number for each row."""
    if not lay_out(a, &r.held.views[index], r.held.codes[index], job.work, job.dims, job.shape):
        index = buffer_result(r, "", "", index, dtype)
        lay_out(a, &r.held.views[index], r.held.codes[index], job.work, job.dims, job.shape)
    return 0


cdef object hold_rows(RowJob* job, RowPlan plan, Request* r, object first):
    """Hold the first input: it says the shape, the dtype, and by the axis what the rows are."""
    cdef const Py_buffer* over = &r.held.views[0]
    cdef int d, axis = plan.axis
    first = hold_first(r, plan.who, plan.inputs[0], first)
    if not -over.ndim <= axis < over.ndim:
        raise ValueError(f"{plan.who}: axis must be a dimension of {plan.inputs[0]}, which has {over.ndim}, got {axis}")
    if over.ndim > 2 * MAX_DIMS:
        raise ValueError(f"{plan.who}: {plan.inputs[0]} must have at most {2 * MAX_DIMS} dimensions, got {over.ndim}")
    job.axis = axis + over.ndim if axis < 0 else axis
    job.work = r.work
    job.length = over.shape[job.axis]
    job.count = 1
    job.dims = over.ndim - 1
    for d in range(job.dims):
        job.shape[d] = over.shape[d + (d >= job.axis)]
        job.count *= job.shape[d]
    if job.length == 0:
        raise ValueError(f"{plan.who}: {plan.inputs[0]} must have at least one element along axis {job.axis}, got shape {first.shape}")
    r.count = job.count
    job.ignore_index = plan.ignore_index
    job.other_number = job.members = -1
    return first


cdef tuple rows_shape(const RowJob* job):
    # No comprehension: where an append fails, those of Cython release the element twice.
    cdef list shape = []
    cdef int d
    for d in range(job.dims):
        shape.append(job.shape[d])
    return tuple(shape)


cdef list hold_inputs(RowJob* job, RowPlan plan, Request* r, tuple inputs, object first):
    """Hold and lay out every input, and look for what is outside its domain; returns the arrays as they were given."""
    cdef int k, kind
    cdef list given = []
    for k in range(len(inputs)):
        name, kind = plan.inputs[k], plan.kinds[k]
        if kind == ROW:
            array = hold_row_input(job, plan, r, k, inputs[k], first)
        elif kind == CLASS_WEIGHT:
            array = hold_class_weight(job, plan, r, name, inputs[k])
        elif kind == LABEL:
            array = hold_labels(job, plan, r, name, inputs[k])
        elif kind == LABELS_OF_ROW:
            array = hold_lists(job, plan, r, name, inputs[k], first)
        else:
            array = numbers_of_rows(&job.numbers[job.given], r, plan.who, name, inputs[k], job.work, job)
            job.given += 1
            if r.check and plan.domains[k] is not None:
                scan(&job.numbers[job.given - 1], job.work, job.count, plan.who, name, plan.domains[k], array, rows_shape(job))
        given.append(array)
    if len(plan.places) > 1:
        look_for_sums(r, plan.places)
    if job.lists.rows.data != NULL:
        # The marks are the last input of the program, made row by row.
        job.members = job.inputs
        job.rows[job.inputs].rows = job.lists.rows
        job.inputs += 1
    return given


cdef int check_whole(Request* r, str who, str name, object array) except -1:
    """Labels are whole numbers."""
    if r.held.codes[r.held.count - 1] <= BF16:
        raise TypeError(f"{who}: {name} must hold whole numbers, got dtype {array.dtype}")
    return 0


cdef object hold_labels(RowJob* job, RowPlan plan, Request* r, str name, object array):
    """Hold a label for each row: of their shape, but for leading dimensions that may be left out."""
    cdef const Py_buffer* view = &r.held.views[r.held.count]
    cdef int d
    array = numbers_of_rows(&job.labels, r, plan.who, name, array, &LABELS, job)
    check_whole(r, plan.who, name, array)
    for d in range(view.ndim):
        if view.shape[d] != job.shape[job.dims - view.ndim + d]:
            raise ValueError(f"{plan.who}: {name} must broadcast to the rows' shape {rows_shape(job)} without being repeated along a dimension, got {array.shape}")
    return array


cdef object hold_lists(RowJob* job, RowPlan plan, Request* r, str name, object array, object first):
    """Hold the rows' lists of labels; ValueError if one is outside."""
    cdef const Py_buffer* view = &r.held.views[r.held.count]
    cdef Py_ssize_t found
    cdef Scratch scratch
    array = hold(&r.held, plan.who, name, array)
    check_whole(r, plan.who, name, array)
    if not lay_out_rows(&job.lists, view, r.held.codes[r.held.count - 1], &LABELS, job.axis, &r.held.views[0]):
        whole = arrays.as_shape(plan.who, name, array, f"{plan.inputs[0]}'s shape", first.shape)
        hold_again(&r.held, plan.who, name, np.ascontiguousarray(whole))
        lay_out_rows(&job.lists, view, r.held.codes[r.held.count - 1], &LABELS, job.axis, &r.held.views[0])
    take_scratch(&scratch, job.length * sizeof(Py_ssize_t), 0, 1, 0)
    with nogil:
        found = find_outside(job, <Py_ssize_t*>scratch.shared)
    return_scratch(&scratch)
    if found >= 0:
        raise arrays.list_error(plan.who, name, array, first.shape, job.axis, found)
    return array


cdef Py_ssize_t find_outside(const RowJob* job, Py_ssize_t* labels) noexcept nogil:
    """The first label of a list that is neither -1, its end, nor a class, counted along the rows one after the other; or -1."""
    cdef Py_ssize_t row, k
    for row in range(job.count):
        job.lists.rows.load(place(&job.lists.rows, row), job.lists.stride, <char*>labels, job.length)
        for k in range(job.length):
            if not 0 <= labels[k] < job.length:
                if labels[k] != -1:
                    return row * job.length + k
                break
    return -1


cdef object hold_row_input(RowJob* job, RowPlan plan, Request* r, int k, object array, object first):
    """Hold rows, which may be broadcast to the first input's shape."""
    cdef RowOperand* rows = &job.rows[job.inputs]
    cdef const Py_buffer* over = &r.held.views[0]
    cdef const Py_buffer* view = &r.held.views[0 if k == 0 else r.held.count]
    cdef int last
    cdef str name = plan.inputs[k]
    array = first if k == 0 else hold(&r.held, plan.who, name, array)
    last = r.held.count - 1
    if not same_shape(view, over):
        r.stretched |= 1 << k
    if not lay_out_rows(rows, view, r.held.codes[last], job.work, job.axis, over):
        whole = arrays.as_shape(plan.who, name, array, f"{plan.inputs[0]}'s shape", first.shape)
        hold_again(&r.held, plan.who, name, whole)
        if not lay_out_rows(rows, view, r.held.codes[last], job.work, job.axis, over):
            hold_again(&r.held, plan.who, name, np.ascontiguousarray(whole))
            lay_out_rows(rows, view, r.held.codes[last], job.work, job.axis, over)
    job.inputs += 1
    if r.check and plan.domains[k] is not None:
        scan_rows_input(job, plan, r, name, plan.domains[k], array, first)
    return array


cdef int scan_rows_input(RowJob* job, RowPlan plan, Request* r, str name, object domain, object array, object first) except -1:
    """Look for elements outside their domain in the input held last."""
    cdef Operand whole
    cdef Held copy
    cdef const Py_buffer* over = &r.held.views[0]
    copy.count = 0
    try:
        if not lay_out(&whole, &r.held.views[r.held.count - 1], r.held.codes[r.held.count - 1], job.work, over.ndim, over.shape):
            hold(&copy, plan.who, name, np.ascontiguousarray(np.broadcast_to(array, first.shape)))
            flat(&whole, &copy.views[0], copy.codes[0], job.work)
        scan(&whole, job.work, job.count * job.length, plan.who, name, domain, array, first.shape)
    finally:
        release(&copy)
    return 0


cdef object hold_class_weight(RowJob* job, RowPlan plan, Request* r, str name, object array):
    """Copy a weight for each class into the kernels' precision, and check the copy; it lies along every row."""
    cdef RowOperand* rows = &job.rows[job.inputs]
    cdef const Py_buffer* view = &r.held.views[r.held.count]
    cdef Operand given
    array = hold(&r.held, plan.who, name, array)
    if view.ndim != 1 or view.shape[0] != job.length:
        raise ValueError(f"{plan.who}: {name} must have one number for each of the {job.length} classes, got shape {array.shape}")
    lay_out(&given, view, r.held.codes[r.held.count - 1], job.work, 1, view.shape)
    hold(&r.held, plan.who, name, empty(job.length, np.float64 if r.precision == F64 else np.float32))
    view = &r.held.views[r.held.count - 1]
    gather(&given, 0, job.length, <char*>view.buf, job.work.itemsize)
    flat(&rows.rows, view, job.work.native, job.work)
    scan(&rows.rows, job.work, job.length, plan.who, name, arrays.WEIGHTS, array, (job.length,))
    rows.rows.shape[0], rows.rows.strides[0] = job.count, 0
    rows.stride = job.work.itemsize
    rows.along = True
    job.class_weight = rows.rows.data
    job.inputs += 1
    return array


cdef object weigh_rows(RowJob* job, RowPlan plan, Request* r, list given, object sample_weight):
    """Look at weights and labels; returns the sum of the weights of the rows that count, None where all count alike."""
    cdef Py_ssize_t k, chunks = (job.count + MOST_SIDE_BY_SIDE - 1) // MOST_SIDE_BY_SIDE
    cdef Scratch scratch
    if sample_weight is not None:
        sample_weight = numbers_of_rows(&job.weights, r, plan.who, "sample_weight", sample_weight, &WORK[F64], job)
        scan(&job.weights, &WORK[F64], job.count, plan.who, "sample_weight", arrays.WEIGHTS, sample_weight, rows_shape(job))
    r.held_inputs = r.held.count
    if job.labels.data == NULL and sample_weight is None:
        return None
    take_scratch(&scratch, chunks * (sizeof(double) + sizeof(Py_ssize_t)), 2 * TILE_BYTES, chunks, 4.0 * job.count)
    try:
        job.sums_by_chunk = <double*>scratch.shared
        job.found_by_chunk = <Py_ssize_t*>(job.sums_by_chunk + chunks)
        run_chunks(scan_rows, job, chunks, &scratch)
        for k in range(chunks):
            if job.found_by_chunk[k] >= 0:
                raise wrong_label(job, plan, given, job.found_by_chunk[k])
        return tree_sum(job.sums_by_chunk, chunks)
    finally:
        return_scratch(&scratch)


cdef object wrong_label(const RowJob* job, RowPlan plan, list given, Py_ssize_t row):
    cdef int k
    for k in range(len(given)):
        if plan.kinds[k] == LABEL:
            return arrays.label_error(plan.who, plan.inputs[k], job.length, given[k], rows_shape(job), row)


cdef Py_ssize_t group_rows(RowJob* job) noexcept:
    """How the rows are walked over, and in how many chunks."""
    job.stream = job.outputs_laid * job.count * job.length * job.work.itemsize > STREAM_BYTES
    job.side_by_side = job.members < 0 and (job.length < LONG_ROW or job.rows[0].across and not job.rows[0].along)
    if job.side_by_side:
        job.group = max(16, min(<Py_ssize_t>MOST_SIDE_BY_SIDE, GROUP // job.length // 16 * 16))
    else:
        job.group = max(1, min(<Py_ssize_t>MOST_SIDE_BY_SIDE, CHUNK // job.length))
        job.batch = 1
        if together(job):
            job.batch = max(1, min(<Py_ssize_t>MOST_BATCHED, BATCHED // (job.length * job.work.itemsize)))
    return (job.count + job.group - 1) // job.group


cdef bint together(const RowJob* job) noexcept:
    """Whether rows can go through their passes in batches: each as often as the others, and their inputs evenly spaced."""
    cdef int k
    for k in range(job.inputs):
        if job.rows[k].along and job.rows[k].rows.dims != 1:
            return False
    for k in range(job.program.stages):
        if job.program.again[k].count or job.program.runs_of[k]:
            return False
    return job.members < 0


cdef dict other_outputs(RowJob* job, RowPlan plan, Request* r, tuple others, object first):
    """Arrays for what is wanted besides, one number for each row; the count of the right predictions comes later."""
    cdef dict found = {}
    cdef list known = [*plan.others[r.want], "predicted"]
    if job.labels.data != NULL:
        known.append("correct")
    for name in others:
        if name not in known:
            raise ValueError(f"{plan.who}: outputs besides the value and its derivatives must be among {', '.join(known)}, got {name!r}")
        found[name] = 0
        if name == "predicted":
            found[name] = empty(rows_shape(job), np.int64)
            hold(&r.held, plan.who, name, found[name])
            numbers_laid_out(&job.predicted, &r.held, &LABELS, job)
        elif name != "correct":
            found[name] = empty(rows_shape(job), first.dtype)
            hold(&r.held, plan.who, name, found[name])
            numbers_laid_out(&job.other, &r.held, job.work, job)
            job.other_number = plan.others[r.want][name]
    job.predicts = "predicted" in found or "correct" in found
    return found


cdef object numbers_of_rows(Operand* a, Request* r, str who, str name, object array, const Tilework* work, const RowJob* job):
    """Hold an array that has a number for each row, or broadcasts to that; returns it as it was given."""
    array = hold(&r.held, who, name, array)
    if not numbers_laid_out(a, &r.held, work, job):
        hold_again(&r.held, who, name, np.ascontiguousarray(arrays.as_shape(who, name, array, "the rows' shape", rows_shape(job))))
        numbers_laid_out(a, &r.held, work, job)
    return array


cdef bint numbers_laid_out(Operand* a, Held* held, const Tilework* work, const RowJob* job) noexcept:
    """Lay out the buffer held last over the rows' shape."""
    return lay_out(a, &held.views[held.count - 1], held.codes[held.count - 1], work, job.dims, job.shape)
