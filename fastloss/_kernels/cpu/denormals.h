/* Numbers too small to be normal, flushed to 0 for as long as a kernel runs: moments that decay into them would slow a step down
 * by two orders of magnitude on some processors. The thread's own mode comes back after each kernel, its exception flags too.
 *
 * The processor's flag of overflow says, at no cost, whether a finite result was too large for its type since the flags were
 * cleared; what has no such flag says that one might have been. */

#ifndef FASTLOSS_DENORMALS_H
#define FASTLOSS_DENORMALS_H

#include <stdint.h>
#if defined(__SSE2__) || defined(_M_X64)
#include <immintrin.h>
#endif

#if defined(__SSE2__) || defined(_M_X64)
static inline uint64_t keep_mode(void) { return _mm_getcsr(); }
static inline void restore_mode(uint64_t mode) { _mm_setcsr((unsigned int)mode); }
static inline int has_overflowed(void) { return (_mm_getcsr() & 8u) != 0; }
static inline void clear_overflow(void) { _mm_setcsr(_mm_getcsr() & ~8u); }
static inline uint64_t flush_denormals(void) {
    unsigned int mode = _mm_getcsr();
    _mm_setcsr((mode | 0x8040u) & ~8u); /* results, and operands */
    return mode;
}
#elif defined(__aarch64__) && defined(__GNUC__)
static inline uint64_t keep_mode(void) {
    uint64_t mode, flags;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    __asm__ volatile("mrs %0, fpsr" : "=r"(flags));
    return mode | flags << 32;
}
static inline void restore_mode(uint64_t mode) {
    __asm__ volatile("msr fpcr, %0" : : "r"(mode & 0xffffffffu));
    __asm__ volatile("msr fpsr, %0" : : "r"(mode >> 32));
}
static inline int has_overflowed(void) {
    uint64_t flags;
    __asm__ volatile("mrs %0, fpsr" : "=r"(flags));
    return (flags & 4u) != 0;
}
static inline void clear_overflow(void) {
    uint64_t flags;
    __asm__ volatile("mrs %0, fpsr" : "=r"(flags));
    __asm__ volatile("msr fpsr, %0" : : "r"(flags & ~(uint64_t)4u));
}
static inline uint64_t flush_denormals(void) {
    uint64_t mode = keep_mode();
    __asm__ volatile("msr fpcr, %0" : : "r"((mode & 0xffffffffu) | (1u << 24)));
    clear_overflow();
    return mode;
}
#else
static inline uint64_t keep_mode(void) { return 0; }
static inline void restore_mode(uint64_t mode) { (void)mode; }
static inline int has_overflowed(void) { return 1; }
static inline void clear_overflow(void) {}
static inline uint64_t flush_denormals(void) { return 0; }
#endif

#endif
