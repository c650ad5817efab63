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
    # Of longer rows, so many go through their passes together, and so many bytes of one input.
    MOST_BATCHED = 16
    BATCHED = 8192
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
    Py_ssize_t batch
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


cdef void scan_rows(void* context, Py_ssize_t chunk, char* scratch) noexcept nogil:
    """Look at a chunk's labels, and add up what its rows count in a mean: their weights, by their classes'."""
    cdef const RowJob* job = <const RowJob*>context
    cdef Py_ssize_t* labels = <Py_ssize_t*>carve(&scratch, TILE_BYTES)
    cdef double* weights = <double*>scratch
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


cdef struct Batch:
    # Rows that go through their passes together: a step computes the numbers of all of them at once.
    Py_ssize_t first
    Py_ssize_t count
    Py_ssize_t* labels
    double* weights
    # The arrays' first rows, NULL for what no later pass reads, and how far apart their rows are.
    char* rows[MAX_ROWS]
    Py_ssize_t[MAX_ROWS] strides
    # The first number of each row, then the second ones ...; folds on their way, those of each row together.
    char* numbers
    Py_ssize_t spacing
    double* folded
    # Of a list of labels: how many there are, and the results so far.
    Py_ssize_t* list
    Py_ssize_t listed
    char* sums[MAX_OUTPUTS]

cdef struct Walk:
    # The arrays of a pass's kernel, and what its folds read: where they begin, the bytes from row to row and from element to
    # element. Results, and what goes into folds and no further, are tiles that every row overwrites.
    char* arrays[MAX_LOOP_ARRAYS]
    Py_ssize_t[MAX_LOOP_ARRAYS] to_next_row
    Py_ssize_t[MAX_LOOP_ARRAYS] to_next_element
    char* folds[MAX_FOLDS]
    Py_ssize_t[MAX_FOLDS] fold_to_next_row
    Py_ssize_t[MAX_FOLDS] fold_to_next_element
    char* outputs[MAX_OUTPUTS]
    # Where rows are stored past the caches.
    Stream* streams


cdef Py_ssize_t whole_row(const RowJob* job) noexcept nogil:
    return (job.length * job.work.itemsize + 127) // 64 * 64


cdef inline bint is_buffered(const RowJob* job, int k) noexcept nogil:
    """Whether rows of this array, an input or what passes write, are held in memory of the batch's own."""
    return not job.rows[k].along if k < job.inputs else job.program.kept[k]


cdef size_t batch_room(const RowJob* job) noexcept nogil:
    """The memory of a batch: what of its rows does not lie ready."""
    cdef const RowProgram* program = job.program
    cdef Py_ssize_t whole = whole_row(job)
    cdef size_t size = MOST_BATCHED * (MAX_FOLDS * sizeof(double) + program.numbers * job.work.itemsize)
    cdef int k
    for k in range(program.rows):
        if is_buffered(job, k):
            size += job.batch * whole
    if job.members >= 0:
        size += program.outputs * whole + whole_lines(job.length * sizeof(Py_ssize_t))
    return size


cdef char* set_up_batch(const RowJob* job, Batch* batch, char* scratch) noexcept nogil:
    """Divide `batch_room` bytes among the batch's arrays; returns what lies behind them."""
    cdef const RowProgram* program = job.program
    cdef Py_ssize_t whole = whole_row(job)
    cdef int k
    batch.spacing = MOST_BATCHED * job.work.itemsize
    batch.folded = <double*>carve(&scratch, MOST_BATCHED * MAX_FOLDS * sizeof(double))
    batch.numbers = carve(&scratch, program.numbers * batch.spacing)
    for k in range(program.rows):
        batch.rows[k] = NULL
        batch.strides[k] = whole
        if is_buffered(job, k):
            batch.rows[k] = carve(&scratch, job.batch * whole)
        elif k < job.inputs:
            batch.strides[k] = job.rows[k].rows.strides[0]
    if job.members >= 0:
        for k in range(program.outputs):
            batch.sums[k] = carve(&scratch, whole)
        batch.list = <Py_ssize_t*>carve(&scratch, job.length * sizeof(Py_ssize_t))
    return scratch


cdef size_t pass_room(const RowJob* job) noexcept nogil:
    """The memory for a pass's tiles: see `lay_out_pass`."""
    return (job.program.outputs + job.program.rows + 1) * TILE_BYTES


cdef size_t along_room(const RowJob* job) noexcept nogil:
    """The memory that a thread needs for `along_chunk`."""
    return batch_room(job) + 3 * TILE_BYTES + pass_room(job)


cdef void begin_batch(const RowJob* job, Batch* batch) noexcept nogil:
    """Find or load the inputs and numbers of the batch's rows."""
    cdef Py_ssize_t r
    cdef int k
    for k in range(job.inputs):
        if k == job.members:
            read_list(job, batch)
        elif job.rows[k].along:
            batch.rows[k] = place(&job.rows[k].rows, batch.first)
        else:
            for r in range(batch.count):
                if batch.weights[r] != 0 or job.predicts:
                    job.rows[k].rows.load(place(&job.rows[k].rows, batch.first + r), job.rows[k].stride, batch.rows[k] + r * batch.strides[k], job.length)
    for k in range(job.given):
        gather(&job.numbers[k], batch.first, batch.count, batch.numbers + k * batch.spacing, job.work.itemsize)
    pick_numbers(job, batch)


cdef void pick_numbers(const RowJob* job, Batch* batch) noexcept nogil:
    cdef const RowProgram* program = job.program
    cdef Py_ssize_t r, itemsize = job.work.itemsize
    cdef const char* row
    cdef int k
    for k in range(program.picks):
        for r in range(batch.count):
            row = batch.rows[program.pick_row[k]] + r * batch.strides[program.pick_row[k]]
            memcpy(batch.numbers + program.pick_number[k] * batch.spacing + r * itemsize, row + batch.labels[r] * itemsize, itemsize)


cdef void read_list(const RowJob* job, Batch* batch) noexcept nogil:
    """The labels of the batch's one row, up to -1, and their mark among the elements."""
    cdef Py_ssize_t itemsize = job.work.itemsize
    cdef char* members = batch.rows[job.members]
    job.lists.rows.load(place(&job.lists.rows, batch.first), job.lists.stride, <char*>batch.list, job.length)
    memset(members, 0, job.length * itemsize)
    batch.listed = 0
    # Another label outside than -1 can only have been written since the labels were looked at.
    while batch.listed < job.length and 0 <= batch.list[batch.listed] < job.length:
        put(job.work, members + batch.list[batch.listed] * itemsize, 1)
        batch.listed += 1


cdef void begin_pass(const RowJob* job, Batch* batch, int stage) noexcept nogil:
    """Compute the numbers that a pass is to know, and empty its folds."""
    cdef const Loop* step = &job.program.steps[stage]
    cdef void* tiles[MAX_LOOP_ARRAYS]
    if step.count:
        arrange(step, tiles, NULL, 0, batch.numbers, batch.spacing, NULL)
        step.kernel(batch.count, tiles, job.uniforms)
    empty_folds(job.program, stage, batch.folded, batch.count)


cdef inline void empty_folds(const RowProgram* program, int stage, double* folded, Py_ssize_t rows) noexcept nogil:
    cdef Py_ssize_t r
    cdef int f
    for r in range(rows):
        for f in range(program.folds_of[stage]):
            folded[r * MAX_FOLDS + f] = 0 if program.folds[stage][f].is_sum else -INFINITY


cdef void lay_out_pass(const RowJob* job, const Batch* batch, int stage, char* memory, Stream* streams, Walk* walk) noexcept nogil:
    """Where the kernel of a pass along rows finds its arrays; `memory` is for its tiles."""
    cdef const RowProgram* program = job.program
    cdef const Loop* loop = &program.along[stage]
    cdef Py_ssize_t itemsize = job.work.itemsize
    cdef char* tiles[MAX_ROWS]
    cdef int k, f, code, used = 0
    walk.streams = streams
    for k in range(program.outputs):
        walk.outputs[k] = memory + used * TILE_BYTES
        used += 1
    for k in range(loop.count):
        code = loop.arrays[k]
        if code >= OUTPUTS_FROM:
            walk.arrays[k], walk.to_next_row[k], walk.to_next_element[k] = walk.outputs[code - OUTPUTS_FROM], 0, 0
        elif code >= NUMBERS_FROM:
            walk.arrays[k], walk.to_next_row[k], walk.to_next_element[k] = batch.numbers + (code - NUMBERS_FROM) * batch.spacing, itemsize, 0
        elif batch.rows[code] == NULL:
            tiles[code] = memory + used * TILE_BYTES
            walk.arrays[k], walk.to_next_row[k], walk.to_next_element[k] = tiles[code], 0, 0
            used += 1
        else:
            walk.arrays[k], walk.to_next_row[k], walk.to_next_element[k] = batch.rows[code], batch.strides[code], itemsize
    for f in range(program.folds_of[stage]):
        code = program.folds[stage][f].row
        if batch.rows[code] == NULL:
            walk.folds[f], walk.fold_to_next_row[f], walk.fold_to_next_element[f] = tiles[code], 0, 0
        else:
            walk.folds[f], walk.fold_to_next_row[f], walk.fold_to_next_element[f] = batch.rows[code], batch.strides[code], itemsize


cdef void run_segment(const RowJob* job, const Batch* batch, const Walk* walk, int stage, Py_ssize_t r, Py_ssize_t start, double* folded) noexcept nogil:
    """One segment of a row in one pass, tile by tile; adds to the folds. The last pass stores the results."""
    cdef const RowProgram* program = job.program
    cdef const Tilework* work = job.work
    cdef const Loop* loop = &program.along[stage]
    cdef Py_ssize_t stop = min(start + CHUNK, job.length)
    cdef void* tiles[MAX_LOOP_ARRAYS]
    cdef double[MAX_FOLDS] part
    cdef const char* source
    cdef double most
    cdef Py_ssize_t n
    cdef int k, f
    for f in range(program.folds_of[stage]):
        part[f] = 0
    while start < stop:
        n = min(<Py_ssize_t>TILE, stop - start)
        if loop.count:
            for k in range(loop.count):
                tiles[k] = walk.arrays[k] + r * walk.to_next_row[k] + start * walk.to_next_element[k]
            loop.kernel(n, tiles, job.uniforms)
        for f in range(program.folds_of[stage]):
            source = walk.folds[f] + r * walk.fold_to_next_row[f] + start * walk.fold_to_next_element[f]
            if program.folds[stage][f].is_sum:
                part[f] += work.sum(source, n)
            else:
                most = work.largest(source, n)
                if most > folded[f] or most != most:
                    folded[f] = most
        if stage == program.stages - 1:
            store_tile(job, batch, walk, r, start, n)
        start += n
    for f in range(program.folds_of[stage]):
        if program.folds[stage][f].is_sum:
            folded[f] += part[f]


cdef void store_tile(const RowJob* job, const Batch* batch, const Walk* walk, Py_ssize_t r, Py_ssize_t start, Py_ssize_t n) noexcept nogil:
    """Add what the label's element has besides; then weigh and store, or add to what the row's other labels gave."""
    cdef const RowProgram* program = job.program
    cdef Py_ssize_t i, itemsize = job.work.itemsize
    cdef int f
    for f in range(program.outputs):
        if program.at_label[f] >= 0 and start <= batch.labels[r] < start + n:
            add_to(job.work, walk.outputs[f] + (batch.labels[r] - start) * itemsize, batch.numbers + program.at_label[f] * batch.spacing + r * itemsize)
        if job.members < 0:
            put_tile(job, batch, r, f, walk.outputs[f], start, n, walk.streams)
        elif itemsize == 8:
            for i in range(n):
                (<double*>batch.sums[f])[start + i] += (<double*>walk.outputs[f])[i]
        else:
            for i in range(n):
                (<float*>batch.sums[f])[start + i] += (<float*>walk.outputs[f])[i]


cdef inline void put_tile(const RowJob* job, const Batch* batch, Py_ssize_t r, int f, char* tile, Py_ssize_t start, Py_ssize_t n, Stream* streams) noexcept nogil:
    """Weigh and store."""
    cdef const Tilework* work = job.work
    cdef const RowOperand* target = &job.outputs[f]
    cdef char* out = place(&target.rows, batch.first + r) + start * target.stride
    cdef double factor = job.factor * batch.weights[r]
    if not target.along:
        work.scale(tile, factor, tile, n)
        target.rows.store(tile, out, target.stride, n)
    elif job.stream:
        work.stream(tile, factor, out, n, &streams[f])
    else:
        work.scale(tile, factor, out, n)


cdef void begin_streams(const RowJob* job, Stream* streams) noexcept nogil:
    cdef int f
    for f in range(job.program.outputs if job.stream else 0):
        begin_stream(&streams[f])


cdef void end_streams(const RowJob* job, Stream* streams) noexcept nogil:
    cdef int f
    for f in range(job.program.outputs if job.stream else 0):
        end_stream(&streams[f])


cdef bint end_pass(const RowJob* job, Batch* batch, int stage, Py_ssize_t repeats) noexcept nogil:
    """Enter the folds among the rows' numbers, and sum what runs; whether the pass is to be repeated, the folds empty again."""
    cdef const Run* run
    cdef char* number
    cdef Py_ssize_t r
    cdef int f
    for f in range(job.program.folds_of[stage]):
        number = batch.numbers + job.program.folds[stage][f].number * batch.spacing
        for r in range(batch.count):
            put(job.work, number + r * job.work.itemsize, batch.folded[r * MAX_FOLDS + f])
    for f in range(job.program.runs_of[stage]):
        run = &job.program.runs[stage][f]
        for r in range(batch.count):
            job.work.run(batch.rows[run.row] + r * batch.strides[run.row], job.length, run.backwards)
    if not rises(job, stage, batch.numbers, batch.spacing, repeats, batch.count):
        return False
    empty_folds(job.program, stage, batch.folded, batch.count)
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


cdef void leave_out(const RowJob* job, Py_ssize_t index, char* zeros) noexcept nogil:
    """A row without weight: its results are 0; `zeros` is memory for a tile."""
    cdef const RowOperand* target
    cdef Py_ssize_t start
    cdef int f
    memset(zeros, 0, min(<Py_ssize_t>TILE, job.length) * job.work.itemsize)
    for f in range(job.program.outputs):
        target = &job.outputs[f]
        start = 0
        while start < job.length:
            target.rows.store(zeros, place(&target.rows, index) + start * target.stride, target.stride, min(<Py_ssize_t>TILE, job.length - start))
            start += TILE


cdef double value_of(const RowJob* job, const Batch* batch, Py_ssize_t r) noexcept nogil:
    return as_double(job.work, batch.numbers + job.program.value * batch.spacing + r * job.work.itemsize) * batch.weights[r]


cdef void fetch(const RowJob* job, Py_ssize_t index) noexcept nogil:
    """Ask for a row's inputs ahead of their time: the memory rests while rows in the cache are computed."""
    cdef Py_ssize_t offset, size = job.length * job.work.itemsize
    cdef char* source
    cdef int k
    for k in range(job.inputs):
        if job.rows[k].along and size <= FETCHED:
            source = place(&job.rows[k].rows, index)
            for offset in range(0, size, 64):
                prefetch(source + offset)


cdef void run_batch(const RowJob* job, Batch* batch, Py_ssize_t last, char* memory, Stream* streams) noexcept nogil:
    """All passes over a batch; the next one, if it comes before `last`, is asked for row by row."""
    cdef Py_ssize_t r, start, repeats, following
    cdef Walk walk
    cdef int stage
    for stage in range(job.program.stages):
        begin_pass(job, batch, stage)
        lay_out_pass(job, batch, stage, memory, streams, &walk)
        repeats = 0
        while True:
            for r in range(batch.count):
                following = batch.first + batch.count + r
                if stage == 1 and following < last:
                    fetch(job, following)
                start = 0
                while start < job.length and batch.weights[r] != 0:
                    run_segment(job, batch, &walk, stage, r, start, batch.folded + r * MAX_FOLDS)
                    start += CHUNK
            repeats += 1
            if not end_pass(job, batch, stage, repeats):
                break


cdef double run_list(const RowJob* job, Batch* batch, Py_ssize_t last, char* memory, Stream* streams) noexcept nogil:
    """The passes over the batch's one row for each of its labels: values and results add up."""
    cdef Py_ssize_t start, k
    cdef double total = 0
    cdef int f
    for f in range(job.program.outputs):
        memset(batch.sums[f], 0, job.length * job.work.itemsize)
    for k in range(batch.listed):
        batch.labels[0] = batch.list[k]
        pick_numbers(job, batch)
        run_batch(job, batch, last if k == batch.listed - 1 else 0, memory, streams)
        total += value_of(job, batch, 0)
    for f in range(job.program.outputs):
        start = 0
        while start < job.length:
            put_tile(job, batch, 0, f, batch.sums[f] + start * job.work.itemsize, start, min(<Py_ssize_t>TILE, job.length - start), streams)
            start += TILE
    return total


cdef void along_chunk(void* context, Py_ssize_t chunk, char* scratch) noexcept nogil:
    """A group of rows, batch after batch: each goes through its passes in tiles."""
    cdef const RowJob* job = <const RowJob*>context
    cdef const Tilework* work = job.work
    cdef Py_ssize_t first = chunk * job.group
    cdef Py_ssize_t last = min(first + job.group, job.count)
    cdef Py_ssize_t* labels = <Py_ssize_t*>carve(&scratch, TILE_BYTES)
    cdef double* weights = <double*>carve(&scratch, TILE_BYTES)
    cdef char* values = carve(&scratch, TILE_BYTES)
    cdef Batch batch
    cdef Py_ssize_t r, correct = 0
    cdef double total = 0
    cdef Stream[MAX_OUTPUTS] streams
    cdef char* memory = set_up_batch(job, &batch, scratch)
    begin_streams(job, streams)
    chunk_weights(job, first, last - first, labels, weights)
    batch.first = first
    while batch.first < last:
        batch.count = min(job.batch, last - batch.first)
        batch.labels, batch.weights = labels + (batch.first - first), weights + (batch.first - first)
        begin_batch(job, &batch)
        if job.members < 0:
            run_batch(job, &batch, last, memory, streams)
        elif batch.weights[0] != 0:
            total = run_list(job, &batch, last, memory, streams)
        for r in range(batch.count):
            if batch.weights[r] == 0:
                leave_out(job, batch.first + r, memory)
            put(work, values + (batch.first + r - first) * work.itemsize, 0 if batch.weights[r] == 0 else total if job.members >= 0 else value_of(job, &batch, r))
            correct += others_of(job, &batch, r)
        batch.first += batch.count
    end_streams(job, streams)
    job.correct_by_chunk[chunk] = correct
    finish_values(job, chunk, first, last - first, values)


cdef struct Segments:
    # One pass over one row, shared between threads.
    const RowJob* job
    const Batch* batch
    int stage
    double* folded


cdef void segment_chunk(void* context, Py_ssize_t chunk, char* memory) noexcept nogil:
    cdef const Segments* segments = <const Segments*>context
    cdef double* folded = segments.folded + chunk * MAX_FOLDS
    cdef Stream[MAX_OUTPUTS] streams
    cdef Walk walk
    begin_streams(segments.job, streams)
    empty_folds(segments.job.program, segments.stage, folded, 1)
    lay_out_pass(segments.job, segments.batch, segments.stage, memory, streams, &walk)
    run_segment(segments.job, segments.batch, &walk, segments.stage, 0, chunk * CHUNK, folded)
    end_streams(segments.job, streams)


cdef size_t long_rows_room(const RowJob* job) noexcept nogil:
    """The memory that the threads of `run_long_rows` share."""
    return batch_room(job) + TILE_BYTES + (job.length + CHUNK - 1) // CHUNK * MAX_FOLDS * sizeof(double)


cdef int run_long_rows(RowJob* job, const Scratch* scratch, char* shared) except -1:
    """As the chunks of rows along, to the last bit, with the segments of each row shared between threads: for few long rows."""
    cdef Py_ssize_t label, index
    cdef double weight, value
    cdef Segments segments
    cdef Batch batch
    shared = set_up_batch(job, &batch, shared)
    segments.job, segments.batch = job, &batch
    segments.folded = <double*>(shared + whole_lines(TILE_BYTES))
    batch.count, batch.labels, batch.weights = 1, &label, &weight
    for index in range(job.count):
        chunk_weights(job, index, 1, &label, &weight)
        batch.first = index
        value = 0
        begin_batch(job, &batch)
        if weight == 0:
            leave_out(job, index, shared)
        else:
            run_long_row(job, &batch, &segments, scratch)
            value = value_of(job, &batch, 0)
        job.correct_by_chunk[index] = others_of(job, &batch, 0)
        put(job.work, <char*>batch.folded, value)
        finish_values(job, index, index, 1, <char*>batch.folded)
    return 0


cdef int run_long_row(RowJob* job, Batch* batch, Segments* segments, const Scratch* scratch) except -1:
    """All passes over one row."""
    cdef Py_ssize_t chunk, repeats, chunks = (job.length + CHUNK - 1) // CHUNK
    cdef int f, stage
    for stage in range(job.program.stages):
        begin_pass(job, batch, stage)
        segments.stage, repeats = stage, 0
        while True:
            run_chunks(segment_chunk, segments, chunks, scratch)
            for chunk in range(chunks):
                for f in range(job.program.folds_of[stage]):
                    join_folds(&job.program.folds[stage][f], &batch.folded[f], segments.folded[chunk * MAX_FOLDS + f])
            repeats += 1
            if not end_pass(job, batch, stage, repeats):
                break
    return 0


cdef void join_folds(const Fold* fold, double* so_far, double part) noexcept nogil:
    if fold.is_sum:
        so_far[0] += part
    elif part > so_far[0] or part != part:
        so_far[0] = part


cdef bint others_of(const RowJob* job, const Batch* batch, Py_ssize_t r) noexcept nogil:
    """Store what is wanted of the row besides; returns whether its first largest element is its label's."""
    cdef Py_ssize_t index
    cdef double nothing = 0
    cdef const char* number
    if job.other_number >= 0:
        number = batch.numbers + job.other_number * batch.spacing + r * job.work.itemsize
        job.other.store(number if batch.weights[r] != 0 else <char*>&nothing, place(&job.other, batch.first + r), 0, 1)
    if not job.predicts:
        return False
    index = job.work.first_largest(batch.rows[0] + r * batch.strides[0], job.length)
    if job.predicted.data != NULL:
        (<Py_ssize_t*>place(&job.predicted, batch.first + r))[0] = index
    return batch.weights[r] != 0 and index == batch.labels[r]


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


cdef void run_across(const RowJob* job, const Run* run, char* planes, Py_ssize_t plane, double* sums, Py_ssize_t n) noexcept nogil:
    """As `Tilework.run`, for rows side by side."""
    cdef Py_ssize_t c
    memset(sums, 0, n * sizeof(double))
    for c in range(job.length):
        job.work.run_on(planes + (job.length - 1 - c if run.backwards else c) * plane, sums, n)


cdef struct Planes:
    # A group of rows side by side: the first elements of all, then the second ones ...
    Py_ssize_t first
    Py_ssize_t count
    # From plane to plane, each one element of all rows; and from element to element of an array, 0 for what every element overwrites.
    Py_ssize_t plane
    char* rows[MAX_ROWS]
    Py_ssize_t[MAX_ROWS] steps
    char* outputs[MAX_OUTPUTS]
    char* numbers
    Py_ssize_t* labels
    double* weights
    # Factors of the rows; the labels as numbers of the kernels' type; the first largest elements.
    char* scales
    char* names
    char* predicted
    double* sums


cdef Py_ssize_t plane_size(const RowJob* job) noexcept nogil:
    """A stagger keeps planes out of each other's way in the cache."""
    return (job.group * job.work.itemsize + 63) // 64 * 64 + 64


cdef inline bint is_plane_buffered(const RowJob* job, int k) noexcept nogil:
    return not job.rows[k].across if k < job.inputs else job.program.kept[k]


cdef size_t across_room(const RowJob* job) noexcept nogil:
    """The memory that a thread needs for `across_chunk`."""
    cdef const RowProgram* program = job.program
    cdef Py_ssize_t plane = plane_size(job)
    cdef size_t size = 3 * TILE_BYTES + (program.numbers + 3) * plane + program.outputs * plane * job.length
    cdef int k
    for k in range(program.rows):
        if is_plane_buffered(job, k):
            size += plane * job.length
    return size


cdef void set_up_planes(const RowJob* job, Planes* planes, char* scratch) noexcept nogil:
    cdef const RowProgram* program = job.program
    cdef Py_ssize_t plane = plane_size(job)
    cdef int k
    planes.plane = plane
    planes.numbers = carve(&scratch, program.numbers * plane)
    planes.scales = carve(&scratch, plane)
    planes.names = carve(&scratch, plane)
    planes.predicted = carve(&scratch, plane)
    for k in range(program.outputs):
        planes.outputs[k] = carve(&scratch, plane * job.length)
    for k in range(program.rows):
        planes.rows[k], planes.steps[k] = planes.numbers, 0
        if is_plane_buffered(job, k):
            planes.rows[k], planes.steps[k] = carve(&scratch, plane * job.length), plane
        elif k < job.inputs:
            planes.rows[k], planes.steps[k] = place(&job.rows[k].rows, planes.first), job.rows[k].stride
    planes.labels = <Py_ssize_t*>carve(&scratch, TILE_BYTES)
    planes.weights = <double*>carve(&scratch, TILE_BYTES)
    planes.sums = <double*>scratch


cdef void load_planes(const RowJob* job, Planes* planes) noexcept nogil:
    """The rows, their numbers, labels and weights, and the elements at the labels."""
    cdef const RowProgram* program = job.program
    cdef const Tilework* work = job.work
    cdef Py_ssize_t itemsize = work.itemsize, n = planes.count, step, c
    cdef Operand shifted
    cdef char* source
    cdef char* target
    cdef int k
    for k in range(job.inputs):
        if job.rows[k].across:
            continue
        if job.rows[k].packed:
            work.split(place(&job.rows[k].rows, planes.first), job.length, planes.rows[k], planes.plane // itemsize, n)
        else:
            shifted = job.rows[k].rows
            for c in range(job.length):
                gather(&shifted, planes.first, n, planes.rows[k] + c * planes.plane, itemsize)
                shifted.data += job.rows[k].stride
    chunk_weights(job, planes.first, n, planes.labels, planes.weights)
    for k in range(job.given):
        gather(&job.numbers[k], planes.first, n, planes.numbers + k * planes.plane, itemsize)
    work.load[I64](<char*>planes.labels, 8, planes.names, n)
    for k in range(program.picks):
        source, step = planes.rows[program.pick_row[k]], planes.steps[program.pick_row[k]]
        target = planes.numbers + program.pick_number[k] * planes.plane
        if job.length < LONG_ROW:
            work.pick(source, step // itemsize, job.length, planes.names, target, n)
        else:
            for c in range(n):
                memcpy(target + c * itemsize, source + planes.labels[c] * step + c * itemsize, itemsize)


cdef void run_planes(const RowJob* job, Planes* planes) noexcept nogil:
    """All passes over the group."""
    cdef const RowProgram* program = job.program
    cdef const Loop* loop
    cdef const Run* run
    cdef void* tiles[MAX_LOOP_ARRAYS]
    cdef Py_ssize_t repeats
    cdef int k, f
    for k in range(program.stages):
        loop = &program.steps[k]
        if loop.count:
            arrange(loop, tiles, planes.rows, 0, planes.numbers, planes.plane, planes.outputs)
            loop.kernel(planes.count, tiles, job.uniforms)
        repeats = 0
        while True:
            run_plane_pass(job, planes, k)
            repeats += 1
            if not rises(job, k, planes.numbers, planes.plane, repeats, planes.count):
                break
        for f in range(program.runs_of[k]):
            run = &program.runs[k][f]
            run_across(job, run, planes.rows[run.row], planes.plane, planes.sums, planes.count)


cdef void run_plane_pass(const RowJob* job, Planes* planes, int stage) noexcept nogil:
    """One pass, element by element of all rows."""
    cdef const RowProgram* program = job.program
    cdef const Loop* loop = &program.across[stage]
    cdef const Fold* fold
    cdef char* here[MAX_ROWS]
    cdef char* columns[MAX_OUTPUTS]
    cdef void* tiles[MAX_LOOP_ARRAYS]
    cdef Py_ssize_t c
    cdef double start
    cdef int f
    for f in range(program.folds_of[stage]):
        fold = &program.folds[stage][f]
        start = 0 if fold.is_sum else -INFINITY
        job.work.load[F64](<char*>&start, 0, planes.numbers + fold.number * planes.plane, planes.count)
    for c in range(job.length if loop.count else 0):
        for f in range(program.rows):
            here[f] = planes.rows[f] + c * planes.steps[f]
        for f in range(program.outputs):
            columns[f] = planes.outputs[f] + c * planes.plane
        arrange(loop, tiles, here, 0, planes.numbers, planes.plane, columns)
        loop.kernel(planes.count, tiles, job.uniforms)


cdef void store_planes(const RowJob* job, Planes* planes, int f) noexcept nogil:
    """Add what the labels' elements have besides; weigh and store."""
    cdef const RowOperand* output = &job.outputs[f]
    cdef const Tilework* work = job.work
    cdef Py_ssize_t itemsize = work.itemsize, n = planes.count, plane = planes.plane, c
    cdef Operand shifted = output.rows
    cdef char* source
    if job.program.at_label[f] >= 0:
        source = planes.numbers + job.program.at_label[f] * plane
        if job.length < LONG_ROW:
            work.add(planes.outputs[f], plane // itemsize, job.length, planes.names, source, n)
        else:
            for c in range(n):
                add_to(work, planes.outputs[f] + planes.labels[c] * plane + c * itemsize, source + c * itemsize)
    for c in range(job.length):
        source = planes.outputs[f] + c * plane
        work.weigh(source, planes.scales, 1.0, place(&shifted, planes.first) if output.across else source, n)
        if not output.across and not output.packed:
            scatter(&shifted, planes.first, n, source, itemsize)
        shifted.data += output.stride
    if output.packed and not output.across:
        work.join(planes.outputs[f], plane // itemsize, place(&output.rows, planes.first), job.length, n)


cdef Py_ssize_t store_others(const RowJob* job, Planes* planes) noexcept nogil:
    """Store what is wanted of the rows besides; returns how many have the label's element as their first largest."""
    cdef Py_ssize_t itemsize = job.work.itemsize, c, index, correct = 0
    cdef char* source
    if job.other_number >= 0:
        source = planes.numbers + job.other_number * planes.plane
        for c in range(planes.count):
            if planes.weights[c] == 0:
                put(job.work, source + c * itemsize, 0)
        scatter(&job.other, planes.first, planes.count, source, itemsize)
    if job.predicts:
        # Scales are not needed any more.
        job.work.predict(planes.rows[0], planes.steps[0] // itemsize, job.length, planes.scales, planes.predicted, planes.count)
        for c in range(planes.count):
            index = <Py_ssize_t>as_double(job.work, planes.predicted + c * itemsize)
            correct += planes.weights[c] != 0 and index == planes.labels[c]
            if job.predicted.data != NULL:
                (<Py_ssize_t*>place(&job.predicted, planes.first + c))[0] = index
    return correct


cdef void across_chunk(void* context, Py_ssize_t chunk, char* scratch) noexcept nogil:
    """A group of rows side by side."""
    cdef const RowJob* job = <const RowJob*>context
    cdef char* values
    cdef Planes planes
    cdef int f
    planes.first = chunk * job.group
    planes.count = min(job.group, job.count - planes.first)
    set_up_planes(job, &planes, scratch)
    load_planes(job, &planes)
    run_planes(job, &planes)
    job.work.times(planes.weights, job.factor, planes.scales, planes.count)
    for f in range(job.program.outputs):
        store_planes(job, &planes, f)
    values = planes.numbers + job.program.value * planes.plane
    job.work.times(planes.weights, 1.0, planes.scales, planes.count)
    job.work.weigh(values, planes.scales, 1.0, values, planes.count)
    finish_values(job, chunk, planes.first, planes.count, values)
    job.correct_by_chunk[chunk] = store_others(job, &planes)
