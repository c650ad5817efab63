# A loss call's request, resolved: what it wants, what is given, what the sum is divided by, and where results go. Everything that
# can be refused is refused here, and all memory is taken here, before the pass that writes.

cdef extern from "Python.h":
    ctypedef struct PyFloatObject:
        double ob_fval
    # Each call makes an object of its own.
    object PyFloat_FromDouble(double)

cdef enum:
    MEAN
    SUM
    NONE

cdef enum:
    MAX_RESULTS = MAX_ARRAYS

cdef struct Request:
    int want
    int reduction
    bint check
    int precision
    const Tilework* work
    # Elements, or rows, that a mean is over.
    Py_ssize_t count
    double divisor
    # What gradients are multiplied by.
    double factor
    # The buffers of the inputs, then those of the outputs.
    Held held
    int held_inputs
    # Bits of the inputs that were broadcast to the first one's shape; whether the last one was.
    uint32_t stretched
    bint is_stretched
    # Results that are computed into memory of their own, to be copied when all is done.
    bint buffers_results
    int copies
    int[MAX_RESULTS] copy_to
    int[MAX_RESULTS] copy_from
    # Gradients that are sums: the views of the elements, of the sums in double, and of the results.
    int sums
    int[MAX_RESULTS] sum_of
    int[MAX_RESULTS] sum_in
    int[MAX_RESULTS] sum_to
    # The view of the array for a reduced value, or -1.
    int value_view


cdef int begin_request(Request* r, str who, int want, object reduction, object normalizer, bint check) except -1:
    r.want, r.check = want, check
    r.held.count = r.copies = r.sums = 0
    r.stretched = 0
    r.buffers_results = False
    r.value_view = -1
    r.reduction = reduction_of(who, reduction, normalizer)
    return 0


cdef int reduction_of(str who, object reduction, object normalizer) except -1:
    if isinstance(reduction, str):
        if reduction == "mean":
            return MEAN
        if normalizer is None:
            if reduction == "sum":
                return SUM
            if reduction == "none":
                return NONE
    requests.check_reduction(who, reduction, normalizer)
    return -1


cdef object hold_first(Request* r, str who, str name, object array):
    """The first input decides the shape and the precision."""
    array = hold(&r.held, who, name, array)
    if r.held.codes[0] > BF16:
        arrays.check_floating(who, name, array)
    r.precision = F64 if r.held.codes[0] == F64 else F32
    r.work = &WORK[r.precision]
    return array


cdef object operand(Request* r, Operand* a, str who, str name, object array, str first_name, object first):
    """Hold an input and lay it out over `first`'s shape; returns the array as it was given."""
    cdef Held* held = &r.held
    cdef const Py_buffer* over = &held.views[0]
    cdef const Py_buffer* view = &held.views[held.count]
    array = hold(held, who, name, array)
    r.is_stretched = not same_shape(view, over)
    if not lay_out(a, view, held.codes[held.count - 1], r.work, over.ndim, over.shape):
        if not broadcasts(view, over.ndim, over.shape):
            raise arrays.shape_error(who, name, array.shape, first_name, first.shape)
        # More separate dimensions than an operand has room for.
        hold_again(held, who, name, np.ascontiguousarray(np.broadcast_to(array, first.shape)))
        lay_out(a, view, held.codes[held.count - 1], r.work, over.ndim, over.shape)
    return array


cdef int check_gradients(Request* r, str who, tuple names, tuple places, list given) except -1:
    """Differentiable elements are floating, and of the first input's dtype where their gradients are wanted."""
    cdef int k
    for k in places[1:]:
        arrays.check_floating(who, names[k], given[k])
        if r.want & (GRAD | HESS):
            arrays.check_same_dtype(who, names[k], given[k], names[0], given[0])
    return 0


cdef void look_for_sums(Request* r, tuple places) except *:
    """Whether the gradients of some inputs are sums, over what they were broadcast to."""
    cdef int k
    for k in range(1, MAX_ARRAYS):
        if r.want & (GRAD | HESS) and r.stretched >> k & 1 and k in places:
            r.buffers_results = True


cdef int divide(Request* r, str who, object normalizer, object weight_sum, object first) except -1:
    """What the sum is divided by; `weight_sum` is None without weights."""
    r.divisor = r.factor = 1
    if r.reduction != MEAN:
        return 0
    if normalizer is not None:
        r.divisor = requests.normalizer_of(who, normalizer, r.count)
    elif weight_sum is not None:
        r.divisor = weight_sum
    else:
        r.divisor = r.count
    if not r.divisor > 0:
        r.factor = 0
        return 0
    r.factor = 1.0 / r.divisor
    if not (FLT_MIN if r.precision == F32 else DBL_MIN) <= r.factor <= (FLT_MAX if r.precision == F32 else DBL_MAX):
        raise arrays.divisor_error(who, r.divisor, normalizer, first)
    return 0


cdef bint is_reduced(const Request* r) noexcept:
    return (r.want & VALUE) != 0 and r.reduction != NONE


# --- results --------------------------------------------------------------------------------------------------------------

cdef object hold_result(Request* r, str who, str name, object out, tuple shape, object dtype, const Py_buffer* like):
    """Hold the caller's array for a result, apart from other results; `like` is a view of the shape that it must have, or NULL."""
    cdef const Py_buffer* view = &r.held.views[r.held.count]
    cdef int j, last
    cdef bint fits = False
    if like != NULL and type(out) is ndarray and hold(&r.held, who, name, out) is out:
        fits = not view.readonly and r.held.codes[r.held.count - 1] == r.held.codes[0] and same_shape(view, like)
    if not fits:
        arrays.check_output(who, name, out, shape, dtype)
        hold(&r.held, who, name, np.asarray(out))  # a subclass, or in another way of saying its dtype
    last = r.held.count - 1
    view = &r.held.views[last]
    if overlaps_itself(view):
        raise arrays.overlap_error(who, name, "itself")
    for j in range(r.held_inputs, last):
        if share_elements(view, &r.held.views[j]):
            raise arrays.overlap_error(who, name, "another output")
    return out


cdef bint share_elements(const Py_buffer* a, const Py_buffer* b) except -1:
    """Whether two buffers have an element in common; their extents alone are looked at first."""
    return overlap(a, b) and (a.obj is b.obj or arrays.share_memory(a.obj, b.obj))


cdef int lies_over_inputs(const Request* r, int index, bint may_be_one) except -1:
    """Whether an output shares memory with an input; `may_be_one`: unless it is that input, element for element."""
    cdef int j
    cdef const Py_buffer* view = &r.held.views[index]
    for j in range(r.held_inputs):
        if overlap(view, &r.held.views[j]):
            if may_be_one and same_elements(view, &r.held.views[j]) and r.held.codes[j] == r.held.codes[index]:
                continue
            if view.obj is r.held.views[j].obj or arrays.share_memory(view.obj, r.held.views[j].obj):
                return True
    return False


cdef int buffer_result(Request* r, str who, str name, int index, object dtype) except -1:
    """A contiguous array in the place of a result, to be copied there when all is done; returns its view."""
    cdef const Py_buffer* view = &r.held.views[index]
    hold(&r.held, who, name, empty(view.obj.shape, dtype))
    copy_when_done(r, index)
    return r.held.count - 1


cdef void copy_when_done(Request* r, int index) noexcept:
    """The buffer held last is to be copied into another."""
    r.copy_to[r.copies], r.copy_from[r.copies] = index, r.held.count - 1
    r.copies += 1


cdef object take_result(Request* r, str who, str name, object out, tuple shape, object dtype, const Py_buffer* like, bint may_be_one, int* index):
    """A result: the caller's array, or a new one; `index` is the view that it is computed into."""
    if out is None:
        out = empty(shape, dtype)
        hold(&r.held, who, name, out)
        index[0] = r.held.count - 1
        return out
    hold_result(r, who, name, out, shape, dtype, like)
    index[0] = r.held.count - 1
    if r.buffers_results or lies_over_inputs(r, index[0], may_be_one):
        index[0] = buffer_result(r, who, name, index[0], dtype)
    return out


cdef object take_summed(Request* r, str who, str name, object out, object first, object like, int* index):
    """The gradient of an input that was broadcast: its elements' gradients go into an array that is summed when all is done."""
    if out is None:
        out = empty(like.shape, first.dtype)
        hold(&r.held, who, name, out)
    else:
        hold_result(r, who, name, out, like.shape, first.dtype, NULL)
    r.sum_to[r.sums] = r.held.count - 1
    hold(&r.held, who, name, empty(like.shape, np.float64))
    r.sum_in[r.sums] = r.held.count - 1
    hold(&r.held, who, name, empty(first.shape, np.float64 if r.precision == F64 else np.float32))
    r.sum_of[r.sums] = index[0] = r.held.count - 1
    r.sums += 1
    return out


cdef object take_gradients(Request* r, str who, str name, object out, tuple names, tuple places, list given, int* indices):
    """A gradient, or Hessian, for each differentiable input; a tuple of them where there are several."""
    cdef int k
    cdef const Py_buffer* like = &r.held.views[0]
    if len(places) == 1:
        return take_result(r, who, name, out, given[0].shape, given[0].dtype, like, True, indices)
    if out is None:
        out = (None,) * len(places)
    elif not isinstance(out, tuple | list) or len(out) != len(places):
        raise TypeError(f"{who}: {name} must be {len(places)} arrays, one for each of {', '.join(names[k] for k in places)}")
    results = []
    for k in range(len(places)):
        title, array = f"{name}[{k}]", given[places[k]]
        if r.stretched >> <int>places[k] & 1:
            results.append(take_summed(r, who, title, out[k], given[0], array, &indices[k]))
        else:
            results.append(take_result(r, who, title, out[k], given[0].shape, given[0].dtype, like, True, &indices[k]))
    return tuple(results)


cdef object take_value(Request* r, str who, object value_out, object first, tuple shape, int* index):
    """The value: None as yet where it is reduced and no array is given, else an array; `index` is -1 where nothing is stored.

    `shape` is None where it is the first input's.
    """
    index[0] = -1
    if not is_reduced(r):
        if shape is None:
            return take_result(r, who, "value_out", value_out, first.shape, first.dtype, &r.held.views[0], True, index)
        return take_result(r, who, "value_out", value_out, shape, first.dtype, NULL, False, index)
    if value_out is not None:
        hold_result(r, who, "value_out", value_out, (), first.dtype, NULL)
        r.value_view = r.held.count - 1
    return value_out


cdef tuple results_of(Request* r, str who, object value, object gradients, object hessians):
    """What the call returns, made before the pass: nothing is left that could fail after it. A reduced value is filled in then."""
    if is_reduced(r):
        if not r.divisor > 0:
            requests.warn_empty_mean(who)
        if value is None:
            value = PyFloat_FromDouble(0)
    if r.want == VALUE:
        return (value,)
    if r.want == VALUE | GRAD:
        return (value, gradients)
    if r.want == VALUE | GRAD | HESS:
        return (value, gradients, hessians)
    if r.want == GRAD | HESS:
        return (gradients, hessians)
    return (gradients,)


cdef void finish_request(Request* r, tuple results, double total) noexcept:
    """Sums, copies and the value, when the pass is over."""
    cdef int k
    for k in range(r.sums):
        add_up(&r.held.views[r.sum_of[k]], &r.held.views[r.sum_in[k]], r.work)
        store_sums(&r.held.views[r.sum_in[k]], &r.held.views[r.sum_to[k]], r.held.codes[r.sum_to[k]])
    for k in range(r.copies):
        copy_elements(&r.held.views[r.copy_to[k]], &r.held.views[r.copy_from[k]])
    if is_reduced(r):
        if r.reduction == MEAN:
            total = total / r.divisor if r.divisor > 0 else NAN
        if r.value_view >= 0:
            WORK[F64].store[r.held.codes[r.value_view]](&total, r.held.views[r.value_view].buf, 0, 1)
        else:
            (<PyFloatObject*><PyObject*>results[0]).ob_fval = total


cdef void add_up(const Py_buffer* elements, const Py_buffer* sums, const Tilework* work) noexcept:
    """Sum elements over what the shape of `sums` is broadcast to."""
    memset(sums.buf, 0, sums.len)
    if elements.len:
        add_dimension(elements, sums, work, <const char*>elements.buf, <char*>sums.buf, 0)


cdef void add_dimension(const Py_buffer* elements, const Py_buffer* sums, const Tilework* work, const char* data, char* total, int d) noexcept:
    cdef int own = d - (elements.ndim - sums.ndim)
    cdef Py_ssize_t k, length = elements.shape[d]
    cdef Py_ssize_t stride = 0 if own < 0 or sums.shape[own] == 1 else sums.strides[own]
    if d < elements.ndim - 1:
        for k in range(length):
            add_dimension(elements, sums, work, data + k * elements.strides[d], total + k * stride, d + 1)
    elif stride == 0:
        k = 0
        while k < length:
            (<double*>total)[0] += work.sum(data + k * work.itemsize, min(<Py_ssize_t>TILE, length - k))
            k += TILE
    else:
        for k in range(length):
            (<double*>(total + k * stride))[0] += as_double(work, data + k * work.itemsize)


cdef void store_sums(const Py_buffer* sums, const Py_buffer* to, int code) noexcept:
    """Round sums to a result of their shape."""
    store_dimension(to, WORK[F64].store[code], <const char*>sums.buf, sums.len, <char*>to.buf, 0)


cdef const char* store_dimension(const Py_buffer* to, store_function store, const char* sums, Py_ssize_t size, char* target, int d) noexcept:
    """Store along a dimension and those after it; returns the sum that comes next."""
    cdef Py_ssize_t k
    if size == 0:
        return sums
    if to.ndim == 0:
        store(sums, target, 0, 1)
    elif d == to.ndim - 1:
        store(sums, target, to.strides[d], to.shape[d])
        return sums + to.shape[d] * sizeof(double)
    else:
        for k in range(to.shape[d]):
            sums = store_dimension(to, store, sums, size, target + k * to.strides[d], d + 1)
    return sums


cdef void copy_elements(const Py_buffer* to, const Py_buffer* source) noexcept:
    """Copy between buffers of one shape and dtype."""
    copy_dimension(to, source, <char*>to.buf, <const char*>source.buf, 0)


cdef void copy_dimension(const Py_buffer* to, const Py_buffer* source, char* target, const char* data, int d) noexcept:
    cdef Py_ssize_t k
    if d == to.ndim:
        memcpy(target, data, to.itemsize)
    elif d == to.ndim - 1 and to.strides[d] == to.itemsize == source.strides[d]:
        memcpy(target, data, to.shape[d] * to.itemsize)
    else:
        for k in range(to.shape[d]):
            copy_dimension(to, source, target + k * to.strides[d], data + k * source.strides[d], d + 1)
