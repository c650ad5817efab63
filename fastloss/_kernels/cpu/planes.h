/* Short rows side by side: plane c holds element c of every row. */

#ifndef FASTLOSS_PLANES_H
#define FASTLOSS_PLANES_H

#include <stddef.h>
#include <stdint.h>

/* Of one length the compiler makes shuffles; of any length it takes the elements one by one. */
#define FASTLOSS_EACH_LENGTH(MOVE)                                                                                             \
    switch (length) {                                                                                                          \
    case 2:                                                                                                                    \
        for (ptrdiff_t r = 0; r < count; r++) {                                                                                \
            MOVE(0, 2);                                                                                                        \
            MOVE(1, 2);                                                                                                        \
        }                                                                                                                      \
        break;                                                                                                                 \
    case 3:                                                                                                                    \
        for (ptrdiff_t r = 0; r < count; r++) {                                                                                \
            MOVE(0, 3);                                                                                                        \
            MOVE(1, 3);                                                                                                        \
            MOVE(2, 3);                                                                                                        \
        }                                                                                                                      \
        break;                                                                                                                 \
    case 4:                                                                                                                    \
        for (ptrdiff_t r = 0; r < count; r++) {                                                                                \
            MOVE(0, 4);                                                                                                        \
            MOVE(1, 4);                                                                                                        \
            MOVE(2, 4);                                                                                                        \
            MOVE(3, 4);                                                                                                        \
        }                                                                                                                      \
        break;                                                                                                                 \
    default:                                                                                                                   \
        for (ptrdiff_t c = 0; c < length; c++)                                                                                 \
            for (ptrdiff_t r = 0; r < count; r++)                                                                              \
                MOVE(c, length);                                                                                               \
    }

#define FASTLOSS_TO_PLANE(c, length) planes[(c) * plane + r] = rows[r * (length) + (c)]
#define FASTLOSS_TO_ROW(c, length) rows[r * (length) + (c)] = planes[(c) * plane + r]

/* `plane` counts elements. `pick` takes of each row the element that its label names, `add` adds to it: by selects, which for
 * short rows cost less than to look each one up. Labels are whole numbers of the elements' type. */
#define FASTLOSS_PLANES(suffix, real)                                                                                          \
    static void split_##suffix(const real *restrict rows, ptrdiff_t length, real *restrict planes, ptrdiff_t plane,            \
                               ptrdiff_t count) {                                                                              \
        FASTLOSS_EACH_LENGTH(FASTLOSS_TO_PLANE)                                                                                \
    }                                                                                                                          \
    static void join_##suffix(const real *restrict planes, ptrdiff_t plane, real *restrict rows, ptrdiff_t length,             \
                              ptrdiff_t count) {                                                                               \
        FASTLOSS_EACH_LENGTH(FASTLOSS_TO_ROW)                                                                                  \
    }                                                                                                                          \
    static void pick_##suffix(const real *restrict planes, ptrdiff_t plane, ptrdiff_t length, const real *restrict labels,     \
                              real *restrict picked, ptrdiff_t count) {                                                        \
        for (ptrdiff_t r = 0; r < count; r++)                                                                                  \
            picked[r] = planes[r];                                                                                             \
        for (ptrdiff_t c = 1; c < length; c++)                                                                                 \
            for (ptrdiff_t r = 0; r < count; r++)                                                                              \
                picked[r] = labels[r] == c ? planes[c * plane + r] : picked[r];                                                \
    }                                                                                                                          \
    static void add_##suffix(real *restrict planes, ptrdiff_t plane, ptrdiff_t length, const real *restrict labels,            \
                             const real *restrict what, ptrdiff_t count) {                                                     \
        for (ptrdiff_t c = 0; c < length; c++)                                                                                 \
            for (ptrdiff_t r = 0; r < count; r++)                                                                              \
                planes[c * plane + r] = labels[r] == c ? planes[c * plane + r] + what[r] : planes[c * plane + r];              \
    }

/* `which` is the first of each row's largest elements, or of its NaNs; `best` is that element. */
#define FASTLOSS_PREDICT(suffix, real)                                                                                         \
    static void predict_##suffix(const real *restrict planes, ptrdiff_t plane, ptrdiff_t length, real *restrict best,          \
                                 real *restrict which, ptrdiff_t count) {                                                      \
        for (ptrdiff_t r = 0; r < count; r++)                                                                                  \
            best[r] = planes[r], which[r] = 0;                                                                                 \
        for (ptrdiff_t c = 1; c < length; c++)                                                                                 \
            for (ptrdiff_t r = 0; r < count; r++) {                                                                            \
                real x = planes[c * plane + r];                                                                                \
                int better = (x > best[r]) | ((x != x) & (best[r] == best[r]));                                                \
                which[r] = better ? (real)c : which[r];                                                                        \
                best[r] = better ? x : best[r];                                                                                \
            }                                                                                                                  \
    }

FASTLOSS_PLANES(f32, float)
FASTLOSS_PREDICT(f32, float)
FASTLOSS_PREDICT(f64, double)
FASTLOSS_PLANES(f64, double)

#endif
