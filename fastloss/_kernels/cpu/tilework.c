/* What the driver does with a tile besides the formula: load, scale and store it, sum it, look for what does not belong.
 * Compiled for every level, so that these loops use the level's vectors too. */

#include "half.h"
#include "kernels.h"
#include "lanes.h"
#include "planes.h"
#include "stream.h"
#include "tile.h"

#define FASTLOSS_JOINED(a, b) a##_##b
#define FASTLOSS_NAMED(work, suffix) FASTLOSS_JOINED(work, suffix)
#define OF_REAL(work) FASTLOSS_NAMED(work, REAL)

/* Elements `stride` bytes apart. */
#define FASTLOSS_AT(element, source, i) (*(const element *)((const char *)(source) + (i) * stride))
#define FASTLOSS_TO(element, target, i) (*(element *)((char *)(target) + (i) * stride))

#define EACH_WHOLE(DO)                                                                                                         \
    DO(i8, int8_t)                                                                                                             \
    DO(i16, int16_t) DO(i32, int32_t) DO(i64, int64_t) DO(u8, uint8_t) DO(u16, uint16_t) DO(u32, uint32_t) DO(u64, uint64_t)

#define REAL f32
#define real float
#include "tilework.h"
#undef REAL
#undef real
#define REAL f64
#define real double
#include "tilework.h"
#undef REAL
#undef real

#define FASTLOSS_LOAD_LABEL(name, whole)                                                                                       \
    static void load_##name##_label(const whole *source, ptrdiff_t stride, int64_t *labels, ptrdiff_t count) {                 \
        if (stride == sizeof(whole))                                                                                           \
            for (ptrdiff_t i = 0; i < count; i++)                                                                              \
                labels[i] = (int64_t)source[i];                                                                                \
        else                                                                                                                   \
            for (ptrdiff_t i = 0; i < count; i++)                                                                              \
                labels[i] = (int64_t)FASTLOSS_AT(whole, source, i);                                                            \
    }
EACH_WHOLE(FASTLOSS_LOAD_LABEL)

/* The first label that is neither `ignored` nor within [0, length), or `count`. Where a row does not count its label becomes 0, and
 * its weight too if it is ignored. */
static ptrdiff_t count_labels(int64_t *labels, double *weights, int64_t length, int64_t ignored, ptrdiff_t count) {
    int64_t outside = 0, counts, inside;
    for (ptrdiff_t i = 0; i < count; i++) {
        counts = labels[i] != ignored;
        inside = (labels[i] >= 0) & (labels[i] < length);
        outside |= counts & (1 - inside);
    }
    if (outside)
        for (ptrdiff_t i = 0; i < count; i++)
            if (labels[i] != ignored && !(0 <= labels[i] && labels[i] < length))
                return i;
    for (ptrdiff_t i = 0; i < count; i++) {
        counts = labels[i] != ignored;
        labels[i] = counts ? labels[i] : 0;
        weights[i] = counts ? weights[i] : 0;
    }
    return count;
}

/* Round to bfloat16 at random: for each element the number that `key` and its index give. */
static void dither(float *tile, uint32_t key, ptrdiff_t first, ptrdiff_t count) {
    for (ptrdiff_t i = 0; i < count; i++)
        tile[i] = dithered(tile[i], noise((uint32_t)(first + i), key));
}

#define ENTRY(name) {#name, (void *)name, 0},
#define OF_BOTH(work) ENTRY(work##_f32) ENTRY(work##_f64)
#define LOADS(name, element) OF_BOTH(load_##name)
#define LABELS(name, element) ENTRY(load_##name##_label)

const Kernel fastloss_tilework[] = {
    /* clang-format off */
    LOADS(f32, float) LOADS(f64, double) EACH_WHOLE(LOADS) OF_BOTH(load_f16) OF_BOTH(load_bf16) EACH_WHOLE(LABELS)
    OF_BOTH(store_f32) OF_BOTH(store_f64) OF_BOTH(store_f16) OF_BOTH(store_bf16) OF_BOTH(stream) ENTRY(dither)
    OF_BOTH(scale) OF_BOTH(weigh) OF_BOTH(times) OF_BOTH(adjust) OF_BOTH(blend) OF_BOTH(plus)
    OF_BOTH(outside) OF_BOTH(rise) OF_BOTH(run_on) ENTRY(count_labels)
    OF_BOTH(sum) OF_BOTH(squares) OF_BOTH(largest) OF_BOTH(first_largest) OF_BOTH(run)
    OF_BOTH(split) OF_BOTH(join) OF_BOTH(pick) OF_BOTH(add) OF_BOTH(predict)
    /* clang-format on */
    {NULL, NULL, 0},
};
