/* Included by tilework.c once for each native type: `real`, called `REAL` in the names of functions. */

#define FASTLOSS_LOAD(name, element)                                                                                           \
    static void OF_REAL(load_##name)(const element *source, ptrdiff_t stride, real *tile, ptrdiff_t count) {                   \
        if (stride == sizeof(element))                                                                                         \
            for (ptrdiff_t i = 0; i < count; i++)                                                                              \
                tile[i] = (real)source[i];                                                                                     \
        else if (stride == 0) {                                                                                                \
            real same = (real)source[0];                                                                                       \
            for (ptrdiff_t i = 0; i < count; i++)                                                                              \
                tile[i] = same;                                                                                                \
        } else                                                                                                                 \
            for (ptrdiff_t i = 0; i < count; i++)                                                                              \
                tile[i] = (real)FASTLOSS_AT(element, source, i);                                                               \
    }
FASTLOSS_LOAD(f32, float)
FASTLOSS_LOAD(f64, double)
EACH_WHOLE(FASTLOSS_LOAD)
#undef FASTLOSS_LOAD

#define FASTLOSS_HALF(name)                                                                                                    \
    static void OF_REAL(load_##name)(const uint16_t *source, ptrdiff_t stride, real *tile, ptrdiff_t count) {                  \
        if (stride == sizeof(uint16_t))                                                                                        \
            for (ptrdiff_t i = 0; i < count; i++)                                                                              \
                tile[i] = float_from_##name(source[i]);                                                                        \
        else                                                                                                                   \
            for (ptrdiff_t i = 0; i < count; i++)                                                                              \
                tile[i] = float_from_##name(FASTLOSS_AT(uint16_t, source, i));                                                 \
    }                                                                                                                          \
    static void OF_REAL(store_##name)(const real *tile, uint16_t *target, ptrdiff_t stride, ptrdiff_t count) {                 \
        if (stride == sizeof(uint16_t))                                                                                        \
            for (ptrdiff_t i = 0; i < count; i++)                                                                              \
                target[i] = FASTLOSS_NAMED(name##_from, real)(tile[i]);                                                        \
        else                                                                                                                   \
            for (ptrdiff_t i = 0; i < count; i++)                                                                              \
                FASTLOSS_TO(uint16_t, target, i) = FASTLOSS_NAMED(name##_from, real)(tile[i]);                                 \
    }
FASTLOSS_HALF(f16)
FASTLOSS_HALF(bf16)
#undef FASTLOSS_HALF

#define FASTLOSS_STORE(name, kept)                                                                                             \
    static void OF_REAL(store_##name)(const real *tile, kept *target, ptrdiff_t stride, ptrdiff_t count) {                     \
        if (stride == sizeof(kept))                                                                                            \
            for (ptrdiff_t i = 0; i < count; i++)                                                                              \
                target[i] = (kept)tile[i];                                                                                     \
        else                                                                                                                   \
            for (ptrdiff_t i = 0; i < count; i++)                                                                              \
                FASTLOSS_TO(kept, target, i) = (kept)tile[i];                                                                  \
    }
FASTLOSS_STORE(f32, float)
FASTLOSS_STORE(f64, double)
#undef FASTLOSS_STORE

static void OF_REAL(times)(const double *numbers, double factor, real *tile, ptrdiff_t count) {
    for (ptrdiff_t i = 0; i < count; i++)
        tile[i] = (real)(numbers[i] * factor);
}

/* target = tile * factor; the two may be one. */
static void OF_REAL(scale)(const real *tile, double factor, real *target, ptrdiff_t count) {
    real by = (real)factor;
    for (ptrdiff_t i = 0; i < count; i++)
        target[i] = tile[i] * by;
}

/* target = tile * weights * factor; a weight of 0 takes the element out, NaN and infinity included. */
static void OF_REAL(weigh)(const real *tile, const real *weights, double factor, real *target, ptrdiff_t count) {
    real by = (real)factor;
    for (ptrdiff_t i = 0; i < count; i++)
        target[i] = weights[i] != 0 ? tile[i] * weights[i] * by : 0;
}

/* target = tile * factor, no further from 0 than `limit`; NaN stays. */
static void OF_REAL(adjust)(const real *tile, double factor, double limit, real *target, ptrdiff_t count) {
    real by = (real)factor, most = (real)limit, scaled;
    for (ptrdiff_t i = 0; i < count; i++) {
        scaled = tile[i] * by;
        scaled = scaled > most ? most : scaled;
        target[i] = scaled < -most ? -most : scaled;
    }
}

/* Move an average towards the tile, by a part of the way. */
static void OF_REAL(blend)(real *average, const real *tile, double weight, ptrdiff_t count) {
    real part = (real)weight;
    for (ptrdiff_t i = 0; i < count; i++)
        average[i] = average[i] + part * (tile[i] - average[i]);
}

/* tile += sign * other. */
static void OF_REAL(plus)(real *tile, const real *other, double sign, ptrdiff_t count) {
    real by = (real)sign;
    for (ptrdiff_t i = 0; i < count; i++)
        tile[i] = tile[i] + by * other[i];
}

/* Let each number be the sum so far, and add what it was to the sum. */
static void OF_REAL(run_on)(real *numbers, double *sums, ptrdiff_t count) {
    for (ptrdiff_t i = 0; i < count; i++) {
        double before = sums[i];
        sums[i] = before + numbers[i];
        numbers[i] = (real)before;
    }
}

/* Let each number be what follows if that is greater; whether one is. */
static int OF_REAL(rise)(real *numbers, const real *following, ptrdiff_t count) {
    int32_t risen = 0;
    for (ptrdiff_t i = 0; i < count; i++) {
        risen |= following[i] > numbers[i];
        numbers[i] = following[i] > numbers[i] ? following[i] : numbers[i];
    }
    return risen;
}

/* The first element that is not in [low, high], or `count`. */
static ptrdiff_t OF_REAL(outside)(const real *tile, double low, double high, int nan_is_outside, ptrdiff_t count) {
    real least = (real)low, most = (real)high;
    int32_t found = 0;
    if (nan_is_outside)
        for (ptrdiff_t i = 0; i < count; i++)
            found |= 1 - ((tile[i] >= least) & (tile[i] <= most));
    else
        for (ptrdiff_t i = 0; i < count; i++)
            found |= (tile[i] < least) | (tile[i] > most);
    if (!found)
        return count;
    for (ptrdiff_t i = 0; i < count; i++)
        if (tile[i] < least || tile[i] > most || (nan_is_outside && tile[i] != tile[i]))
            return i;
    return count;
}
