/* The thread pool: one call's chunks, shared between the calling thread and optional helpers. */
#ifndef FASTLOSS_POOL_H
#define FASTLOSS_POOL_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Pure work on one chunk.  `scratch` is memory that no other thread uses meanwhile; the stack may be
   a small one, as Python threads can have 64 KiB. */
typedef void (*fastloss_work)(void *context, ptrdiff_t chunk, char *scratch);

/* Asked by the calling thread between chunks, every 20 ms at most; nonzero: stop. */
typedef int (*fastloss_poll)(void *context);

/* Runs every chunk of 0 .. chunks-1 once, on at most `threads` threads.  Returns 0, or poll's
   nonzero value, and then the chunks not yet taken are dropped.  After the return no other thread
   touches context.  Chunks of 5 to 20 us serve best: the first one runs alone, to learn whether the
   rest is worth a second thread, and the call may have to wait for one at its end.  poll may be
   NULL.  Calls from inside work, and calls while another thread's call has the helpers, run on the
   calling thread alone.  `scratch` holds `room` bytes for each of the `threads`. */
int fastloss_run(fastloss_work work, fastloss_poll poll, void *context, ptrdiff_t chunks, int threads, char *scratch,
                 size_t room);

/* Cores this process may use, by its affinity mask and its cgroup's quota; read anew each time. */
int fastloss_available_cores(void);

/* The number of threads callers should pass to fastloss_run: the number set, at first the available
   cores, or the lowest limit that holds. */
int fastloss_get_num_threads(void);

/* Clamped to 1 .. the available cores (128 at most). */
void fastloss_set_num_threads(int count);

/* Adds (by = 1) or removes (by = -1) a limit on the whole process. */
void fastloss_limit_threads(int limit, int by);

#ifdef __cplusplus
}
#endif

#endif
