# Update rules: all tensors of an optimizer in one call. While a tile is in the cache all is done that a step does to it: unscale
# and clip the gradient, the rule, round, average, copy. How an array is stored is its operand's business, not the rule's. Where a
# rule looks at a tensor as a whole, another pass comes before, which sums what the rule asks for and writes nothing.

from libc.math cimport fabs, frexp, ldexp

from .atomic cimport replace

cdef extern from "denormals.h" nogil:
    uint64_t keep_mode()
    uint64_t flush_denormals()
    void restore_mode(uint64_t mode)
    bint has_overflowed()
    void clear_overflow()

cdef enum:
    # A tile of converted arrays: a step has more of them than a loss, and with their copies they are to stay in the L1 cache.
    STEP = 256
    # Every array of an update.
    ALL = 0xFFFF
    # Pairs of arrays whose extents overlap that an optimizer may have: each is looked at.
    MOST_PAIRS = 1 << 16

cdef struct Update:
    # One tensor: its parameter, gradient and states, which the kernel sees, and what goes with the parameter.
    kernel_function kernel
    const Tilework* work
    Py_ssize_t count
    Py_ssize_t group
    int used
    Operand[MAX_ARRAYS] arrays
    # The rule looks at the tensor as a whole: its numbers are its own, not its group's, for they depend on its length and on
    # sums over it. What is summed `fold` makes of the arrays in `reads`; bits say which of the sums are of squares.
    bint is_whole
    kernel_function fold
    int sums
    uint32_t squares
    uint32_t reads
    # What rounding takes from the parameter; an average of it; a copy in another dtype.
    Operand remainder
    Operand average
    Operand copy
    # Arrays of float16, whose conversions go through denormal numbers: flushed is then for the kernel alone. First of those that
    # are written, then of the gradient of this step too.
    bint writes_f16
    bint has_f16
    # StepArgsed at random: each tensor has numbers of its own.
    bint dithers
    uint64_t seed

cdef struct Factor:
    # What gradients are multiplied by: one number, or where that is no normal number of doubles a product of two.
    double first
    double second
    # Whether it is a single normal number of that precision, or 0, or not finite.
    bint[2] is_plain

cdef struct StepArgs:
    # One step.
    const Update* updates
    const TensorSegments* segments
    const double* uniforms
    # What each group's gradients are multiplied by; how far from 0 they may be then.
    const Factor* factors
    double limit
    bint scales
    # How far averages go towards the parameters.
    double ema_weight
    uint64_t step
    # From the end: the gradients that were measured last are still in the caches.
    bint backwards
    double* squares_by_task
    # Set by whoever meets a parameter or state that left its dtype's range.
    int* overflowed
    # What the rules sum, of each segment: all segments' first sums, then their second ones.
    double* sums_by_segment

cdef struct Span:
    uintptr_t low
    uintptr_t high


cdef inline uint32_t mixed(uint64_t seed, uint64_t step) noexcept nogil:
    """The key of a tensor's random numbers in a step."""
    cdef uint64_t h = seed + step * <uint64_t>0x9E3779B97F4A7C15
    h = (h ^ (h >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    h = (h ^ (h >> 27)) * <uint64_t>0x94D049BB133111EB
    return <uint32_t>(h ^ (h >> 31))


cdef inline char* at_hand(const Operand* a, Py_ssize_t start, Py_ssize_t n, char* scratch, Py_ssize_t itemsize) noexcept nogil:
    """A tile of the operand: its own memory if the kernel may work there, otherwise loaded."""
    if a.direct:
        return a.data + start * itemsize
    gather(a, start, n, scratch, itemsize)
    return scratch


cdef inline void fetch_ahead(const Operand* a, Py_ssize_t start, Py_ssize_t n) noexcept nogil:
    """Ask for elements of the next tile: what is loaded by conversion the processor does not see coming across so many arrays."""
    cdef char* first = a.data + start * a.strides[0]
    cdef Py_ssize_t offset
    for offset in range(0, n * a.strides[0], 64):
        prefetch(first + offset)


cdef void scale_by_parts(const void* tile, const Factor* by, double limit, void* target, Py_ssize_t n, int native) noexcept nogil:
    """As the tile function that scales and clips, for a factor outside the dtype's normal range."""
    cdef Py_ssize_t i
    cdef double x
    cdef float y
    cdef float most = <float>limit
    for i in range(n):
        if native == F64:
            x = (<const double*>tile)[i] * by.first * by.second
            x = limit if x > limit else x
            (<double*>target)[i] = -limit if x < -limit else x
        else:
            y = <float>(<double>(<const float*>tile)[i] * by.first * by.second)
            y = most if y > most else y
            (<float*>target)[i] = -most if y < -most else y


cdef inline double largest_kept(const Operand* a, const Tilework* work) noexcept nogil:
    """The largest number that does not become infinite where the array keeps it."""
    cdef int code
    for code in range(F32, BF16 + 1):
        if a.store == work.store[code]:
            return LARGEST[code]
    return DBL_MAX


cdef void note_overflow(const StepArgs* this, const Update* update, void** tiles, Py_ssize_t n) noexcept nogil:
    """Look for what a step left in tiles of parameters and states that is not finite there. Called where there may be some."""
    cdef double most
    cdef int k
    for k in range(update.used):
        most = largest_kept(&update.arrays[k], update.work)
        if k != 1 and update.work.outside(tiles[k], -most, most, True, n) < n:
            this.overflowed[0] = 1
    clear_overflow()


cdef inline void adjust_tiles(
    const StepArgs* this, const Update* update, uint32_t reads, Py_ssize_t start, Py_ssize_t n, char* adjusted, char* spare, void** tiles
) noexcept nogil:
    """Turn tiles of the arrays in `reads` into what the rule sees: the gradient adjusted, the parameter with what rounding took.

    They are loaded where it is called from: with the loads in here as well a step with float16 takes a third longer.
    """
    cdef const Factor* factor = &this.factors[update.group]
    if this.scales and reads & 2:
        if factor.is_plain[update.work.native]:
            update.work.adjust(tiles[1], factor.first, this.limit, adjusted, n)
        else:
            scale_by_parts(tiles[1], factor, this.limit, adjusted, n, update.work.native)
        tiles[1] = adjusted
    if update.remainder.data != NULL and reads & 1:
        gather(&update.remainder, start, n, spare, update.work.itemsize)
        update.work.plus(tiles[0], spare, 1, n)


cdef void update_segment(const StepArgs* this, const TensorSegment* segment, char* scratch) noexcept nogil:
    cdef const Update* update = &this.updates[segment.update]
    cdef const Tilework* work = update.work
    cdef Py_ssize_t itemsize = work.itemsize
    cdef Py_ssize_t spacing = TILE * itemsize + 192
    cdef char* spare = scratch + MAX_ARRAYS * spacing
    cdef char* tile
    cdef void* tiles[MAX_ARRAYS]
    cdef const double* uniforms = this.uniforms + segment.vector * MAX_UNIFORMS
    cdef Py_ssize_t start = segment.start
    cdef Py_ssize_t n
    cdef uint64_t mode = 0
    cdef uint64_t before = keep_mode()
    cdef Py_ssize_t ahead, size
    cdef bint converts = False
    cdef bint suspicious
    cdef int k
    for k in range(update.used):
        converts = converts or not update.arrays[k].direct
    size = STEP if converts else TILE
    if update.has_f16:
        clear_overflow()
    else:
        flush_denormals()
    while start < segment.stop:
        n = min(size, segment.stop - start)
        for k in range(update.used):
            tiles[k] = at_hand(&update.arrays[k], start - segment.shift if k == 1 else start, n, scratch + k * spacing, itemsize)
        adjust_tiles(this, update, ALL, start, n, scratch + spacing, spare, tiles)
        if converts and start + n < segment.stop:
            ahead = min(size, segment.stop - start - n)
            for k in range(update.used):
                if not update.arrays[k].direct and update.arrays[k].dims == 1 and update.arrays[k].strides[0] > 0:
                    fetch_ahead(&update.arrays[k], start + n - (segment.shift if k == 1 else 0), ahead)
        if update.has_f16:
            mode = flush_denormals()
        update.kernel(n, tiles, uniforms)
        suspicious = has_overflowed() or update.writes_f16
        if update.has_f16:
            restore_mode(mode)
        if update.average.data != NULL:
            tile = at_hand(&update.average, start, n, spare, itemsize)
            work.blend(tile, tiles[0], this.ema_weight, n)
            if tile == spare:
                scatter(&update.average, start, n, tile, itemsize)
        if update.dithers:
            work.dither(<float*>tiles[0], mixed(update.seed, this.step), start, n)
        for k in range(update.used):
            if k != 1 and not update.arrays[k].direct:
                scatter(&update.arrays[k], start, n, <char*>tiles[k], itemsize)
        if suspicious or has_overflowed():
            note_overflow(this, update, tiles, n)
        if update.copy.data != NULL:
            scatter(&update.copy, start, n, <char*>tiles[0], itemsize)
        if update.remainder.data != NULL:
            gather(&update.arrays[0], start, n, spare, itemsize)
            work.plus(tiles[0], spare, -1, n)
            scatter(&update.remainder, start, n, <char*>tiles[0], itemsize)
        start += n
    restore_mode(before)


cdef void update_task(void* context, Py_ssize_t task, char* scratch) noexcept nogil:
    cdef const StepArgs* this = <const StepArgs*>context
    cdef Py_ssize_t p
    if this.backwards:
        task = this.segments.task_count - 1 - task
    for p in range(this.segments.tasks[task], this.segments.tasks[task + 1]):
        update_segment(this, &this.segments.segments[p], scratch)


cdef void probe_segment(const StepArgs* this, const TensorSegment* segment, char* scratch) noexcept nogil:
    """Find out whether the step would take a finite number out of its dtype's range; nothing is written."""
    cdef const Update* update = &this.updates[segment.update]
    cdef const Tilework* work = update.work
    cdef Py_ssize_t itemsize = work.itemsize
    cdef Py_ssize_t spacing = TILE * itemsize + 192
    cdef char* spare = scratch + MAX_ARRAYS * spacing
    cdef void* tiles[MAX_ARRAYS]
    cdef Py_ssize_t start = segment.start
    cdef Py_ssize_t n
    cdef uint64_t before = keep_mode()
    cdef double most
    cdef int k
    while start < segment.stop:
        n = min(<Py_ssize_t>STEP, segment.stop - start)
        for k in range(update.used):
            tiles[k] = scratch + k * spacing
            gather(&update.arrays[k], start - segment.shift if k == 1 else start, n, <char*>tiles[k], itemsize)
        adjust_tiles(this, update, ALL, start, n, scratch + spacing, spare, tiles)
        flush_denormals()
        update.kernel(n, tiles, this.uniforms + segment.vector * MAX_UNIFORMS)
        restore_mode(before)
        for k in range(update.used):
            if k != 1:
                most = largest_kept(&update.arrays[k], work)
                if work.outside(tiles[k], -most, most, True, n) < n:
                    gather(&update.arrays[k], start, n, spare, itemsize)
                    if became_infinite(spare, tiles[k], most, n, work.native):
                        this.overflowed[0] = 1
                        return
        start += n


cdef bint became_infinite(const void* before, const void* after, double most, Py_ssize_t n, int native) noexcept nogil:
    """Whether an element was finite and is not within [-most, most] any more."""
    cdef Py_ssize_t i
    cdef double x, y
    for i in range(n):
        x = (<const double*>before)[i] if native == F64 else (<const float*>before)[i]
        y = (<const double*>after)[i] if native == F64 else (<const float*>after)[i]
        if x - x == 0 and not fabs(y) <= most:
            return True
    return False


cdef void probe_task(void* context, Py_ssize_t task, char* scratch) noexcept nogil:
    cdef const StepArgs* this = <const StepArgs*>context
    cdef Py_ssize_t p
    for p in range(this.segments.tasks[task], this.segments.tasks[task + 1]):
        if not this.overflowed[0]:
            probe_segment(this, &this.segments.segments[p], scratch)


cdef void fold_segment(const StepArgs* this, Py_ssize_t p, char* scratch) noexcept nogil:
    """What a rule sums of a segment; tiles are of one size, however the arrays lie, and so are the sums."""
    cdef const TensorSegment* segment = &this.segments.segments[p]
    cdef const Update* update = &this.updates[segment.update]
    cdef const Tilework* work = update.work
    cdef Py_ssize_t spacing = TILE * work.itemsize + 192
    cdef void* tiles[MAX_ARRAYS]
    cdef double totals[MAX_ARRAYS]
    cdef Py_ssize_t start = segment.start
    cdef Py_ssize_t n
    cdef uint64_t mode = 0
    cdef int f, k
    memset(tiles, 0, sizeof(tiles))
    memset(totals, 0, sizeof(totals))
    for f in range(update.sums):
        tiles[update.used + f] = scratch + (update.used + f) * spacing
    if not update.has_f16:
        mode = flush_denormals()
    while start < segment.stop:
        n = min(<Py_ssize_t>TILE, segment.stop - start)
        for k in range(update.used):
            if update.reads >> k & 1:
                tiles[k] = at_hand(&update.arrays[k], start - segment.shift if k == 1 else start, n, scratch + k * spacing, work.itemsize)
        adjust_tiles(this, update, update.reads, start, n, scratch + spacing, scratch + MAX_ARRAYS * spacing, tiles)
        if update.has_f16:
            mode = flush_denormals()
        update.fold(n, tiles, this.uniforms + segment.vector * MAX_UNIFORMS)
        if update.has_f16:
            restore_mode(mode)
        for f in range(update.sums):
            totals[f] += (work.squares if update.squares >> f & 1 else work.sum)(tiles[update.used + f], n)
        start += n
    if not update.has_f16:
        restore_mode(mode)
    for f in range(update.sums):
        this.sums_by_segment[f * this.segments.count + p] = totals[f]


cdef void fold_task(void* context, Py_ssize_t task, char* scratch) noexcept nogil:
    cdef const StepArgs* this = <const StepArgs*>context
    cdef Py_ssize_t p
    if this.backwards:
        task = this.segments.task_count - 1 - task
    for p in range(this.segments.tasks[task], this.segments.tasks[task + 1]):
        if this.updates[this.segments.segments[p].update].sums:
            fold_segment(this, p, scratch)


cdef void measure_task(void* context, Py_ssize_t task, char* scratch) noexcept nogil:
    """The sum of the squares of a task's gradients as they were given."""
    cdef const StepArgs* this = <const StepArgs*>context
    cdef const TensorSegment* segment
    cdef const Update* update
    cdef Py_ssize_t p, start, n
    cdef double total = 0
    for p in range(this.segments.tasks[task], this.segments.tasks[task + 1]):
        segment = &this.segments.segments[p]
        update = &this.updates[segment.update]
        start = segment.start
        while start < segment.stop:
            n = min(<Py_ssize_t>TILE, segment.stop - start)
            total += update.work.squares(at_hand(&update.arrays[1], start - segment.shift, n, scratch, update.work.itemsize), n)
            start += n
    this.squares_by_task[task] = total
