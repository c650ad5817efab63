# Row formulas: whole rows at a time, along each or across many. What their kernels compute is the programs' business
# (fastloss/formula/program.py); this file feeds them rows, numbers of the row and places for results, and adds at the labels.

cdef extern from *:
    """
    #define prefetch(x) __builtin_prefetch(x)
    """
    void prefetch(const void*) noexcept nogil

cdef enum:
    MAX_STAGES = 8
    MAX_FOLDS = 24
    MAX_RUNS = 8
    MAX_LOOP_ARRAYS = 64
    MAX_ROWS = 40
    # Of a call: arrays of rows, and of numbers of the row.
    MAX_INPUTS = 8
    MAX_NUMBERS = 64
    MAX_OUTPUTS = 8
    # How a layout counts arrays: see `Program.layout`.
    NUMBERS_FROM = 100
    OUTPUTS_FROM = 200
    # Rows of at most so many bytes are asked for while the one before is computed; the processor sees longer ones coming.
    FETCHED = 16384
    # Few rows of so many elements are shared between threads one by one.
    SHARED_ROW = 4 * CHUNK
    # Shorter rows go side by side.
    LONG_ROW = 64
    # Elements that a group of rows side by side holds of one input: they stay in the L1 and L2 cache.
    GROUP = 8192
    MOST_SIDE_BY_SIDE = 1024
    # What rounding may add to the repeats of a loop, which are as many as a row has elements at most.
    MORE_REPEATS = 16

cdef struct Loop:
    kernel_function kernel
    int count
    short[MAX_LOOP_ARRAYS] arrays

cdef struct Fold:
    bint is_sum
    short number
    short row

cdef struct Run:
    # Elements that become the sums of those before each, or after each.
    short row
    bint backwards

cdef struct RowProgram:
    int stages
    Loop[MAX_STAGES] steps
    Loop[MAX_STAGES] along
    Loop[MAX_STAGES] across
    # Of passes that are repeated: the step after each time, the number that rises, and what it rises to.
    Loop[MAX_STAGES] again
    short[MAX_STAGES] rising
    short[MAX_STAGES] following
    int[MAX_STAGES] folds_of
    Fold[MAX_STAGES][MAX_FOLDS] folds
    int[MAX_STAGES] runs_of
    Run[MAX_STAGES][MAX_RUNS] runs
    int rows
    bint[MAX_ROWS] kept
    int numbers
    int picks
    short[MAX_LOOP_ARRAYS] pick_number
    short[MAX_LOOP_ARRAYS] pick_row
    int outputs
    # For each output, the number that its label's element has besides, or -1; the value's number.
    short[MAX_OUTPUTS] at_label
    short value

cdef struct RowOperand:
    # One array: where its rows are, and how far apart the elements of a row.
    Operand rows
    Py_ssize_t stride
    # A row's elements lie as the kernels want them; so do rows, one after the other without a gap; rows lie so side by side.
    bint along
    bint packed
    bint across

cdef struct RowJob:
    const RowProgram* program
    const double* uniforms
    const Tilework* work
    Py_ssize_t count
    Py_ssize_t length
    int axis
    Py_ssize_t group
    bint side_by_side
    # What is left of the shape without the axis.
    int dims
    Py_ssize_t[2 * MAX_DIMS] shape
    int inputs
    RowOperand[MAX_INPUTS] rows
    # Inputs that are numbers of the row come first among the numbers.
    int given
    Operand[MAX_INPUTS] numbers
    int outputs_laid
    RowOperand[MAX_OUTPUTS] outputs
    Operand value
    # On request: a number of the row besides the value, the first of its largest elements, how often that is the label's.
    Operand other
    int other_number
    Operand predicted
    bint predicts
    Py_ssize_t* correct_by_chunk
    Operand labels
    # Where a row has several labels: its list of them, and which input is 1 for each element that the list names, or -1.
    RowOperand lists
    int members
    Operand weights
    const char* class_weight
    Py_ssize_t ignore_index
    double factor
    bint sums
    bint stream
    double* sums_by_chunk
    Py_ssize_t* found_by_chunk
    bint* out_of_memory


cdef inline char* place(const Operand* a, Py_ssize_t row) noexcept nogil:
    cdef Py_ssize_t[MAX_DIMS] index
    return a.data + row * a.strides[0] if a.dims == 1 else locate(a, row, index)


cdef inline double as_double(const Tilework* work, const void* number) noexcept nogil:
    return (<const double*>number)[0] if work.itemsize == 8 else <double>(<const float*>number)[0]


cdef inline void put(const Tilework* work, void* number, double value) noexcept nogil:
    if work.itemsize == 8:
        (<double*>number)[0] = value
    else:
        (<float*>number)[0] = <float>value


cdef inline void add_to(const Tilework* work, void* element, const void* number) noexcept nogil:
    if work.itemsize == 8:
        (<double*>element)[0] += (<const double*>number)[0]
    else:
        (<float*>element)[0] += (<const float*>number)[0]


cdef void row_weights(const RowJob* job, Py_ssize_t start, Py_ssize_t count, Py_ssize_t* labels, double* weights, Py_ssize_t* outside) noexcept nogil:
    """The rows' labels and own weights; an ignored row has weight 0 and label 0. `outside` is the first bad label, or `count`."""
    cdef Py_ssize_t k
    if job.weights.data != NULL:
        gather(&job.weights, start, count, <char*>weights, 8)
    else:
        for k in range(count):
            weights[k] = 1
    outside[0] = count
    if job.labels.data == NULL:
        memset(labels, 0, count * sizeof(Py_ssize_t))
        return
    gather(&job.labels, start, count, <char*>labels, 8)
    outside[0] = count_labels(labels, weights, job.length, job.ignore_index, count)


cdef void scan_rows(void* context, Py_ssize_t chunk) noexcept nogil:
    """Look at a chunk's labels, and add up what its rows count in a mean: their weights, by their classes'."""
    cdef const RowJob* job = <const RowJob*>context
    cdef Py_ssize_t[MOST_SIDE_BY_SIDE] labels
    cdef double[MOST_SIDE_BY_SIDE] weights
    cdef Py_ssize_t start = chunk * MOST_SIDE_BY_SIDE
    cdef Py_ssize_t n = min(<Py_ssize_t>MOST_SIDE_BY_SIDE, job.count - start)
    cdef Py_ssize_t k, outside
    row_weights(job, start, n, labels, weights, &outside)
    job.found_by_chunk[chunk] = start + outside if outside < n else -1
    if outside == n:
        if job.class_weight != NULL and job.labels.data != NULL:
            for k in range(n):
                weights[k] *= as_double(job.work, job.class_weight + labels[k] * job.work.itemsize)
        job.sums_by_chunk[chunk] = WORK[F64].sum(weights, n)


cdef void chunk_weights(const RowJob* job, Py_ssize_t start, Py_ssize_t count, Py_ssize_t* labels, double* weights) noexcept nogil:
    """As `row_weights`, after the scan: a label outside, which only another thread can have written since, becomes 0 too."""
    cdef Py_ssize_t k, outside
    row_weights(job, start, count, labels, weights, &outside)
    if outside < count:
        for k in range(count):
            if not 0 <= labels[k] < job.length:
                labels[k] = 0
                weights[k] = 0


cdef inline void arrange(const Loop* loop, void** tiles, char** rows, Py_ssize_t offset, char* numbers, Py_ssize_t spacing, char** outputs) noexcept nogil:
    """The arrays of a kernel, in its order."""
    cdef int k, code
    for k in range(loop.count):
        code = loop.arrays[k]
        if code >= OUTPUTS_FROM:
            tiles[k] = outputs[code - OUTPUTS_FROM]
        elif code >= NUMBERS_FROM:
            tiles[k] = numbers + (code - NUMBERS_FROM) * spacing
        else:
            tiles[k] = rows[code] + offset


cdef struct Row:
    # Where one row is in its passes: its arrays, whole ones and tiles for what no later pass reads, and its numbers.
    char* rows[MAX_ROWS]
    double[MAX_NUMBERS] numbers
    Py_ssize_t index
    Py_ssize_t label
    double weight
    # Of a list of labels: how many there are, and the results so far.
    Py_ssize_t* list
    Py_ssize_t listed
    char* sums[MAX_OUTPUTS]
    Py_ssize_t repeats


cdef Py_ssize_t whole_row(const RowJob* job) noexcept nogil:
    return (job.length * job.work.itemsize + 127) // 64 * 64


cdef char* row_buffers(const RowJob* job, Row* row) noexcept nogil:
    """Memory for what of a row does not lie ready: to be freed."""
    cdef const RowProgram* program = job.program
    cdef Py_ssize_t size = 0, used
    cdef char* scratch
    cdef int k
    for k in range(job.inputs):
        size += 0 if job.rows[k].along else whole_row(job)
    for k in range(job.inputs, program.rows):
        size += whole_row(job) if program.kept[k] else 0
    if job.members >= 0:
        size += program.outputs * whole_row(job) + job.length * sizeof(Py_ssize_t)
    scratch = <char*>malloc(size + 64)
    if scratch == NULL:
        job.out_of_memory[0] = True
        return NULL
    used = 0
    for k in range(program.rows):
        row.rows[k] = NULL
        if not job.rows[k].along if k < job.inputs else program.kept[k]:
            row.rows[k] = aligned(scratch) + used
            used += whole_row(job)
    if job.members >= 0:
        for k in range(program.outputs):
            row.sums[k] = aligned(scratch) + used
            used += whole_row(job)
        row.list = <Py_ssize_t*>(aligned(scratch) + used)
    return scratch


cdef void begin_row(const RowJob* job, Row* row) noexcept nogil:
    """Find or load the row's inputs and numbers."""
    cdef const RowProgram* program = job.program
    cdef Py_ssize_t itemsize = job.work.itemsize
    cdef char* numbers = <char*>row.numbers
    cdef char* source
    cdef int k
    for k in range(job.inputs):
        source = place(&job.rows[k].rows, row.index)
        if k == job.members:
            read_list(job, row)
        elif job.rows[k].along:
            row.rows[k] = source
        else:
            job.rows[k].rows.load(source, job.rows[k].stride, row.rows[k], job.length)
    for k in range(job.given):
        job.numbers[k].load(place(&job.numbers[k], row.index), 0, numbers + k * itemsize, 1)
    pick_numbers(job, row)


cdef void pick_numbers(const RowJob* job, Row* row) noexcept nogil:
    cdef const RowProgram* program = job.program
    cdef Py_ssize_t itemsize = job.work.itemsize
    cdef int k
    for k in range(program.picks):
        memcpy(<char*>row.numbers + program.pick_number[k] * itemsize, row.rows[program.pick_row[k]] + row.label * itemsize, itemsize)


cdef void read_list(const RowJob* job, Row* row) noexcept nogil:
    """The row's labels, up to -1, and their mark among the elements."""
    cdef Py_ssize_t label, itemsize = job.work.itemsize
    cdef char* members = row.rows[job.members]
    job.lists.rows.load(place(&job.lists.rows, row.index), job.lists.stride, <char*>row.list, job.length)
    memset(members, 0, job.length * itemsize)
    row.listed = 0
    # Another label outside than -1 can only have been written since the labels were looked at.
    while row.listed < job.length and 0 <= row.list[row.listed] < job.length:
        put(job.work, members + row.list[row.listed] * itemsize, 1)
        row.listed += 1


cdef void begin_pass(const RowJob* job, Row* row, int stage, double* folded) noexcept nogil:
    """Compute the numbers that a pass is to know, and empty its folds."""
    cdef const RowProgram* program = job.program
    cdef void* tiles[MAX_LOOP_ARRAYS]
    if program.steps[stage].count:
        arrange(&program.steps[stage], tiles, row.rows, 0, <char*>row.numbers, job.work.itemsize, NULL)
        program.steps[stage].kernel(1, tiles, job.uniforms)
    row.repeats = 0
    empty_folds(program, stage, folded)


cdef inline void empty_folds(const RowProgram* program, int stage, double* folded) noexcept nogil:
    cdef int f
    for f in range(program.folds_of[stage]):
        folded[f] = 0 if program.folds[stage][f].is_sum else -INFINITY


cdef void run_segment(const RowJob* job, const Row* row, int stage, Py_ssize_t start, double* folded) noexcept nogil:
    """One segment of a row in one pass, tile by tile; adds to the folds. The last pass stores the results."""
    cdef const RowProgram* program = job.program
    cdef const Tilework* work = job.work
    cdef Py_ssize_t itemsize = work.itemsize
    cdef Py_ssize_t stop = min(start + CHUNK, job.length)
    cdef const Loop* loop = &program.along[stage]
    cdef const Fold* fold
    # Results, or elements that go into folds and no further: never both.
    cdef char[MAX_FOLDS * TILE_BYTES + 64] memory
    cdef char* outputs[MAX_OUTPUTS]
    cdef char* rows[MAX_ROWS]
    cdef void* tiles[MAX_LOOP_ARRAYS]
    cdef double[MAX_FOLDS] part
    cdef double most
    cdef Py_ssize_t n
    cdef int k, f, used = 0
    for k in range(program.outputs):
        outputs[k] = aligned(memory) + used * TILE_BYTES
        used += 1
    for f in range(program.folds_of[stage]):
        part[f] = 0
    for k in range(loop.count):
        if loop.arrays[k] < NUMBERS_FROM and row.rows[loop.arrays[k]] == NULL:
            rows[loop.arrays[k]] = aligned(memory) + used * TILE_BYTES
            used += 1
    while start < stop:
        n = min(<Py_ssize_t>TILE, stop - start)
        for k in range(program.rows):
            if row.rows[k] != NULL:
                rows[k] = row.rows[k] + start * itemsize
        if loop.count:
            arrange(loop, tiles, rows, 0, <char*>row.numbers, itemsize, outputs)
            loop.kernel(n, tiles, job.uniforms)
        for f in range(program.folds_of[stage]):
            fold = &program.folds[stage][f]
            if fold.is_sum:
                part[f] += work.sum(rows[fold.row], n)
            else:
                most = work.largest(rows[fold.row], n)
                if most > folded[f] or most != most:
                    folded[f] = most
        if stage == program.stages - 1:
            store_tile(job, row, outputs, start, n)
        start += n
    for f in range(program.folds_of[stage]):
        if program.folds[stage][f].is_sum:
            folded[f] += part[f]


cdef void store_tile(const RowJob* job, const Row* row, char** outputs, Py_ssize_t start, Py_ssize_t n) noexcept nogil:
    """Add what the label's element has besides; then weigh and store, or add to what the row's other labels gave."""
    cdef const RowProgram* program = job.program
    cdef Py_ssize_t i, itemsize = job.work.itemsize
    cdef int f
    for f in range(program.outputs):
        if program.at_label[f] >= 0 and start <= row.label < start + n:
            add_to(job.work, outputs[f] + (row.label - start) * itemsize, <char*>row.numbers + program.at_label[f] * itemsize)
        if job.members < 0:
            put_tile(job, row, f, outputs[f], start, n)
        elif itemsize == 8:
            for i in range(n):
                (<double*>row.sums[f])[start + i] += (<double*>outputs[f])[i]
        else:
            for i in range(n):
                (<float*>row.sums[f])[start + i] += (<float*>outputs[f])[i]


cdef inline void put_tile(const RowJob* job, const Row* row, int f, char* tile, Py_ssize_t start, Py_ssize_t n) noexcept nogil:
    """Weigh and store."""
    cdef const Tilework* work = job.work
    cdef const RowOperand* target = &job.outputs[f]
    cdef char* out = place(&target.rows, row.index) + start * target.stride
    cdef double factor = job.factor * row.weight
    if not target.along:
        work.scale(tile, factor, tile, n)
        target.rows.store(tile, out, target.stride, n)
    elif job.stream:
        work.stream(tile, factor, out, n)
    else:
        work.scale(tile, factor, out, n)


cdef bint end_pass(const RowJob* job, Row* row, int stage, double* folded) noexcept nogil:
    """Enter the folds among the row's numbers, and sum what runs; whether the pass is to be repeated, the folds empty again."""
    cdef const Run* run
    cdef int f
    for f in range(job.program.folds_of[stage]):
        put(job.work, <char*>row.numbers + job.program.folds[stage][f].number * job.work.itemsize, folded[f])
    for f in range(job.program.runs_of[stage]):
        run = &job.program.runs[stage][f]
        job.work.run(row.rows[run.row], job.length, run.backwards)
    row.repeats += 1
    if not rises(job, stage, <char*>row.numbers, job.work.itemsize, row.repeats, 1):
        return False
    empty_folds(job.program, stage, folded)
    return True


cdef bint rises(const RowJob* job, int stage, char* numbers, Py_ssize_t spacing, Py_ssize_t repeats, Py_ssize_t count) noexcept nogil:
    """After a pass of a loop: let the rows' numbers rise; whether one did, and the pass is to be repeated."""
    cdef const RowProgram* program = job.program
    cdef void* tiles[MAX_LOOP_ARRAYS]
    if program.again[stage].count == 0:
        return False
    arrange(&program.again[stage], tiles, NULL, 0, numbers, spacing, NULL)
    program.again[stage].kernel(count, tiles, job.uniforms)
    if repeats >= job.length + MORE_REPEATS:
        return False
    return job.work.rise(numbers + program.rising[stage] * spacing, numbers + program.following[stage] * spacing, count)


cdef bint leave_out(const RowJob* job, Row* row) noexcept nogil:
    """A row without weight: its results are 0. It has a prediction all the same."""
    cdef char[TILE_BYTES] zeros
    cdef const RowOperand* target
    cdef Py_ssize_t start
    cdef int f
    memset(zeros, 0, min(<Py_ssize_t>TILE, job.length) * job.work.itemsize)
    for f in range(job.program.outputs):
        target = &job.outputs[f]
        start = 0
        while start < job.length:
            target.rows.store(zeros, place(&target.rows, row.index) + start * target.stride, target.stride, min(<Py_ssize_t>TILE, job.length - start))
            start += TILE
    if job.predicts:
        begin_row(job, row)
    return others_of(job, row)


cdef double value_of(const RowJob* job, const Row* row) noexcept nogil:
    return as_double(job.work, <char*>row.numbers + job.program.value * job.work.itemsize) * row.weight


cdef void fetch(const RowJob* job, Py_ssize_t index) noexcept nogil:
    """Ask for a row's inputs ahead of their time: the memory rests while a row in the cache is computed."""
    cdef Py_ssize_t offset, size = job.length * job.work.itemsize
    cdef char* source
    cdef int k
    for k in range(job.inputs):
        if job.rows[k].along and size <= FETCHED:
            source = place(&job.rows[k].rows, index)
            for offset in range(0, size, 64):
                prefetch(source + offset)


cdef void run_row(const RowJob* job, Row* row, Py_ssize_t last) noexcept nogil:
    """All passes over a row; the next one, if it comes before `last`, is asked for."""
    cdef double[MAX_FOLDS] folded
    cdef Py_ssize_t start
    cdef int stage
    for stage in range(job.program.stages):
        if stage == 1 and row.index + 1 < last:
            fetch(job, row.index + 1)
        begin_pass(job, row, stage, folded)
        while True:
            start = 0
            while start < job.length:
                run_segment(job, row, stage, start, folded)
                start += CHUNK
            if not end_pass(job, row, stage, folded):
                break


cdef double run_list(const RowJob* job, Row* row, Py_ssize_t last) noexcept nogil:
    """The passes for each of the row's labels: values and results add up."""
    cdef Py_ssize_t start, k
    cdef double total = 0
    cdef int f
    for f in range(job.program.outputs):
        memset(row.sums[f], 0, job.length * job.work.itemsize)
    for k in range(row.listed):
        row.label = row.list[k]
        pick_numbers(job, row)
        run_row(job, row, last if k == row.listed - 1 else 0)
        total += value_of(job, row)
    for f in range(job.program.outputs):
        start = 0
        while start < job.length:
            put_tile(job, row, f, row.sums[f] + start * job.work.itemsize, start, min(<Py_ssize_t>TILE, job.length - start))
            start += TILE
    return total


cdef void along_chunk(void* context, Py_ssize_t chunk) noexcept nogil:
    """A group of rows, one after the other: each goes through its passes in tiles."""
    cdef const RowJob* job = <const RowJob*>context
    cdef const Tilework* work = job.work
    cdef Py_ssize_t first = chunk * job.group
    cdef Py_ssize_t last = min(first + job.group, job.count)
    cdef Py_ssize_t[MOST_SIDE_BY_SIDE] labels
    cdef double[MOST_SIDE_BY_SIDE] weights
    cdef char[2 * TILE_BYTES + 64] memory
    cdef char* values = aligned(memory)
    cdef Row row
    cdef Py_ssize_t index, correct = 0
    cdef double value
    cdef char* scratch = row_buffers(job, &row)
    if scratch == NULL:
        return
    chunk_weights(job, first, last - first, labels, weights)
    for index in range(first, last):
        row.index, row.label, row.weight = index, labels[index - first], weights[index - first]
        value = 0
        if row.weight == 0:
            leave_out(job, &row)
        else:
            begin_row(job, &row)
            if job.members < 0:
                run_row(job, &row, last)
                value = value_of(job, &row)
            else:
                value = run_list(job, &row, last)
            correct += others_of(job, &row)
        put(work, values + (index - first) * work.itemsize, value)
    job.correct_by_chunk[chunk] = correct
    if job.stream:
        FASTLOSS_FENCE()
    free(scratch)
    finish_values(job, chunk, first, last - first, values)


cdef struct Segments:
    # One pass over one row, shared between threads.
    const RowJob* job
    const Row* row
    int stage
    double* folded


cdef void segment_chunk(void* context, Py_ssize_t chunk) noexcept nogil:
    cdef const Segments* segments = <const Segments*>context
    cdef double* folded = segments.folded + chunk * MAX_FOLDS
    empty_folds(segments.job.program, segments.stage, folded)
    run_segment(segments.job, segments.row, segments.stage, chunk * CHUNK, folded)
    if segments.job.stream:
        FASTLOSS_FENCE()


cdef int run_long_rows(RowJob* job, double nanoseconds) except -1:
    """As the chunks of rows along, to the last bit, with the segments of each row shared between threads: for few long rows."""
    cdef Py_ssize_t chunks = (job.length + CHUNK - 1) // CHUNK
    cdef Py_ssize_t label, chunk, index
    cdef double[MAX_FOLDS] folded
    cdef double weight
    cdef Segments segments
    cdef Row row
    cdef int f, stage
    cdef char* scratch = row_buffers(job, &row)
    if scratch == NULL:
        return 0
    shares = bytearray(chunks * MAX_FOLDS * sizeof(double))
    segments.job, segments.row, segments.folded = job, &row, <double*><char*>shares
    try:
        for index in range(job.count):
            chunk_weights(job, index, 1, &label, &weight)
            put(job.work, <char*>&folded[0], 0)
            job.correct_by_chunk[index] = 0
            row.index, row.label, row.weight = index, label, weight
            if weight == 0:
                leave_out(job, &row)
            else:
                begin_row(job, &row)
                for stage in range(job.program.stages):
                    begin_pass(job, &row, stage, folded)
                    segments.stage = stage
                    while True:
                        run_chunks(segment_chunk, &segments, chunks, nanoseconds / job.count / job.program.stages)
                        for chunk in range(chunks):
                            for f in range(job.program.folds_of[stage]):
                                join_folds(&job.program.folds[stage][f], &folded[f], segments.folded[chunk * MAX_FOLDS + f])
                        if not end_pass(job, &row, stage, folded):
                            break
                job.correct_by_chunk[index] = others_of(job, &row)
                put(job.work, <char*>&folded[0], value_of(job, &row))
            finish_values(job, index, index, 1, <char*>&folded[0])
    finally:
        free(scratch)
    return 0


cdef void join_folds(const Fold* fold, double* so_far, double part) noexcept nogil:
    if fold.is_sum:
        so_far[0] += part
    elif part > so_far[0] or part != part:
        so_far[0] = part


cdef bint others_of(const RowJob* job, const Row* row) noexcept nogil:
    """Store what is wanted of the row besides; returns whether its first largest element is its label's."""
    cdef Py_ssize_t index
    cdef double nothing = 0
    if job.other_number >= 0:
        job.other.store(<char*>row.numbers + job.other_number * job.work.itemsize if row.weight != 0 else <char*>&nothing, place(&job.other, row.index), 0, 1)
    if not job.predicts:
        return False
    index = job.work.first_largest(row.rows[0], job.length)
    if job.predicted.data != NULL:
        (<Py_ssize_t*>place(&job.predicted, row.index))[0] = index
    return row.weight != 0 and index == row.label


cdef void finish_values(const RowJob* job, Py_ssize_t chunk, Py_ssize_t first, Py_ssize_t count, char* values) noexcept nogil:
    cdef Py_ssize_t t, start
    cdef double total = 0
    if job.sums:
        for t in range((count + TILE - 1) // TILE):
            start = t * TILE
            total += job.work.sum(values + start * job.work.itemsize, min(<Py_ssize_t>TILE, count - start))
        job.sums_by_chunk[chunk] = total
    elif job.value.data != NULL:
        scatter(&job.value, first, count, values, job.work.itemsize)


cdef void run_across(const RowJob* job, const Run* run, char* planes, Py_ssize_t plane, Py_ssize_t n) noexcept nogil:
    """As `Tilework.run`, for rows side by side."""
    cdef double[MOST_SIDE_BY_SIDE] sums
    cdef Py_ssize_t c
    memset(sums, 0, n * sizeof(double))
    for c in range(job.length):
        job.work.run_on(planes + (job.length - 1 - c if run.backwards else c) * plane, sums, n)


cdef void across_chunk(void* context, Py_ssize_t chunk) noexcept nogil:
    """A group of rows side by side: the first elements of all, then the second ones ..."""
    cdef const RowJob* job = <const RowJob*>context
    cdef const RowProgram* program = job.program
    cdef const Tilework* work = job.work
    cdef Py_ssize_t itemsize = work.itemsize
    cdef Py_ssize_t first = chunk * job.group
    cdef Py_ssize_t n = min(job.group, job.count - first)
    # A plane holds one element of each row; a stagger keeps them out of each other's way in the cache.
    cdef Py_ssize_t plane = (job.group * itemsize + 63) // 64 * 64 + 64
    cdef Py_ssize_t whole = plane * job.length
    cdef Py_ssize_t[MOST_SIDE_BY_SIDE] labels
    cdef double[MOST_SIDE_BY_SIDE] weights
    cdef char* rows[MAX_ROWS]
    cdef char* here[MAX_ROWS]
    cdef Py_ssize_t[MAX_ROWS] steps
    cdef char* outputs[MAX_OUTPUTS]
    cdef char* columns[MAX_OUTPUTS]
    cdef void* tiles[MAX_LOOP_ARRAYS]
    cdef const Loop* loop
    cdef const Fold* fold
    cdef const RowOperand* output
    cdef Operand shifted
    cdef char* scratch
    cdef char* numbers
    cdef char* scales
    cdef char* names
    cdef char* predicted
    cdef char* source
    cdef char* target
    cdef Py_ssize_t size, step, c, index, repeats, correct = 0
    cdef double start
    cdef int k, f
    size = (program.numbers + 3) * plane + program.outputs * whole
    for k in range(program.rows):
        if k >= job.inputs and program.kept[k] or k < job.inputs and not job.rows[k].across:
            size += whole
    scratch = <char*>malloc(size + 64)
    if scratch == NULL:
        job.out_of_memory[0] = True
        return
    numbers = aligned(scratch)
    scales = numbers + program.numbers * plane
    # The labels as numbers of the kernels' type.
    names = scales + plane
    predicted = names + plane
    size = (program.numbers + 3) * plane
    for k in range(program.outputs):
        outputs[k] = numbers + size
        size += whole
    for k in range(program.rows):
        rows[k] = numbers
        steps[k] = 0
        if k < job.inputs and job.rows[k].across:
            rows[k] = place(&job.rows[k].rows, first)
            steps[k] = job.rows[k].stride
        elif k < job.inputs or program.kept[k]:
            rows[k] = numbers + size
            steps[k] = plane
            size += whole
        if k >= job.inputs or job.rows[k].across:
            continue
        if job.rows[k].packed:
            work.split(place(&job.rows[k].rows, first), job.length, rows[k], plane // itemsize, n)
        else:
            shifted = job.rows[k].rows
            for c in range(job.length):
                gather(&shifted, first, n, rows[k] + c * plane, itemsize)
                shifted.data += job.rows[k].stride
    chunk_weights(job, first, n, labels, weights)
    for k in range(job.given):
        gather(&job.numbers[k], first, n, numbers + k * plane, itemsize)
    work.load[I64](<char*>labels, 8, names, n)
    for k in range(program.picks):
        source, target, step = rows[program.pick_row[k]], numbers + program.pick_number[k] * plane, steps[program.pick_row[k]]
        if job.length < LONG_ROW:
            work.pick(source, step // itemsize, job.length, names, target, n)
        else:
            for c in range(n):
                memcpy(target + c * itemsize, source + labels[c] * step + c * itemsize, itemsize)
    for k in range(program.stages):
        loop = &program.steps[k]
        if loop.count:
            arrange(loop, tiles, rows, 0, numbers, plane, outputs)
            loop.kernel(n, tiles, job.uniforms)
        loop, repeats = &program.across[k], 0
        while True:
            for f in range(program.folds_of[k]):
                fold = &program.folds[k][f]
                start = 0 if fold.is_sum else -INFINITY
                work.load[F64](<char*>&start, 0, numbers + fold.number * plane, n)
            for c in range(job.length if loop.count else 0):
                for f in range(program.rows):
                    here[f] = rows[f] + c * steps[f]
                for f in range(program.outputs):
                    columns[f] = outputs[f] + c * plane
                arrange(loop, tiles, here, 0, numbers, plane, columns)
                loop.kernel(n, tiles, job.uniforms)
            repeats += 1
            if not rises(job, k, numbers, plane, repeats, n):
                break
        for f in range(program.runs_of[k]):
            run_across(job, &program.runs[k][f], rows[program.runs[k][f].row], plane, n)
    work.times(weights, job.factor, scales, n)
    for f in range(program.outputs):
        output = &job.outputs[f]
        if program.at_label[f] >= 0:
            source = numbers + program.at_label[f] * plane
            if job.length < LONG_ROW:
                work.add(outputs[f], plane // itemsize, job.length, names, source, n)
            else:
                for c in range(n):
                    add_to(work, outputs[f] + labels[c] * plane + c * itemsize, source + c * itemsize)
        shifted = output.rows
        for c in range(job.length):
            source = outputs[f] + c * plane
            work.weigh(source, scales, 1.0, place(&shifted, first) if output.across else source, n)
            if not output.across and not output.packed:
                scatter(&shifted, first, n, source, itemsize)
            shifted.data += output.stride
        if output.packed and not output.across:
            work.join(outputs[f], plane // itemsize, place(&output.rows, first), job.length, n)
    work.times(weights, 1.0, scales, n)
    work.weigh(numbers + program.value * plane, scales, 1.0, numbers + program.value * plane, n)
    finish_values(job, chunk, first, n, numbers + program.value * plane)
    if job.other_number >= 0:
        source = numbers + job.other_number * plane
        for c in range(n):
            if weights[c] == 0:
                put(work, source + c * itemsize, 0)
        scatter(&job.other, first, n, source, itemsize)
    if job.predicts:
        # Scales are not needed any more.
        work.predict(rows[0], steps[0] // itemsize, job.length, scales, predicted, n)
        for c in range(n):
            index = <Py_ssize_t>as_double(work, predicted + c * itemsize)
            correct += weights[c] != 0 and index == labels[c]
            if job.predicted.data != NULL:
                (<Py_ssize_t*>place(&job.predicted, first + c))[0] = index
    job.correct_by_chunk[chunk] = correct
    free(scratch)


# --- plans and calls ------------------------------------------------------------------------------------------------------

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

    def __cinit__(self, *args):
        memset(self.programs, 0, sizeof(self.programs))

    def __dealloc__(self):
        for want in range(16):
            for precision in range(2):
                PyMem_Free(self.programs[want][precision])

    def __init__(self, who, variant, inputs, kinds, domains, differentiable, vector, axis, ignore_index):
        self.who, self.variant, self.inputs, self.domains, self.others = who, variant, inputs, domains, {}
        self.differentiable, self.axis, self.ignore_index = differentiable, axis, ignore_index
        self.fill = <uniforms_function>address(variant + "_uniforms")
        self.parameter_count = len(vector)
        for i, value in enumerate(vector):
            self.parameters[i] = value
        for i, kind in enumerate(kinds):
            self.kinds[i] = KINDS[kind]

    def evaluate(self, int want, tuple inputs, object sample_weight, str reduction, object normalizer, object value_out, object grad_out, object hess_out, bint check, tuple others=()):
        """As `Plan.evaluate`; what `others` names is returned besides, as a dictionary in the fourth place."""
        cdef Held held
        held.count = 0
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
        layout = _tiles.LAYOUTS[f"{self.variant}_{letters}"]
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
            loop.kernel = <kernel_function>address(name)
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
    return (job.count + job.group - 1) // job.group


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
