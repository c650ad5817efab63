/* What the emitted tile kernels are written in: the few operations that C has no word for. */

#ifndef FASTLOSS_TILE_H
#define FASTLOSS_TILE_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(_MSC_VER) && !defined(__clang__)
#define FASTLOSS_RESTRICT __restrict
#else
#define FASTLOSS_RESTRICT __restrict__
#endif

/* A call inside a kernel's loop would keep it from being vectorised. */
#if defined(__GNUC__)
#define FASTLOSS_INLINE static inline __attribute__((always_inline, unused))
#elif defined(_MSC_VER)
#define FASTLOSS_INLINE static __forceinline
#else
#define FASTLOSS_INLINE static inline
#endif

/* The engine hands every kernel tiles that do not overlap, but for an update rule's own array, read and written in place. */
typedef float *FASTLOSS_RESTRICT float_tile;
typedef double *FASTLOSS_RESTRICT double_tile;

#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define fma_f32(a, b, c) __builtin_fmaf(a, b, c)
#define fma_f64(a, b, c) __builtin_fma(a, b, c)
#else
#define fma_f32(a, b, c) ((a) * (b) + (c))
#define fma_f64(a, b, c) ((a) * (b) + (c))
#endif

#define absolute_f32(x) fabsf(x)
#define absolute_f64(x) fabs(x)
#define sqrt_f32(x) sqrtf(x)
#define sqrt_f64(x) sqrt(x)
#define to_float_f32(i) ((float)(i))
#define to_float_f64(i) ((double)(i))

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

/* Selects of bits, not branches: the compiler would thread jumps through branches and leave a loop that it cannot vectorise. */
static inline int32_t where_i32(int condition, int32_t a, int32_t b) {
    int32_t mask = -(int32_t)(condition != 0);
    return (a & mask) | (b & ~mask);
}

static inline int64_t where_i64(int condition, int64_t a, int64_t b) {
    int64_t mask = -(int64_t)(condition != 0);
    return (a & mask) | (b & ~mask);
}

/* A number that the compiler knows nothing of. A vector of a known number is loaded apart for a comparison and for a choice, and the
 * two are then no longer seen to be one extreme. */
#if defined(__GNUC__)
extern const float fastloss_nothing_f32 __attribute__((visibility("hidden")));
extern const double fastloss_nothing_f64 __attribute__((visibility("hidden")));
#define opaque_f32(a) (__builtin_constant_p(a) ? (a) + fastloss_nothing_f32 : (a))
#define opaque_f64(a) (__builtin_constant_p(a) ? (a) + fastloss_nothing_f64 : (a))
#else
#define opaque_f32(a) (a)
#define opaque_f64(a) (a)
#endif

/* These are one instruction each. */
#define lesser_f32(a, b) (opaque_f32(a) < opaque_f32(b) ? opaque_f32(a) : opaque_f32(b))
#define lesser_f64(a, b) (opaque_f64(a) < opaque_f64(b) ? opaque_f64(a) : opaque_f64(b))
#define greater_f32(a, b) (opaque_f32(a) > opaque_f32(b) ? opaque_f32(a) : opaque_f32(b))
#define greater_f64(a, b) (opaque_f64(a) > opaque_f64(b) ? opaque_f64(a) : opaque_f64(b))
#define lesser_i32(a, b) ((a) < (b) ? (a) : (b))
#define lesser_i64(a, b) ((a) < (b) ? (a) : (b))
#define greater_i32(a, b) ((a) > (b) ? (a) : (b))
#define greater_i64(a, b) ((a) > (b) ? (a) : (b))

static inline float where_f32(int condition, float a, float b) {
    return from_bits_f32(where_i32(condition, bits_f32(a), bits_f32(b)));
}

static inline double where_f64(int condition, double a, double b) {
    return from_bits_f64(where_i64(condition, bits_f64(a), bits_f64(b)));
}

#endif
