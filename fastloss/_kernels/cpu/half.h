/* float16 and bfloat16 to and from float32 and float64, branch-free, so that loops over them vectorise on every level.
 *
 * Both directions round to nearest even and keep infinities and denormals; a NaN stays a NaN (quiet, sign kept). */

#ifndef FASTLOSS_HALF_H
#define FASTLOSS_HALF_H

#include "tile.h"

static inline float float_from_bf16(uint16_t h) { return from_bits_f32((int32_t)((uint32_t)h << 16)); }

/* A NaN is not rounded, but made quiet. */
static inline uint16_t bf16_from_float(float x) {
    uint32_t u = (uint32_t)bits_f32(x);
    uint32_t more = x != x ? 0u : 0x7fffu + ((u >> 16) & 1u);
    uint32_t quiet = x != x ? 0x400000u : 0u;
    return (uint16_t)(((u + more) | quiet) >> 16);
}

static inline float float_from_f16(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t magnitude = (uint32_t)(h & 0x7fffu) << 13;
    /* Moved into float32's exponent field the number is 2^112 too small, denormals included. */
    float finite = from_bits_f32((int32_t)magnitude) * 0x1p112f;
    uint32_t special = magnitude | 0x7f800000u | (magnitude > 0x0f800000u ? 0x400000u : 0u);
    uint32_t pattern = magnitude >= 0x0f800000u ? special : (uint32_t)bits_f32(finite);
    return from_bits_f32((int32_t)(pattern | sign));
}

static inline uint16_t f16_from_float(float x) {
    uint32_t u = (uint32_t)bits_f32(x);
    uint32_t sign = (u >> 16) & 0x8000u;
    uint32_t magnitude = u & 0x7fffffffu;
    /* Adding 1/2 lets the adder itself round a float16 denormal into the low bits. */
    uint32_t denormal = (uint32_t)bits_f32(from_bits_f32((int32_t)magnitude) + 0.5f) - 0x3f000000u;
    uint32_t normal = (magnitude + 0xc8000fffu + ((magnitude >> 13) & 1u)) >> 13;
    uint32_t special = magnitude > 0x7f800000u ? (0x7e00u | ((magnitude >> 13) & 0x3ffu)) : 0x7c00u;
    uint32_t pattern = magnitude < 0x38800000u ? denormal : magnitude >= 0x47800000u ? special : normal;
    return (uint16_t)(pattern | sign);
}

/* To odd, where a double does not fit: to be rounded once more, as if it had not been rounded before. */
static inline float odd_from_double(double x) {
    float nearest = (float)x;
    uint32_t u = (uint32_t)bits_f32(nearest);
    uint32_t away = fabs((double)nearest) > fabs(x);
    uint32_t inexact = (double)nearest < x || (double)nearest > x;
    return from_bits_f32((int32_t)((u - away) | inexact));
}

static inline uint16_t bf16_from_double(double x) { return bf16_from_float(odd_from_double(x)); }
static inline uint16_t f16_from_double(double x) { return f16_from_float(odd_from_double(x)); }

/* A number of 32 bits for each index, without a state: multiplications and shifts that mix every bit into every other. */
static inline uint32_t noise(uint32_t index, uint32_t key) {
    uint32_t h = index * 0x9e3779b9u + key;
    h = (h ^ (h >> 16)) * 0x7feb352du;
    h = (h ^ (h >> 15)) * 0x846ca68bu;
    return h ^ (h >> 16);
}

/* One of the two bfloat16 numbers around x, the nearer one the more probable, so that x is what they are on average. */
static inline float dithered(float x, uint32_t noise) {
    uint32_t u = (uint32_t)bits_f32(x);
    uint32_t chosen = (u + (noise & 0xffffu)) & 0xffff0000u;
    return from_bits_f32((int32_t)((u & 0x7f800000u) == 0x7f800000u ? u : chosen));
}

#endif
