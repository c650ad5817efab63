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

ctypedef fused kept:
    float
    double

ctypedef fused whole:
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
    uint16_t f16_from_double(double)
    uint16_t bf16_from_double(double)
    uint32_t noise(uint32_t, uint32_t)
    float dithered(float, uint32_t)

cdef extern from "lanes.h" nogil:
    double sum_f32(const float*, Py_ssize_t)
    double sum_f64(const double*, Py_ssize_t)
    double squares_f32(const float*, Py_ssize_t)
    double squares_f64(const double*, Py_ssize_t)
    double largest_f32(const float*, Py_ssize_t)
    double largest_f64(const double*, Py_ssize_t)
    Py_ssize_t first_largest_f32(const float*, Py_ssize_t)
    Py_ssize_t first_largest_f64(const double*, Py_ssize_t)
    void run_f32(float*, Py_ssize_t, int)
    void run_f64(double*, Py_ssize_t, int)

cdef extern from "stream.h" nogil:
    ctypedef struct Stream:
        pass
    void stream_f32(const float*, double, float*, Py_ssize_t, Stream*)
    void stream_f64(const double*, double, double*, Py_ssize_t, Stream*)

cdef extern from "planes.h" nogil:
    void split_f32(const float*, Py_ssize_t, float*, Py_ssize_t, Py_ssize_t)
    void split_f64(const double*, Py_ssize_t, double*, Py_ssize_t, Py_ssize_t)
    void join_f32(const float*, Py_ssize_t, float*, Py_ssize_t, Py_ssize_t)
    void join_f64(const double*, Py_ssize_t, double*, Py_ssize_t, Py_ssize_t)
    void pick_f32(const float*, Py_ssize_t, Py_ssize_t, const float*, float*, Py_ssize_t)
    void pick_f64(const double*, Py_ssize_t, Py_ssize_t, const double*, double*, Py_ssize_t)
    void add_f32(float*, Py_ssize_t, Py_ssize_t, const float*, const float*, Py_ssize_t)
    void add_f64(double*, Py_ssize_t, Py_ssize_t, const double*, const double*, Py_ssize_t)
    void predict_f32(const float*, Py_ssize_t, Py_ssize_t, float*, float*, Py_ssize_t)
    void predict_f64(const double*, Py_ssize_t, Py_ssize_t, double*, double*, Py_ssize_t)


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


cdef void store(const real* tile, kept* target, Py_ssize_t stride, Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t i
    if stride == sizeof(kept):
        for i in range(count):
            target[i] = <kept>tile[i]
    else:
        for i in range(count):
            (<kept*>(<char*>target + i * stride))[0] = <kept>tile[i]


cdef inline uint16_t to_f16(real x) noexcept nogil:
    return f16_from_float(x) if real is float else f16_from_double(x)


cdef inline uint16_t to_bf16(real x) noexcept nogil:
    return bf16_from_float(x) if real is float else bf16_from_double(x)


cdef void store_f16(const real* tile, uint16_t* target, Py_ssize_t stride, Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t i
    if stride == sizeof(uint16_t):
        for i in range(count):
            target[i] = to_f16(tile[i])
    else:
        for i in range(count):
            (<uint16_t*>(<char*>target + i * stride))[0] = to_f16(tile[i])


cdef void store_bf16(const real* tile, uint16_t* target, Py_ssize_t stride, Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t i
    if stride == sizeof(uint16_t):
        for i in range(count):
            target[i] = to_bf16(tile[i])
    else:
        for i in range(count):
            (<uint16_t*>(<char*>target + i * stride))[0] = to_bf16(tile[i])


cdef void load_label(const whole* source, Py_ssize_t stride, int64_t* labels, Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t i
    if stride == sizeof(whole):
        for i in range(count):
            labels[i] = <int64_t>source[i]
    else:
        for i in range(count):
            labels[i] = <int64_t>(<const whole*>(<const char*>source + i * stride))[0]


cdef Py_ssize_t count_labels(int64_t* labels, double* weights, int64_t length, int64_t ignored, Py_ssize_t count) noexcept nogil:
    """The first label that is neither `ignored` nor within [0, length), or `count`.

    Where a row does not count its label becomes 0, and its weight too if it is ignored.
    """
    cdef Py_ssize_t i
    cdef int64_t outside = 0, counts, inside
    for i in range(count):
        counts = labels[i] != ignored
        inside = (labels[i] >= 0) & (labels[i] < length)
        outside |= counts & (1 - inside)
    if outside:
        for i in range(count):
            if labels[i] != ignored and not 0 <= labels[i] < length:
                return i
    for i in range(count):
        counts = labels[i] != ignored
        labels[i] = labels[i] if counts else 0
        weights[i] = weights[i] if counts else 0
    return count


cdef void times(const double* numbers, double factor, real* tile, Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(count):
        tile[i] = <real>(numbers[i] * factor)


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


cdef void adjust(const real* tile, double factor, double limit, real* target, Py_ssize_t count) noexcept nogil:
    """target = tile * factor, no further from 0 than `limit`; NaN stays."""
    cdef Py_ssize_t i
    cdef real by = <real>factor, most = <real>limit, scaled
    for i in range(count):
        scaled = tile[i] * by
        scaled = most if scaled > most else scaled
        target[i] = -most if scaled < -most else scaled


cdef void blend(real* average, const real* tile, double weight, Py_ssize_t count) noexcept nogil:
    """Move an average towards the tile, by a part of the way."""
    cdef Py_ssize_t i
    cdef real part = <real>weight
    for i in range(count):
        average[i] = average[i] + part * (tile[i] - average[i])


cdef void plus(real* tile, const real* other, double sign, Py_ssize_t count) noexcept nogil:
    """tile += sign * other."""
    cdef Py_ssize_t i
    cdef real by = <real>sign
    for i in range(count):
        tile[i] = tile[i] + by * other[i]


cdef void dither(float* tile, uint32_t key, Py_ssize_t first, Py_ssize_t count) noexcept nogil:
    """Round to bfloat16 at random: for each element the number that `key` and its index give."""
    cdef Py_ssize_t i
    for i in range(count):
        tile[i] = dithered(tile[i], noise(<uint32_t>(first + i), key))


cdef void run_on(real* numbers, double* sums, Py_ssize_t count) noexcept nogil:
    """Let each number be the sum so far, and add what it was to the sum."""
    cdef Py_ssize_t i
    cdef double before
    for i in range(count):
        before = sums[i]
        sums[i] = before + numbers[i]
        numbers[i] = <real>before


cdef bint rise(real* numbers, const real* following, Py_ssize_t count) noexcept nogil:
    """Let each number be what follows if that is greater; whether one is."""
    cdef Py_ssize_t i
    cdef int32_t risen = 0
    for i in range(count):
        risen |= following[i] > numbers[i]
        numbers[i] = following[i] if following[i] > numbers[i] else numbers[i]
    return risen


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
