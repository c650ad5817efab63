/* Sums whose order is fixed, and stores that bypass the caches. */

#ifndef FASTLOSS_LANES_H
#define FASTLOSS_LANES_H

#include <stddef.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

/* 32 double lanes, whatever the vector width: the same bits on every level. Doubles, not floats: 1024 losses of 1e38 have a
 * mean, and in the first-level cache the wider sum costs nothing that a call over memory can feel. */
enum { FASTLOSS_LANES = 32 };

#define FASTLOSS_SUM(name, real)                                                                                              \
    static double name(const real *tile, ptrdiff_t count) {                                                                   \
        double lanes[FASTLOSS_LANES] = {0};                                                                                   \
        ptrdiff_t i = 0;                                                                                                      \
        for (; i + FASTLOSS_LANES <= count; i += FASTLOSS_LANES)                                                              \
            for (int k = 0; k < FASTLOSS_LANES; k++) lanes[k] += tile[i + k];                                                 \
        for (int k = 0; i + k < count; k++) lanes[k] += tile[i + k];                                                          \
        for (int width = FASTLOSS_LANES / 2; width; width /= 2)                                                               \
            for (int k = 0; k < width; k++) lanes[k] += lanes[k + width];                                                     \
        return lanes[0];                                                                                                      \
    }
FASTLOSS_SUM(sum_f32, float)
FASTLOSS_SUM(sum_f64, double)

/* A streamed store must be visible before its chunk counts as done. */
#if defined(__SSE2__)
#define FASTLOSS_FENCE() _mm_sfence()
#else
#define FASTLOSS_FENCE() ((void)0)
#endif

/* target = tile * factor past the caches: the line is not read before it is written, which is a quarter of the traffic of a
 * call that reads two arrays and writes one. */
static void stream_f32(const float *tile, double by, float *target, ptrdiff_t count) {
    float factor = (float)by;
    ptrdiff_t i = 0;
#if defined(__AVX512F__)
    for (; i < count && ((size_t)(target + i) & 63); i++) target[i] = tile[i] * factor;
    for (; i + 16 <= count; i += 16)
        _mm512_stream_ps(target + i, _mm512_mul_ps(_mm512_loadu_ps(tile + i), _mm512_set1_ps(factor)));
#elif defined(__SSE2__)
    for (; i < count && ((size_t)(target + i) & 15); i++) target[i] = tile[i] * factor;
    for (; i + 4 <= count; i += 4) _mm_stream_ps(target + i, _mm_mul_ps(_mm_loadu_ps(tile + i), _mm_set1_ps(factor)));
#endif
    for (; i < count; i++) target[i] = tile[i] * factor;
    FASTLOSS_FENCE();
}

static void stream_f64(const double *tile, double factor, double *target, ptrdiff_t count) {
    ptrdiff_t i = 0;
#if defined(__AVX512F__)
    for (; i < count && ((size_t)(target + i) & 63); i++) target[i] = tile[i] * factor;
    for (; i + 8 <= count; i += 8)
        _mm512_stream_pd(target + i, _mm512_mul_pd(_mm512_loadu_pd(tile + i), _mm512_set1_pd(factor)));
#elif defined(__SSE2__)
    for (; i < count && ((size_t)(target + i) & 15); i++) target[i] = tile[i] * factor;
    for (; i + 2 <= count; i += 2) _mm_stream_pd(target + i, _mm_mul_pd(_mm_loadu_pd(tile + i), _mm_set1_pd(factor)));
#endif
    for (; i < count; i++) target[i] = tile[i] * factor;
    FASTLOSS_FENCE();
}

#endif
