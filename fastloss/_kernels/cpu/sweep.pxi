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
    # Pairs of arrays whose extents overlap that an optimizer may have, and the work on each to find out whether they share memory.
    MOST_PAIRS = 1 << 16
    MOST_WORK = 1 << 16

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

cdef struct Piece:
    # Elements of a tensor that lie together in it and in its gradient, there `shift` elements earlier.
    Py_ssize_t update
    Py_ssize_t start
    Py_ssize_t stop
    Py_ssize_t shift
    # Whose numbers its kernel takes: a group's, a row's, or those of what its rule looks at as a whole.
    Py_ssize_t vector

cdef struct Pieces:
    # Gathered into grains of about a chunk, the unit that a thread takes.
    Piece* pieces
    Py_ssize_t count
    Py_ssize_t room
    Py_ssize_t* grains
    Py_ssize_t grain_count
    Py_ssize_t filled
    Py_ssize_t elements
    # How many vectors of numbers they take.
    Py_ssize_t vectors

cdef struct Factor:
    # What gradients are multiplied by: one number, or where that is no normal number of doubles a product of two.
    double first
    double second
    # Whether it is a single normal number of that precision, or 0, or not finite.
    bint[2] is_plain

cdef struct StepArgs:
    # One step.
    const Update* updates
    const Pieces* pieces
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
    double* squares_by_grain
    # Set by whoever meets a parameter or state that left its dtype's range.
    int* overflowed
    # What the rules sum, of each piece: all pieces' first sums, then their second ones.
    double* sums_by_piece

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
    if a.store == work.store[F16]:
        return 65519.99
    if a.store == work.store[BF16]:
        return 3.396177e38
    return DBL_MAX if a.store == work.store[F64] else FLT_MAX


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


cdef void update_piece(const StepArgs* this, const Piece* piece, char* scratch) noexcept nogil:
    cdef const Update* update = &this.updates[piece.update]
    cdef const Tilework* work = update.work
    cdef Py_ssize_t itemsize = work.itemsize
    cdef Py_ssize_t spacing = TILE * itemsize + 192
    cdef char* spare = scratch + MAX_ARRAYS * spacing
    cdef char* tile
    cdef void* tiles[MAX_ARRAYS]
    cdef const double* uniforms = this.uniforms + piece.vector * MAX_UNIFORMS
    cdef Py_ssize_t start = piece.start
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
    while start < piece.stop:
        n = min(size, piece.stop - start)
        for k in range(update.used):
            tiles[k] = at_hand(&update.arrays[k], start - piece.shift if k == 1 else start, n, scratch + k * spacing, itemsize)
        adjust_tiles(this, update, ALL, start, n, scratch + spacing, spare, tiles)
        if converts and start + n < piece.stop:
            ahead = min(size, piece.stop - start - n)
            for k in range(update.used):
                if not update.arrays[k].direct and update.arrays[k].dims == 1 and update.arrays[k].strides[0] > 0:
                    fetch_ahead(&update.arrays[k], start + n - (piece.shift if k == 1 else 0), ahead)
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


cdef void update_grain(void* context, Py_ssize_t grain, char* scratch) noexcept nogil:
    cdef const StepArgs* this = <const StepArgs*>context
    cdef Py_ssize_t p
    if this.backwards:
        grain = this.pieces.grain_count - 1 - grain
    for p in range(this.pieces.grains[grain], this.pieces.grains[grain + 1]):
        update_piece(this, &this.pieces.pieces[p], scratch)


cdef void probe_piece(const StepArgs* this, const Piece* piece, char* scratch) noexcept nogil:
    """Find out whether the step would take a finite number out of its dtype's range; nothing is written."""
    cdef const Update* update = &this.updates[piece.update]
    cdef const Tilework* work = update.work
    cdef Py_ssize_t itemsize = work.itemsize
    cdef Py_ssize_t spacing = TILE * itemsize + 192
    cdef char* spare = scratch + MAX_ARRAYS * spacing
    cdef void* tiles[MAX_ARRAYS]
    cdef Py_ssize_t start = piece.start
    cdef Py_ssize_t n
    cdef uint64_t before = keep_mode()
    cdef double most
    cdef int k
    while start < piece.stop:
        n = min(<Py_ssize_t>STEP, piece.stop - start)
        for k in range(update.used):
            tiles[k] = scratch + k * spacing
            gather(&update.arrays[k], start - piece.shift if k == 1 else start, n, <char*>tiles[k], itemsize)
        adjust_tiles(this, update, ALL, start, n, scratch + spacing, spare, tiles)
        flush_denormals()
        update.kernel(n, tiles, this.uniforms + piece.vector * MAX_UNIFORMS)
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


cdef void probe_grain(void* context, Py_ssize_t grain, char* scratch) noexcept nogil:
    cdef const StepArgs* this = <const StepArgs*>context
    cdef Py_ssize_t p
    for p in range(this.pieces.grains[grain], this.pieces.grains[grain + 1]):
        if not this.overflowed[0]:
            probe_piece(this, &this.pieces.pieces[p], scratch)


cdef void fold_piece(const StepArgs* this, Py_ssize_t p, char* scratch) noexcept nogil:
    """What a rule sums of a piece; tiles are of one size, however the arrays lie, and so are the sums."""
    cdef const Piece* piece = &this.pieces.pieces[p]
    cdef const Update* update = &this.updates[piece.update]
    cdef const Tilework* work = update.work
    cdef Py_ssize_t spacing = TILE * work.itemsize + 192
    cdef void* tiles[MAX_ARRAYS]
    cdef double totals[MAX_ARRAYS]
    cdef Py_ssize_t start = piece.start
    cdef Py_ssize_t n
    cdef uint64_t mode = 0
    cdef int f, k
    memset(tiles, 0, sizeof(tiles))
    memset(totals, 0, sizeof(totals))
    for f in range(update.sums):
        tiles[update.used + f] = scratch + (update.used + f) * spacing
    if not update.has_f16:
        mode = flush_denormals()
    while start < piece.stop:
        n = min(<Py_ssize_t>TILE, piece.stop - start)
        for k in range(update.used):
            if update.reads >> k & 1:
                tiles[k] = at_hand(&update.arrays[k], start - piece.shift if k == 1 else start, n, scratch + k * spacing, work.itemsize)
        adjust_tiles(this, update, update.reads, start, n, scratch + spacing, scratch + MAX_ARRAYS * spacing, tiles)
        if update.has_f16:
            mode = flush_denormals()
        update.fold(n, tiles, this.uniforms + piece.vector * MAX_UNIFORMS)
        if update.has_f16:
            restore_mode(mode)
        for f in range(update.sums):
            totals[f] += (work.squares if update.squares >> f & 1 else work.sum)(tiles[update.used + f], n)
        start += n
    if not update.has_f16:
        restore_mode(mode)
    for f in range(update.sums):
        this.sums_by_piece[f * this.pieces.count + p] = totals[f]


cdef void fold_grain(void* context, Py_ssize_t grain, char* scratch) noexcept nogil:
    cdef const StepArgs* this = <const StepArgs*>context
    cdef Py_ssize_t p
    if this.backwards:
        grain = this.pieces.grain_count - 1 - grain
    for p in range(this.pieces.grains[grain], this.pieces.grains[grain + 1]):
        if this.updates[this.pieces.pieces[p].update].sums:
            fold_piece(this, p, scratch)


cdef void measure_grain(void* context, Py_ssize_t grain, char* scratch) noexcept nogil:
    """The sum of the squares of a grain's gradients as they were given."""
    cdef const StepArgs* this = <const StepArgs*>context
    cdef const Piece* piece
    cdef const Update* update
    cdef Py_ssize_t p, start, n
    cdef double total = 0
    for p in range(this.pieces.grains[grain], this.pieces.grains[grain + 1]):
        piece = &this.pieces.pieces[p]
        update = &this.updates[piece.update]
        start = piece.start
        while start < piece.stop:
            n = min(<Py_ssize_t>TILE, piece.stop - start)
            total += update.work.squares(at_hand(&update.arrays[1], start - piece.shift, n, scratch, update.work.itemsize), n)
            start += n
    this.squares_by_grain[grain] = total


cdef int add_piece(Pieces* to, Py_ssize_t update, Py_ssize_t start, Py_ssize_t stop, Py_ssize_t shift, Py_ssize_t vector) except -1:
    """Enter elements [start, stop) of a tensor, cut into chunks."""
    cdef Py_ssize_t end
    cdef void* memory
    while start < stop:
        end = min(start + CHUNK, stop)
        if to.count + 1 >= to.room:
            to.room = max(<Py_ssize_t>16, 2 * to.room)
            memory = PyMem_Realloc(to.pieces, to.room * sizeof(Piece))
            if memory == NULL:
                raise MemoryError()
            to.pieces = <Piece*>memory
            memory = PyMem_Realloc(to.grains, to.room * sizeof(Py_ssize_t))
            if memory == NULL:
                raise MemoryError()
            to.grains = <Py_ssize_t*>memory
        if to.grain_count == 0 or to.filled >= CHUNK:
            to.grains[to.grain_count] = to.count
            to.grain_count += 1
            to.filled = 0
        to.pieces[to.count] = Piece(update, start, end, shift, vector)
        to.count += 1
        to.grains[to.grain_count] = to.count
        to.filled += end - start
        to.elements += end - start
        start = end
    return 0


cdef void free_pieces(Pieces* pieces) noexcept:
    PyMem_Free(pieces.pieces)
    PyMem_Free(pieces.grains)


cdef class StepOptions:
    """The numbers and arrays of one step. The caller of a step decides on the first ones, the optimizer fills in the others.

    `counts` are (object, attribute, value) to set once the step is taken. The norm of all gradients is computed if `measures`; if
    `skips`, the step is left out where it cannot be taken with finite numbers.
    """

    cdef public double grad_scale, max_norm, clip_value
    cdef public bint measures, skips
    cdef public object row_lr, row_mask
    cdef public list counts
    # The step's number, from 1, None where only the GPU knows; by tensor its gradient, or the rows that it is of.
    cdef public object step
    cdef public list grads
    cdef public dict sparse
    # By bucket: the kernels; the numbers that they take, of which the first is the step's; -1 where the gradients' sign is turned.
    cdef public list variants, vectors, signs
    # How far averages go towards the parameters.
    cdef public double ema_weight
    # Makes the call's result of the norm, of whether the step was left out and whether a number overflowed; and where no norm was
    # asked for, the result of a step in which none did, and of one in which one did.
    cdef public object result, usual, unusual

    def __cinit__(self, *counts):
        self.grad_scale, self.max_norm, self.clip_value = 1, INFINITY, INFINITY
        self.counts = list(counts)


cdef struct Norm:
    # raw * 2^exponent; the exponent is 0 where the norm itself is a normal number.
    double raw
    int exponent


cdef inline bint is_normal(double x) noexcept:
    return DBL_MIN <= fabs(x) <= DBL_MAX


cdef double total_norm(const Norm* norm, double grad_scale) noexcept:
    """The norm of unscaled gradients; infinite where it is beyond the doubles."""
    cdef int exponent
    cdef double by = 1 / grad_scale
    if norm.exponent == 0 and is_normal(by):
        return by * norm.raw
    by = 1 / frexp(grad_scale, &exponent)
    return ldexp(by * norm.raw, norm.exponent - exponent)


cdef bint set_factors(Factor* factors, list signs, double grad_scale, const Norm* norm, double max_norm) except -1:
    """What each group's gradients are multiplied by: its sign, the inverse scale, and what clips them; whether one is not 1."""
    cdef double by = 1 / grad_scale
    cdef double total = total_norm(norm, grad_scale)
    cdef bint clips = total > max_norm
    cdef double down = max_norm / total if clips else 1
    cdef double most
    cdef int exponent = 0, other
    cdef Factor factor
    cdef Py_ssize_t k
    cdef bint scales
    if is_normal(by * down) or (by * down == 0 and norm.raw == INFINITY):
        factor.first, factor.second = by * down, 1
    else:
        if clips:
            most = frexp(max_norm, &exponent)
            factor.first = most / frexp(norm.raw, &other)
            exponent -= other + norm.exponent
        else:
            factor.first = 1 / frexp(grad_scale, &other)
            exponent = -other
        # Two factors of about one size: each is a normal number, and so is their product with an element if the result is.
        exponent = max(-2000, min(exponent, 2000))
        factor.first = ldexp(factor.first, exponent // 2)
        factor.second = ldexp(1, exponent - exponent // 2)
    factor.is_plain[F64] = factor.second == 1
    factor.is_plain[F32] = factor.second == 1 and not (0 < factor.first < FLT_MIN or FLT_MAX < factor.first < INFINITY)
    scales = factor.first != 1 or factor.second != 1
    for k in range(len(signs)):
        factors[k] = factor
        factors[k].first *= <double>signs[k]
        scales = scales or factors[k].first != factor.first
    return scales


def share_memory(a, b):
    """Whether two arrays have an element's memory in common; so much as is known within some work."""
    try:
        return np.shares_memory(a, b, max_work=MOST_WORK)
    except RuntimeError:
        return True


cdef class RuleVariant:
    """One variant of an update rule, bound to its kernels."""

    cdef readonly str name
    cdef uniforms_function fill
    cdef kernel_function[2] kernels
    cdef object library
    # Of a rule that looks at tensors as a whole, see `Update`; the length's place among the parameters, or -1.
    cdef kernel_function[2] folds
    cdef int length
    cdef int sums
    cdef uint32_t squares
    cdef uint32_t reads
    cdef int lr_slot

    def __init__(self, name, library=None, lr_slot=-1):
        """`lr_slot` is the place of the learning rate among the numbers that the kernel takes, -1 if it has none."""
        self.name, self.library, self.lr_slot = name, _tiles if library is None else library, lr_slot
        self.fill = <uniforms_function>address_in(self.library, name + "_uniforms")
        layout = self.library.layout(name) or {"length": -1, "squares": [], "reads": []}
        self.length, self.sums = layout["length"], len(layout["squares"])
        self.squares = sum(1 << f for f, is_square in enumerate(layout["squares"]) if is_square)
        self.reads = sum(1 << k for k in layout["reads"])
        for precision, real in ((F32, "f32"), (F64, "f64")):
            self.kernels[precision] = <kernel_function>address_in(self.library, f"{name}_step_{real}")
            if self.sums:
                self.folds[precision] = <kernel_function>address_in(self.library, f"{name}_fold_{real}")


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
    cdef Pieces pieces
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
        memset(&self.pieces, 0, sizeof(Pieces))

    def __dealloc__(self):
        cdef Py_ssize_t k
        for k in range(self.view_count):
            PyBuffer_Release(&self.views[k])
        free_pieces(&self.pieces)
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
            add_piece(&self.pieces, k, 0, update.count, 0, update.group)
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
            if pairs > MOST_PAIRS or any(share_memory(self.held[k], other) for other in own):
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
            if any(share_memory(grad, other) for other in self.members[left]):
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
        cdef Pieces own
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
        memset(&own, 0, sizeof(Pieces))
        memset(&this, 0, sizeof(StepArgs))
        views = <Py_buffer*>allocate(self.count * sizeof(Py_buffer))
        try:
            factors = <Factor*>allocate(self.group_count * sizeof(Factor))
            for k in range(self.count):
                self.take_gradient(&views[k], &held, k, grads[k], sparse.get(k) if sparse else None)
            self.choose(args.variants, args.vectors)
            this.updates, this.pieces, this.uniforms = self.updates, &self.pieces, self.uniforms
            this.limit, this.ema_weight, this.step = args.clip_value, args.ema_weight, args.step
            this.overflowed, this.factors = &overflowed, factors
            if row_lr is not None:
                rates = <const double*><uintptr_t>row_lr.ctypes.data
                own.vectors = self.group_count * len(row_lr)
            own.vectors += self.group_count
            if self.any_whole or sparse or row_lr is not None or row_mask is not None:
                self.cut(&own, sparse, row_lr, row_mask)
                this.pieces = &own
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
                self.run(probe_grain, &this, UPDATE_COST)
                if overflowed:
                    return args.result(total_norm(&norm, args.grad_scale), True, True)
            # Made before the step is taken, for no memory might be had after it.
            usual, unusual = args.usual, args.unusual
            if args.measures:
                found = total_norm(&norm, args.grad_scale)
                usual, unusual = args.result(found, False, False), args.result(found, False, True)
            self.run(update_grain, &this, UPDATE_COST)
            replace(args.counts)
        finally:
            for k in range(held):
                PyBuffer_Release(&views[k])
            PyMem_Free(views)
            PyMem_Free(uniforms)
            PyMem_Free(factors)
            free_pieces(&own)
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

    cdef int cut(self, Pieces* to, dict sparse, object row_lr, object row_mask) except -1:
        """The pieces of a step in which not all rows move, or not all alike, or tensors have numbers of their own.

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
                    add_piece(to, k, rows[r] * width, (rows[r] + 1) * width, (rows[r] - r) * width, vector)
            elif not apart:
                add_piece(to, k, 0, self.updates[k].count, 0, vector)
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
                        add_piece(to, k, row * width, last * width, 0, vector)
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
        sums = bytearray(max(<Py_ssize_t>1, most * this.pieces.count) * sizeof(double))
        this.sums_by_piece = <double*><char*>sums
        self.run(fold_grain, this, FOLD_COST)
        this.backwards = not this.backwards
        self.fill_wholes(this, uniforms, rates)
        return 0

    cdef int fill_wholes(self, const StepArgs* this, double* uniforms, const double* rates) except -1:
        """The numbers of every tensor, or row, that a rule looks at as a whole; before there are sums, those that need none."""
        cdef RuleVariant variant
        cdef double[MAX_UNIFORMS] parameters
        cdef const Piece* pieces = this.pieces.pieces
        cdef const Piece* piece
        cdef Py_ssize_t first = 0, last, elements
        cdef int f
        while first < this.pieces.count:
            piece = &pieces[first]
            elements, last = 0, first
            while last < this.pieces.count and pieces[last].vector == piece.vector:
                elements += pieces[last].stop - pieces[last].start
                last += 1
            if self.updates[piece.update].is_whole:
                variant = self.variants[self.updates[piece.update].group]
                memcpy(parameters, self.parameters + MAX_UNIFORMS * self.updates[piece.update].group, sizeof(parameters))
                if rates != NULL:
                    parameters[variant.lr_slot] = rates[piece.start // self.row_width(piece.update)]
                parameters[variant.length] = elements
                for f in range(variant.sums if this.sums_by_piece != NULL else 0):
                    parameters[variant.length + 1 + f] = tree_sum(this.sums_by_piece + f * this.pieces.count + first, last - first)
                variant.fill(parameters, uniforms + MAX_UNIFORMS * piece.vector)
            first = last
        return 0

    cdef int run(self, fastloss_work work, StepArgs* this, double cost) except -1:
        """A pass over all pieces. A step is whole or not at all: no looking for Ctrl-C within it."""
        cdef Scratch scratch
        take_scratch(&scratch, 0, (MAX_ARRAYS + 1) * TILE_BYTES, this.pieces.grain_count, this.pieces.elements * UNIT_NS * cost)
        if this.pieces.grain_count == 1:
            work(this, 0, scratch.each)
        else:
            with nogil:
                fastloss_run(work, NULL, this, this.pieces.grain_count, scratch.threads, scratch.each, scratch.room)
        return_scratch(&scratch)
        return 0

    cdef Norm measure(self, StepArgs* this, list grads) except *:
        """The norm of all gradients as they were given; not finite if one of them is not."""
        cdef Norm norm
        sums = bytearray(max(<Py_ssize_t>1, this.pieces.grain_count) * sizeof(double))
        this.squares_by_grain = <double*><char*>sums
        self.run(measure_grain, this, MEASURE_COST)
        norm.raw, norm.exponent = tree_sum(this.squares_by_grain, this.pieces.grain_count), 0
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
