/* What the emitted tile kernels are written in: the few operations that Cython has no word for. */

#ifndef FASTLOSS_TILE_H
#define FASTLOSS_TILE_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(_MSC_VER) && !defined(__clang__)
#define FASTLOSS_RESTRICT __restrict
#else
#define FASTLOSS_RESTRICT __restrict__
#endif

/* The engine hands every kernel tiles that do not overlap, but for an update rule's own array, read and written in place. */
typedef float *FASTLOSS_RESTRICT float_tile;
typedef double *FASTLOSS_RESTRICT double_tile;

/* A select, not a branch: both sides are computed, so the loop vectorises. */
#define FASTLOSS_WHERE(condition, a, b) ((condition) ? (a) : (b))

#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define fma_f32(a, b, c) __builtin_fmaf(a, b, c)
#define fma_f64(a, b, c) __builtin_fma(a, b, c)
#else
#define fma_f32(a, b, c) ((a) * (b) + (c))
#define fma_f64(a, b, c) ((a) * (b) + (c))
#endif

static inline int32_t bits_f32(float x) {
    int32_t i;
    memcpy(&i, &x, sizeof i);
    return i;
}

static inline int64_t bits_f64(double x) {
    int64_t i;
    memcpy(&i, &x, sizeof i);
    return i;
}

static inline float from_bits_f32(int32_t i) {
    float x;
    memcpy(&x, &i, sizeof x);
    return x;
}

static inline double from_bits_f64(int64_t i) {
    double x;
    memcpy(&x, &i, sizeof x);
    return x;
}

#endif
