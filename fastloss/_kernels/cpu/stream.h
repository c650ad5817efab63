/* Stores that bypass the caches: a line is not read before it is written, a quarter of the traffic of a call that reads two
 * arrays and writes one. That holds for whole lines alone, and rows seldom begin where a line does: what one tile leaves of a line
 * is held until the next tile, which goes on where it ended, fills it. Rows of 128 floats are stored in half the time so. */

#ifndef FASTLOSS_STREAM_H
#define FASTLOSS_STREAM_H

#include <stddef.h>
#include <string.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

enum { FASTLOSS_LINE = 64 };

typedef struct {
    char *next;     /* where the last tile ended */
    ptrdiff_t held; /* bytes of the line there, with room for one more */
    char line[2 * FASTLOSS_LINE];
} Stream;

static inline void begin_stream(Stream *stream) { memset(stream, 0, sizeof *stream); }

static inline void release_line(Stream *stream) {
    memcpy(stream->next - stream->held, stream->line, (size_t)stream->held);
    stream->held = 0;
}

/* What was streamed must be visible before its chunk counts as done. */
static inline void end_stream(Stream *stream) {
    if (stream->held)
        release_line(stream);
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

#if defined(__AVX512F__)
static inline void store_line(void *target, const void *line) { _mm512_stream_si512(target, _mm512_loadu_si512(line)); }
#elif defined(__SSE2__)
static inline void store_line(void *target, const void *line) {
    for (int k = 0; k < FASTLOSS_LINE / 16; k++)
        _mm_stream_si128((__m128i *)target + k, _mm_loadu_si128((const __m128i *)line + k));
}
#else
static inline void store_line(void *target, const void *line) { memcpy(target, line, FASTLOSS_LINE); }
#endif

/* target = tile * by; what lies behind the tile's last element may be read, up to a line. */
#define FASTLOSS_STREAM(name, real)                                                                                            \
    static void name(const real *tile, double by, real *target, ptrdiff_t count, Stream *stream) {                             \
        enum { LANES = FASTLOSS_LINE / sizeof(real) };                                                                         \
        const real factor = (real)by;                                                                                          \
        real line[LANES];                                                                                                      \
        ptrdiff_t i = 0;                                                                                                       \
        if (stream->held && stream->next != (char *)target)                                                                    \
            release_line(stream);                                                                                              \
        if (stream->held) {                                                                                                    \
            ptrdiff_t held = stream->held / (ptrdiff_t)sizeof(real);                                                           \
            for (int k = 0; k < LANES; k++)                                                                                    \
                line[k] = tile[k] * factor;                                                                                    \
            memcpy(stream->line + stream->held, line, sizeof line);                                                            \
            i = LANES - held < count ? LANES - held : count;                                                                   \
            stream->held += i * (ptrdiff_t)sizeof(real);                                                                       \
            if (stream->held == FASTLOSS_LINE) {                                                                               \
                store_line(target + i - LANES, stream->line);                                                                  \
                stream->held = 0;                                                                                              \
            }                                                                                                                  \
        } else {                                                                                                               \
            for (; i < count && (size_t)(target + i) % FASTLOSS_LINE; i++)                                                     \
                target[i] = tile[i] * factor;                                                                                  \
        }                                                                                                                      \
        for (; i + LANES <= count; i += LANES) {                                                                               \
            for (int k = 0; k < LANES; k++)                                                                                    \
                line[k] = tile[i + k] * factor;                                                                                \
            store_line(target + i, line);                                                                                      \
        }                                                                                                                      \
        if (i < count) {                                                                                                       \
            for (int k = 0; k < LANES; k++)                                                                                    \
                line[k] = tile[i + k] * factor;                                                                                \
            memcpy(stream->line, line, sizeof line);                                                                           \
            stream->held = (count - i) * (ptrdiff_t)sizeof(real);                                                              \
        }                                                                                                                      \
        stream->next = (char *)(target + count);                                                                               \
    }
FASTLOSS_STREAM(stream_f32, float)
FASTLOSS_STREAM(stream_f64, double)

#endif
