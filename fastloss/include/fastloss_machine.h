/* What the functions of fastloss.h are written in: the few operations that C has no word for. Plain C99. */

#ifndef FASTLOSS_MACHINE_H
#define FASTLOSS_MACHINE_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__)
#define FASTLOSS_INLINE static inline __attribute__((always_inline, unused))
#elif defined(_MSC_VER)
#define FASTLOSS_INLINE static __forceinline
#else
#define FASTLOSS_INLINE static inline
#endif

#if (defined(__FMA__) || defined(__ARM_FEATURE_FMA)) && defined(__GNUC__)
#define fastloss_math_fma_f32(a, b, c) __builtin_fmaf(a, b, c)
#define fastloss_math_fma_f64(a, b, c) __builtin_fma(a, b, c)
#else
#define fastloss_math_fma_f32(a, b, c) ((a) * (b) + (c))
#define fastloss_math_fma_f64(a, b, c) ((a) * (b) + (c))
#endif

#define fastloss_math_absolute_f32(x) fabsf(x)
#define fastloss_math_absolute_f64(x) fabs(x)
#define fastloss_math_sqrt_f32(x) sqrtf(x)
#define fastloss_math_sqrt_f64(x) sqrt(x)
#define fastloss_math_to_float_f32(i) ((float)(i))
#define fastloss_math_to_float_f64(i) ((double)(i))

FASTLOSS_INLINE int32_t fastloss_math_bits_f32(float x) {
    int32_t i;
    memcpy(&i, &x, sizeof i);
    return i;
}

FASTLOSS_INLINE int64_t fastloss_math_bits_f64(double x) {
    int64_t i;
    memcpy(&i, &x, sizeof i);
    return i;
}

FASTLOSS_INLINE float fastloss_math_from_bits_f32(int32_t i) {
    float x;
    memcpy(&x, &i, sizeof x);
    return x;
}

FASTLOSS_INLINE double fastloss_math_from_bits_f64(int64_t i) {
    double x;
    memcpy(&x, &i, sizeof x);
    return x;
}

/* Whole numbers wrap, whatever the compiler makes of signed overflow. */
#define FASTLOSS_OPERATIONS(suffix, real)                                                                                      \
    FASTLOSS_INLINE real fastloss_math_where_##suffix(int condition, real a, real b) { return condition ? a : b; }             \
    FASTLOSS_INLINE real fastloss_math_lesser_##suffix(real a, real b) { return a < b ? a : b; }                               \
    FASTLOSS_INLINE real fastloss_math_greater_##suffix(real a, real b) { return a > b ? a : b; }

#define FASTLOSS_WHOLE(suffix, whole, unsigned_whole)                                                                          \
    FASTLOSS_INLINE whole fastloss_math_add_##suffix(whole a, whole b) {                                                       \
        return (whole)((unsigned_whole)a + (unsigned_whole)b);                                                                 \
    }                                                                                                                          \
    FASTLOSS_INLINE whole fastloss_math_sub_##suffix(whole a, whole b) {                                                       \
        return (whole)((unsigned_whole)a - (unsigned_whole)b);                                                                 \
    }                                                                                                                          \
    FASTLOSS_INLINE whole fastloss_math_mul_##suffix(whole a, whole b) {                                                       \
        return (whole)((unsigned_whole)a * (unsigned_whole)b);                                                                 \
    }                                                                                                                          \
    FASTLOSS_INLINE whole fastloss_math_neg_##suffix(whole a) { return (whole)(0 - (unsigned_whole)a); }                       \
    FASTLOSS_INLINE whole fastloss_math_shl_##suffix(whole a, whole b) { return (whole)((unsigned_whole)a << b); }

FASTLOSS_OPERATIONS(f32, float)
FASTLOSS_OPERATIONS(f64, double)
FASTLOSS_OPERATIONS(i32, int32_t)
FASTLOSS_OPERATIONS(i64, int64_t)
FASTLOSS_WHOLE(i32, int32_t, uint32_t)
FASTLOSS_WHOLE(i64, int64_t, uint64_t)

#undef FASTLOSS_OPERATIONS
#undef FASTLOSS_WHOLE

#endif
