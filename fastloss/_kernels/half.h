/* float16 and bfloat16 to and from float32, branch-free, so that loops over them vectorise on every level.
 *
 * Both directions round to nearest even and keep infinities and denormals; a NaN stays a NaN (quiet, sign kept). */

#ifndef FASTLOSS_HALF_H
#define FASTLOSS_HALF_H

#include "tile.h"

static inline float float_from_bf16(uint16_t h) { return from_bits_f32((int32_t)((uint32_t)h << 16)); }

static inline uint16_t bf16_from_float(float x) {
    uint32_t u = (uint32_t)bits_f32(x);
    uint32_t nearest = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    uint32_t quiet = (u >> 16) | 0x40u;
    return (uint16_t)((u & 0x7fffffffu) > 0x7f800000u ? quiet : nearest);
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

#endif
