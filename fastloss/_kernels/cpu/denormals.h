/* Numbers too small to be normal, flushed to 0 for as long as a kernel runs: moments that decay into them would slow a step down
 * by two orders of magnitude on some processors. The thread's own mode comes back after each kernel. */

#ifndef FASTLOSS_DENORMALS_H
#define FASTLOSS_DENORMALS_H

#include <stdint.h>
#if defined(__SSE2__) || defined(_M_X64)
#include <immintrin.h>
#endif

#if defined(__SSE2__) || defined(_M_X64)
static inline uint64_t flush_denormals(void) {
    unsigned int mode = _mm_getcsr();
    _mm_setcsr(mode | 0x8040u); /* results, and operands */
    return mode;
}
static inline void restore_mode(uint64_t mode) { _mm_setcsr((unsigned int)mode); }
#elif defined(__aarch64__) && defined(__GNUC__)
static inline uint64_t flush_denormals(void) {
    uint64_t mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    __asm__ volatile("msr fpcr, %0" : : "r"(mode | (1u << 24)));
    return mode;
}
static inline void restore_mode(uint64_t mode) { __asm__ volatile("msr fpcr, %0" : : "r"(mode)); }
#else
static inline uint64_t flush_denormals(void) { return 0; }
static inline void restore_mode(uint64_t mode) { (void)mode; }
#endif

#endif
