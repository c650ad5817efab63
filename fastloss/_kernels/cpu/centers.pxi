# What NumPy has no fast call for, of rows that belong to centers: sums by label, the nearest center and whether that is sure.

ctypedef fused number:
    float
    double


cdef void* memory_of(object array, object dtype) except NULL:
    """Where a contiguous array of this dtype begins."""
    if array.dtype != dtype or not array.flags.c_contiguous:
        raise ValueError(f"memory_of: array must be contiguous and of dtype {dtype}, got {array.dtype}")
    return <void*><uintptr_t>array.__array_interface__["data"][0]


cdef void add_each(double* sums, const Py_ssize_t* labels, const number* rows, Py_ssize_t count, Py_ssize_t length) noexcept nogil:
    cdef Py_ssize_t i, j
    cdef double* target
    for i in range(count):
        target = sums + labels[i] * length
        for j in range(length):
            target[j] += rows[i * length + j]


def add_rows(sums, labels, rows):
    """``sums[labels[i]] += rows[i]``, one row after the other whatever the threads: `numpy.add.at`, a hundred times as fast."""
    cdef Py_ssize_t count = rows.shape[0], length = rows.shape[1]
    cdef double* targets = <double*>memory_of(sums, np.float64)
    cdef const Py_ssize_t* named = <const Py_ssize_t*>memory_of(labels, np.intp)
    cdef const void* sources = memory_of(rows, rows.dtype)
    cdef bint wide = rows.dtype == np.float64
    with nogil:
        if wide:
            add_each(targets, named, <const double*>sources, count, length)
        else:
            add_each(targets, named, <const float*>sources, count, length)


def nearest(products, halves, margins, labels, doubtful):
    """Each row's label: its center of the least ``halves - products``, half a squared distance but for what all have in common.

    Doubtful is a row whose second best is not more than its margin behind the best, or neither is a number.
    """
    cdef Py_ssize_t count = products.shape[0], centers = products.shape[1]
    cdef const double* product = <const double*>memory_of(products, np.float64)
    cdef const double* half = <const double*>memory_of(halves, np.float64)
    cdef const double* margin = <const double*>memory_of(margins, np.float64)
    cdef Py_ssize_t* label = <Py_ssize_t*>memory_of(labels, np.intp)
    cdef char* doubt = <char*>memory_of(doubtful, np.bool_)
    cdef Py_ssize_t i, k
    cdef double best, second, cost
    with nogil:
        for i in range(count):
            best = second = INFINITY
            label[i] = 0
            for k in range(centers):
                cost = half[k] - product[i * centers + k]
                if cost < second:
                    if cost < best:
                        second, best = best, cost
                        label[i] = k
                    else:
                        second = cost
            doubt[i] = not second - best > margin[i]
