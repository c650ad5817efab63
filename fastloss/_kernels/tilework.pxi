# What the driver does with a tile besides the formula: load, scale and store it, sum it, look for what does not belong.
# Included into every level's module, so that these loops use the level's vectors too.

ctypedef unsigned char boolean

ctypedef fused real:
    float
    double

ctypedef fused element:
    float
    double
    int8_t
    int16_t
    int32_t
    int64_t
    uint8_t
    uint16_t
    uint32_t
    uint64_t

cdef extern from "half.h" nogil:
    float float_from_f16(uint16_t)
    float float_from_bf16(uint16_t)
    uint16_t f16_from_float(float)
    uint16_t bf16_from_float(float)

cdef extern from "lanes.h" nogil:
    double sum_f32(const float*, Py_ssize_t)
    double sum_f64(const double*, Py_ssize_t)
    double largest_f32(const float*, Py_ssize_t)
    double largest_f64(const double*, Py_ssize_t)
    void stream_f32(const float*, double, float*, Py_ssize_t)
    void stream_f64(const double*, double, double*, Py_ssize_t)


cdef void load(const element* source, Py_ssize_t stride, real* tile, Py_ssize_t count) noexcept nogil:
    """Elements `stride` bytes apart, as the kernel's own type."""
    cdef Py_ssize_t i
    cdef real same
    if stride == sizeof(element):
        for i in range(count):
            tile[i] = <real>source[i]
    elif stride == 0:
        same = <real>source[0]
        for i in range(count):
            tile[i] = same
    else:
        for i in range(count):
            tile[i] = <real>(<const element*>(<const char*>source + i * stride))[0]


cdef void load_f16(const uint16_t* source, Py_ssize_t stride, real* tile, Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t i
    if stride == sizeof(uint16_t):
        for i in range(count):
            tile[i] = float_from_f16(source[i])
    else:
        for i in range(count):
            tile[i] = float_from_f16((<const uint16_t*>(<const char*>source + i * stride))[0])


cdef void load_bf16(const uint16_t* source, Py_ssize_t stride, real* tile, Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t i
    if stride == sizeof(uint16_t):
        for i in range(count):
            tile[i] = float_from_bf16(source[i])
    else:
        for i in range(count):
            tile[i] = float_from_bf16((<const uint16_t*>(<const char*>source + i * stride))[0])


cdef void store(const real* tile, real* target, Py_ssize_t stride, Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t i
    if stride == sizeof(real):
        for i in range(count):
            target[i] = tile[i]
    else:
        for i in range(count):
            (<real*>(<char*>target + i * stride))[0] = tile[i]


cdef void store_f16(const float* tile, uint16_t* target, Py_ssize_t stride, Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t i
    if stride == sizeof(uint16_t):
        for i in range(count):
            target[i] = f16_from_float(tile[i])
    else:
        for i in range(count):
            (<uint16_t*>(<char*>target + i * stride))[0] = f16_from_float(tile[i])


cdef void store_bf16(const float* tile, uint16_t* target, Py_ssize_t stride, Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t i
    if stride == sizeof(uint16_t):
        for i in range(count):
            target[i] = bf16_from_float(tile[i])
    else:
        for i in range(count):
            (<uint16_t*>(<char*>target + i * stride))[0] = bf16_from_float(tile[i])


cdef void scale(const real* tile, double factor, real* target, Py_ssize_t count) noexcept nogil:
    """target = tile * factor; the two may be one."""
    cdef Py_ssize_t i
    cdef real by = <real>factor
    for i in range(count):
        target[i] = tile[i] * by


cdef void weigh(const real* tile, const real* weights, double factor, real* target, Py_ssize_t count) noexcept nogil:
    """target = tile * weights * factor; a weight of 0 takes the element out, NaN and infinity included."""
    cdef Py_ssize_t i
    cdef real by = <real>factor
    for i in range(count):
        target[i] = (tile[i] * weights[i] * by) if weights[i] != 0 else <real>0


cdef Py_ssize_t outside(const real* tile, double low, double high, bint nan_is_outside, Py_ssize_t count) noexcept nogil:
    """The first element that is not in [low, high], or `count`."""
    cdef real least = <real>low
    cdef real most = <real>high
    cdef Py_ssize_t i
    cdef int32_t found = 0
    if nan_is_outside:
        for i in range(count):
            found |= 1 - ((tile[i] >= least) & (tile[i] <= most))
    else:
        for i in range(count):
            found |= (tile[i] < least) | (tile[i] > most)
    if found == 0:
        return count
    for i in range(count):
        if tile[i] < least or tile[i] > most or (nan_is_outside and tile[i] != tile[i]):
            return i
    return count
