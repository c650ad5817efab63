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
