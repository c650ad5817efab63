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
        self.fill = <uniforms_function>address_in(self.library, variant + "_uniforms")
        self.parameter_count = len(vector)
        for i, value in enumerate(vector):
            self.parameters[i] = value
        for i, kind in enumerate(kinds):
            self.kinds[i] = KINDS[kind]

    def evaluate(self, int want, tuple inputs, object sample_weight, str reduction, object normalizer, object value_out, object grad_out, object hess_out, bint check, tuple others=()):
        """As `Plan.evaluate`; what `others` names is returned besides, as a dictionary in the fourth place."""
        cdef Held held
        held.count = 0
        if is_foreign(inputs, value_out, grad_out, hess_out):
            return interop.evaluate(self, want, inputs, sample_weight, reduction, normalizer, value_out, grad_out, hess_out, check, others)
        try:
            return _evaluate_rows(self, want, inputs, sample_weight, reduction, normalizer, value_out, grad_out, hess_out, others, check, &held)
        finally:
            release(&held)

    cdef const RowProgram* program(self, int want, int precision) except NULL:
        cdef RowProgram* program = self.programs[want][precision]
        if program != NULL:
            return program
        program = <RowProgram*>allocate(sizeof(RowProgram))
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
        self.others[want] = layout["others"]
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
        self.programs[want][precision] = program
        return program

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


cdef object _evaluate_rows(RowPlan plan, int want, tuple inputs, object sample_weight, str reduction, object normalizer, object value_out, grad_out, hess_out, tuple others, bint check, Held* held):
    cdef RowJob job
    cdef str who = plan.who
    cdef double[MAX_UNIFORMS] uniforms
    cdef double[MAX_UNIFORMS] parameters
    cdef double[FEW] few
    cdef bint out_of_memory = False
    cdef double denominator
    cdef int k
    if reduction != "mean" and reduction != "sum" and reduction != "none":
        raise ValueError(f"{who}: reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
    memset(&job, 0, sizeof(job))
    first = hold_rows(&job, plan, held, inputs[0])
    cdef int precision = F64 if job.work.itemsize == 8 else F32
    job.program = plan.program(want, precision)
    held_arrays = hold_inputs(&job, plan, held, inputs, first, check)
    if sample_weight is not None:
        sample_weight = numbers_of_rows(&job.weights, held, who, "sample_weight", sample_weight, &WORK[F64], &job)
        scan(&job.weights, &WORK[F64], job.count, who, "sample_weight", arrays.WEIGHTS, sample_weight, np.broadcast_to(np.empty(()), rows_shape(&job)))
    cdef int held_inputs = held.count

    # The labels, and what the mean divides by: before anything is written.
    denominator = count_rows(&job, plan, held_arrays)
    if normalizer is not None:
        if reduction != "mean":
            raise ValueError(f"{who}: normalizer goes with reduction='mean', got reduction={reduction!r}")
        denominator = job.count if isinstance(normalizer, str) and normalizer == "samples" else arrays.check_normalizer(who, normalizer)
    job.factor = 1.0
    if reduction == "mean":
        job.factor = 1.0 / denominator if denominator > 0 else 0.0

    # Outputs.
    job.sums = want & VALUE and reduction != "none"
    copies = []
    value = gradients = hessians = None
    if want & VALUE and not job.sums:
        shape = rows_shape(&job)
        value = target = empty(shape, first.dtype) if value_out is None else value_out
        hold_row_output(held, who, "value_out", target, shape, first.dtype)
        if touches_inputs(held, held.count - 1, held_inputs, False):
            target = empty(shape, first.dtype)
            copies.append((value, target))
            hold(held, who, "value_out", target)
        numbers_laid_out(&job.value, held, job.work, &job)
    elif job.sums and value_out is not None:
        # Written at the end: no other output may lie over it.
        hold_row_output(held, who, "value_out", value_out, (), first.dtype)
    if want & (GRAD | HVP):
        gradients = row_outputs(&job, held, plan, "grad_out" if want & GRAD else "out", grad_out, first, 1 if want & HVP else len(plan.differentiable), copies, held_inputs)
    if want & HESS:
        hessians = row_outputs(&job, held, plan, "hess_out", hess_out, first, len(plan.differentiable), copies, held_inputs)
    found = other_outputs(&job, held, plan, others, first, want) if others else None

    # The pass.
    for k in range(plan.parameter_count):
        parameters[k] = plan.parameters[k]
    parameters[plan.parameter_count] = job.length
    plan.fill(parameters, uniforms)
    job.uniforms = uniforms
    job.out_of_memory = &out_of_memory
    cdef Py_ssize_t chunk, chunks = group_rows(&job)
    sums = bytearray(chunks * 16) if chunks * 2 > FEW else None
    job.sums_by_chunk = &few[0]
    if sums is not None:
        job.sums_by_chunk = <double*><char*>sums
    job.correct_by_chunk = <Py_ssize_t*>(job.sums_by_chunk + chunks)
    cdef double nanoseconds = job.count * job.length * UNIT_NS * (8 + plan.costs[want]) * (2 if precision == F64 else 1)
    if not job.side_by_side and job.members < 0 and job.length >= SHARED_ROW and job.count < 4 * fastloss_get_num_threads():
        run_long_rows(&job, nanoseconds)
    else:
        run_chunks(across_chunk if job.side_by_side else along_chunk, &job, chunks, nanoseconds)
    if out_of_memory:
        raise MemoryError()
    for target, source in copies:
        target[...] = source
    if found is not None and "correct" in found:
        for chunk in range(chunks):
            found["correct"] += job.correct_by_chunk[chunk]
    if job.sums:
        value = reduced(who, tree_sum(job.sums_by_chunk, chunks), reduction, denominator, value_out)
    return (value, gradients, hessians) if found is None else (value, gradients, hessians, found)


cdef object hold_rows(RowJob* job, RowPlan plan, Held* held, object first):
    """Hold the first input: it says the shape, the dtype, and by the axis what the rows are."""
    cdef const Py_buffer* over = &held.views[0]
    cdef int d, axis = plan.axis
    first = hold(held, plan.who, plan.inputs[0], first)
    if held.codes[0] > BF16:
        arrays.check_floating(plan.who, plan.inputs[0], first)
    if not -over.ndim <= axis < over.ndim:
        raise ValueError(f"{plan.who}: axis must be a dimension of {plan.inputs[0]}, which has {over.ndim}, got {axis}")
    if over.ndim > 2 * MAX_DIMS:
        raise ValueError(f"{plan.who}: {plan.inputs[0]} must have at most {2 * MAX_DIMS} dimensions, got {over.ndim}")
    job.axis = axis + over.ndim if axis < 0 else axis
    job.work = &WORK[F64 if held.codes[0] == F64 else F32]
    job.length = over.shape[job.axis]
    job.count = 1
    job.dims = over.ndim - 1
    for d in range(job.dims):
        job.shape[d] = over.shape[d + (d >= job.axis)]
        job.count *= job.shape[d]
    if job.length == 0:
        raise ValueError(f"{plan.who}: {plan.inputs[0]} must have at least one element along axis {job.axis}, got shape {first.shape}")
    job.ignore_index = plan.ignore_index
    job.other_number = job.members = -1
    return first


cdef tuple rows_shape(const RowJob* job):
    return tuple([job.shape[d] for d in range(job.dims)])


cdef list hold_inputs(RowJob* job, RowPlan plan, Held* held, tuple inputs, object first, bint check):
    """Hold and lay out every input, and look for what is outside its domain."""
    cdef int k, kind
    cdef list arrays_held = []
    for k in range(len(inputs)):
        name, kind = plan.inputs[k], plan.kinds[k]
        if kind == ROW:
            array = hold_row_input(job, plan, held, k, inputs[k], first, check)
        elif kind == CLASS_WEIGHT:
            array = hold_class_weight(job, plan, held, name, inputs[k])
        elif kind == LABEL:
            array = numbers_of_rows(&job.labels, held, plan.who, name, inputs[k], &LABELS, job)
            if held.codes[held.count - 1] <= BF16:
                raise TypeError(f"{plan.who}: {name} must hold whole numbers, got dtype {array.dtype}")
        elif kind == LABELS_OF_ROW:
            array = hold_lists(job, plan, held, name, inputs[k], first)
        else:
            array = numbers_of_rows(&job.numbers[job.given], held, plan.who, name, inputs[k], job.work, job)
            job.given += 1
            if check and plan.domains[k] is not None:
                scan(&job.numbers[job.given - 1], job.work, job.count, plan.who, name, plan.domains[k], array, np.broadcast_to(np.empty(()), rows_shape(job)))
        arrays_held.append(array)
    if job.lists.rows.data != NULL:
        # The marks are the last input of the program, made row by row.
        job.members = job.inputs
        job.rows[job.inputs].rows = job.lists.rows
        job.inputs += 1
    return arrays_held


cdef object hold_lists(RowJob* job, RowPlan plan, Held* held, str name, object array, object first):
    """Hold the rows' lists of labels; ValueError if one is outside."""
    cdef Py_ssize_t found
    cdef Py_ssize_t* labels
    array = hold(held, plan.who, name, array)
    if held.codes[held.count - 1] <= BF16:
        raise TypeError(f"{plan.who}: {name} must hold whole numbers, got dtype {array.dtype}")
    if not lay_out_rows(&job.lists, &held.views[held.count - 1], held.codes[held.count - 1], &LABELS, job.axis, &held.views[0]):
        array = hold(held, plan.who, name, np.ascontiguousarray(arrays.as_shape(plan.who, name, array, f"{plan.inputs[0]}'s shape", first.shape)))
        lay_out_rows(&job.lists, &held.views[held.count - 1], held.codes[held.count - 1], &LABELS, job.axis, &held.views[0])
    scratch = bytearray(job.length * sizeof(Py_ssize_t))
    labels = <Py_ssize_t*><char*>scratch
    with nogil:
        found = find_outside(job, labels)
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


cdef object hold_row_input(RowJob* job, RowPlan plan, Held* held, int k, object array, object first, bint check):
    cdef RowOperand* rows = &job.rows[job.inputs]
    cdef const Py_buffer* over = &held.views[0]
    cdef Operand whole
    cdef str name = plan.inputs[k]
    array = first if k == 0 else hold(held, plan.who, name, array)
    if not lay_out_rows(rows, &held.views[held.count - 1], held.codes[held.count - 1], job.work, job.axis, over):
        array = hold(held, plan.who, name, arrays.as_shape(plan.who, name, array, f"{plan.inputs[0]}'s shape", first.shape))
        if not lay_out_rows(rows, &held.views[held.count - 1], held.codes[held.count - 1], job.work, job.axis, over):
            hold(held, plan.who, name, np.ascontiguousarray(array))
            lay_out_rows(rows, &held.views[held.count - 1], held.codes[held.count - 1], job.work, job.axis, over)
    job.inputs += 1
    if check and plan.domains[k] is not None:
        if not lay_out(&whole, &held.views[held.count - 1], held.codes[held.count - 1], job.work, over.ndim, over.shape):
            hold(held, plan.who, name, np.ascontiguousarray(np.broadcast_to(array, first.shape)))
            lay_out(&whole, &held.views[held.count - 1], held.codes[held.count - 1], job.work, over.ndim, over.shape)
        scan(&whole, job.work, job.count * job.length, plan.who, name, plan.domains[k], array, first)
    return array


cdef object hold_class_weight(RowJob* job, RowPlan plan, Held* held, str name, object array):
    """Class weights lie along every row: the same memory for all."""
    cdef RowOperand* rows = &job.rows[job.inputs]
    array = arrays.class_weights(plan.who, name, array, job.length, np.float64 if job.work.itemsize == 8 else np.float32)
    hold(held, plan.who, name, array)
    rows.rows.data = <char*>held.views[held.count - 1].buf
    rows.rows.dims = 1
    rows.rows.shape[0] = job.count
    rows.rows.load = job.work.load[job.work.native]
    rows.stride = job.work.itemsize
    rows.along = True
    job.class_weight = rows.rows.data
    job.inputs += 1
    return array


cdef double count_rows(RowJob* job, RowPlan plan, list arrays_held) except? -1:
    """The sum of the rows' weights; ValueError if a label is outside."""
    cdef Py_ssize_t chunks = (job.count + MOST_SIDE_BY_SIDE - 1) // MOST_SIDE_BY_SIDE
    cdef double[FEW] few
    cdef Py_ssize_t[FEW] few_found
    cdef Py_ssize_t k
    cdef int label
    if job.labels.data == NULL and job.weights.data == NULL:
        return job.count
    scratch = bytearray(chunks * 16) if chunks > FEW else None
    job.found_by_chunk = &few_found[0]
    job.sums_by_chunk = &few[0]
    if scratch is not None:
        job.found_by_chunk = <Py_ssize_t*><char*>scratch
        job.sums_by_chunk = <double*>(job.found_by_chunk + chunks)
    run_chunks(scan_rows, job, chunks, 4.0 * job.count)
    for k in range(chunks):
        if job.found_by_chunk[k] >= 0:
            for label in range(len(arrays_held)):
                if plan.kinds[label] == LABEL:
                    raise arrays.label_error(plan.who, plan.inputs[label], job.length, arrays_held[label], rows_shape(job), job.found_by_chunk[k])
    return tree_sum(job.sums_by_chunk, chunks)


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


cdef object reduced(str who, double total, str reduction, double denominator, object value_out):
    """The value, and the one who asked for it in an array has it there."""
    if reduction == "mean":
        if denominator > 0:
            total /= denominator
        else:
            total = float("nan")
            warnings.warn(f"{who}: the mean of nothing is nan (no rows, or all weights are zero)", RuntimeWarning, stacklevel=3)
    if value_out is None:
        return total
    with np.errstate(over="ignore"):  # infinity in a narrow dtype, as in its arrays
        value_out[...] = total
    return value_out


cdef dict other_outputs(RowJob* job, Held* held, RowPlan plan, tuple others, object first, int want):
    """Arrays for what is wanted besides, one number for each row; the count of the right predictions comes later."""
    cdef dict found = {}
    cdef list known = [*plan.others[want], "predicted"]
    if job.labels.data != NULL:
        known.append("correct")
    for name in others:
        if name not in known:
            raise ValueError(f"{plan.who}: outputs besides the value and its derivatives must be among {', '.join(known)}, got {name!r}")
        found[name] = 0
        if name == "predicted":
            found[name] = empty(rows_shape(job), np.int64)
            hold(held, plan.who, name, found[name])
            numbers_laid_out(&job.predicted, held, &LABELS, job)
        elif name != "correct":
            found[name] = empty(rows_shape(job), first.dtype)
            hold(held, plan.who, name, found[name])
            numbers_laid_out(&job.other, held, job.work, job)
            job.other_number = plan.others[want][name]
    job.predicts = "predicted" in found or "correct" in found
    return found


cdef object numbers_of_rows(Operand* a, Held* held, str who, str name, object array, const Tilework* work, const RowJob* job):
    """Hold an array that has a number for each row."""
    array = hold(held, who, name, array)
    if not numbers_laid_out(a, held, work, job):
        array = hold(held, who, name, np.ascontiguousarray(arrays.as_shape(who, name, array, "the rows' shape", rows_shape(job))))
        numbers_laid_out(a, held, work, job)
    return array


cdef bint numbers_laid_out(Operand* a, Held* held, const Tilework* work, const RowJob* job) noexcept:
    """Lay out the buffer held last over the rows' shape."""
    return lay_out(a, &held.views[held.count - 1], held.codes[held.count - 1], work, job.dims, job.shape)


cdef int hold_row_output(Held* held, str who, str name, object out, tuple shape, object dtype) except -1:
    arrays.check_output(who, name, out, shape, dtype)
    hold(held, who, name, np.asarray(out))
    if overlaps_itself(&held.views[held.count - 1]):
        raise arrays.overlap_error(who, name, "itself")
    return 0


cdef bint touches_inputs(Held* held, int output, int held_inputs, bint may_be_one) noexcept:
    """Whether an output lies over an input; `may_be_one`: unless it is that input, element for element."""
    cdef int j
    for j in range(held_inputs):
        if overlap(&held.views[output], &held.views[j]):
            if not may_be_one or not same_elements(&held.views[output], &held.views[j]) or held.codes[j] != held.codes[output]:
                return True
    return False


cdef object row_outputs(RowJob* job, Held* held, RowPlan plan, str name, out, first, int total, list copies, int held_inputs):
    """The gradients or Hessians: given arrays or new ones, a tuple where several inputs have them."""
    cdef int index
    if total == 1:
        return row_output(job, held, plan, name, out, first, copies, held_inputs)
    if out is None:
        out = (None,) * total
    elif not isinstance(out, tuple | list) or len(out) != total:
        raise TypeError(f"{plan.who}: {name} must be {total} arrays, one for each of {', '.join(plan.differentiable)}")
    return tuple([row_output(job, held, plan, f"{name}[{index}]", out[index], first, copies, held_inputs) for index in range(total)])


cdef object row_output(RowJob* job, Held* held, RowPlan plan, str name, object out, object first, list copies, int held_inputs):
    cdef RowOperand* rows = &job.outputs[job.outputs_laid]
    cdef int j, last
    cdef bint apart
    result = empty(first.shape, first.dtype) if out is None else out
    hold_output(held, plan.who, name, result, first)
    last = held.count - 1
    if overlaps_itself(&held.views[last]):
        raise arrays.overlap_error(plan.who, name, "itself")
    apart = touches_inputs(held, last, held_inputs, True)
    for j in range(held_inputs, last):
        if overlap(&held.views[last], &held.views[j]):
            raise arrays.overlap_error(plan.who, name, "another output")
    if apart or not lay_out_rows(rows, &held.views[last], held.codes[last], job.work, job.axis, &held.views[0]):
        target = empty(first.shape, first.dtype)
        copies.append((result, target))
        hold(held, plan.who, name, target)
        lay_out_rows(rows, &held.views[held.count - 1], held.codes[held.count - 1], job.work, job.axis, &held.views[0])
    job.outputs_laid += 1
    return result
