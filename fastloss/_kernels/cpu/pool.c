/* The thread pool.  The calling thread works through the chunks and never depends on a helper: one
   that is not running is not waited for, only a chunk that a helper has already taken is. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "pool.h"

#include <stdint.h>
#include <time.h>

enum { POLL_EVERY = 20000000 }; /* nanoseconds, like all times here */

static int64_t now(void) {
#ifdef _WIN32
    return (int64_t)clock() * (1000000000 / CLOCKS_PER_SEC); /* wall time, on Windows */
#else
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
#endif
}

static int ask(fastloss_poll poll, void *context, int64_t *asked) {
    if (!poll)
        return 0;
    int64_t time = now();
    if (time - *asked < POLL_EVERY)
        return 0;
    *asked = time;
    return poll(context);
}

static int run_alone(fastloss_work work, fastloss_poll poll, void *context, ptrdiff_t chunk, ptrdiff_t chunks, char *scratch,
                     int64_t start) {
    int stop = 0;
    while (chunk < chunks && !stop) {
        work(context, chunk++, scratch);
        stop = ask(poll, context, &start);
    }
    return stop;
}

#if defined(_WIN32) || defined(__STDC_NO_ATOMICS__)

int fastloss_run(fastloss_work work, fastloss_poll poll, void *context, ptrdiff_t chunks, int threads, char *scratch,
                 size_t room) {
    (void)threads, (void)room;
    return run_alone(work, poll, context, 0, chunks, scratch, now());
}

int fastloss_available_cores(void) { return 1; }
int fastloss_get_num_threads(void) { return 1; }
void fastloss_set_num_threads(int count) { (void)count; }
void fastloss_limit_threads(int limit, int by) { (void)limit, (void)by; }

#else

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#define current_core() sched_getcpu()
#else
#define current_core() (-2) /* unknown: never the core of a caller */
#endif

#if defined(__x86_64__) || defined(__i386__)
#define relax() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define relax() __asm__ volatile("isb")
#else
#define relax() ((void)0)
#endif

enum { MAX_THREADS = 128, MAX_HELPERS = MAX_THREADS - 1 };

/* Measured on two virtual cores: a futex wake takes its caller 6 us and the woken thread runs 20 us
   later, 60 us on a core that was long idle; a spinning thread answers within 0.2 us. */
enum {
    HELPER_SPIN = 50000,   /* from a helper's last chunk to its sleep */
    CALLER_SPIN = 20000,   /* from the caller's last chunk to its sleep, if a helper is not done */
    WORTH_SHARING = 10000, /* work left, where a helper spins */
    WORTH_WAKING = 60000,  /* work left, where the helpers sleep */
    PREEMPTED = 10000,     /* so long a gap in a spin: somebody else wants this core */
    LONGEST_REST = 1000000000,
};
enum { FIRST_REST = 4, LAST_REST = 128 }; /* multiples of what was lost */

/* ---- Sleeping and waking one thread ---------------------------------------------------------- */

/* Who must not miss a wake sets `asleep`, then looks once more for a reason to stay awake; a waker
   makes the reason, then looks at `asleep`.  All four are sequentially consistent, so one of the two
   sees the other.  A wake too many is harmless: everyone woken looks again at what it wants. */
typedef struct {
    _Alignas(64) _Atomic uint32_t asleep;
#ifdef __linux__
    _Atomic int thread; /* the system's number of it, 0 while unknown */
    _Atomic int barred; /* the core that it may not use, plus 1 */
#else
    pthread_mutex_t mutex;
    pthread_cond_t woken;
#endif
} sleeper;

static void sleeper_reset(sleeper *self) {
    atomic_store(&self->asleep, 0);
#ifdef __linux__
    atomic_store(&self->thread, 0);
    atomic_store(&self->barred, 0);
#else
    pthread_mutex_init(&self->mutex, NULL);
    pthread_cond_init(&self->woken, NULL);
#endif
}

static void sleep_on(sleeper *self) {
#ifdef __linux__
    while (atomic_load(&self->asleep))
        syscall(SYS_futex, &self->asleep, FUTEX_WAIT_PRIVATE, 1, NULL, NULL, 0);
#else
    pthread_mutex_lock(&self->mutex);
    while (atomic_load(&self->asleep))
        pthread_cond_wait(&self->woken, &self->mutex);
    pthread_mutex_unlock(&self->mutex);
#endif
}

/* Costs one load when nobody sleeps.  Returns whether it had to wake. */
static int wake(sleeper *other) {
    if (!atomic_load(&other->asleep) || !atomic_exchange(&other->asleep, 0))
        return 0;
#ifdef __linux__
    syscall(SYS_futex, &other->asleep, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
#else
    pthread_mutex_lock(&other->mutex);
    pthread_cond_signal(&other->woken);
    pthread_mutex_unlock(&other->mutex);
#endif
    return 1;
}

/* ---- The job --------------------------------------------------------------------------------- */

/* `tickets` holds the chunks not yet taken (low 48 bits) and the free seats for helpers (above).  A
   helper enters a job by one compare-and-swap that takes a seat and a chunk together, and reads the
   job's other fields only after it.  The caller returns, and writes those fields anew, only when
   all seats are free again.  So whoever holds a seat reads fields that stand still and belong to the
   job its chunk is from, however late it woke and whatever it saw before; whoever holds none reads
   nothing but `tickets`.  Between jobs no chunk is left, so no seat can be taken. */
#define SEAT ((uint64_t)1 << 48)

static uint64_t chunks_left(uint64_t tickets) { return tickets & (SEAT - 1); }
static int seats_free(uint64_t tickets) { return (int)(tickets >> 48); }

static struct {
    _Alignas(64) _Atomic uint64_t tickets;
    _Alignas(64) fastloss_work work;
    void *context;
    ptrdiff_t chunks;
    char *scratch; /* the caller's, then one piece for each seat */
    size_t room;
    _Atomic uint64_t pieces[2]; /* one bit for each piece that no helper has */
    int seats;
    _Atomic int rung;               /* helpers that this job looked at, and woke */
    _Atomic int core;               /* where its caller runs */
    _Alignas(64) atomic_flag taken; /* held by the one call that has the helpers */
    /* Written under `taken` alone: */
    int helpers;   /* threads that exist */
    int most;      /* helpers to be had: fewer once the system refused one */
    int rest;      /* the multiple now */
    int64_t saved; /* by helpers, since they last lost time */
    _Atomic int64_t rest_until;
    sleeper caller;
    sleeper helper[MAX_HELPERS];
} pool = {.taken = ATOMIC_FLAG_INIT};

static _Atomic int num_threads;
static _Atomic int limits[MAX_THREADS + 1]; /* how many callers hold each limit now */
static _Atomic int limiting;                /* how many hold any */

static _Thread_local int inside;  /* a call of this thread, or a helper */
static _Thread_local int leading; /* this thread's call has the helpers */

/* Takes a chunk, and `seat` (SEAT or 0) with it, unless only `spare` chunks are left. */
static ptrdiff_t take(uint64_t seat, uint64_t spare) {
    uint64_t tickets = atomic_load(&pool.tickets);
    do {
        if (chunks_left(tickets) <= spare || tickets < seat)
            return -1;
    } while (!atomic_compare_exchange_weak(&pool.tickets, &tickets, tickets - seat - 1));
    return pool.chunks - (ptrdiff_t)chunks_left(tickets);
}

/* Bars a sleeping helper from the caller's core.  A kernel likes to wake it there, where it waits for
   some milliseconds until it runs or an idle core takes it. */
static void bar_from(sleeper *helper, int core) {
#ifdef __linux__
    int thread = atomic_load(&helper->thread);
    if (!thread || !atomic_load(&helper->asleep) || atomic_exchange(&helper->barred, core + 1) == core + 1)
        return;
    cpu_set_t cores[16];
    if (sched_getaffinity(0, sizeof cores, cores))
        return;
    CPU_CLR_S(core, sizeof cores, cores);
    if (CPU_COUNT_S(sizeof cores, cores))
        sched_setaffinity(thread, sizeof cores, cores);
#else
    (void)helper, (void)core;
#endif
}

/* Wakes at most one helper, and each at most once in a job.  Everyone in the job does this before
   each chunk: the number of helpers doubles with every chunk, and no wake stands in line. */
static int ring(void) {
    while (atomic_load_explicit(&pool.rung, memory_order_relaxed) < pool.seats) {
        int next = atomic_fetch_add(&pool.rung, 1);
        if (next >= pool.seats)
            break;
        bar_from(&pool.helper[next], atomic_load(&pool.core));
        if (wake(&pool.helper[next]))
            return 1;
    }
    return 0;
}

/* A piece of the scratch memory for who holds a seat: there are as many pieces as seats. */
static int take_piece(void) {
    for (int word = 0;; word = !word) {
        uint64_t free = atomic_load(&pool.pieces[word]);
        while (free) {
            int bit = __builtin_ctzll(free);
            if (atomic_compare_exchange_weak(&pool.pieces[word], &free, free & (free - 1)))
                return 64 * word + bit;
        }
    }
}

static void return_piece(int piece) { atomic_fetch_or(&pool.pieces[piece / 64], (uint64_t)1 << piece % 64); }

/* The last chunk is the caller's: a helper that lost its core there would be waited for idly. */
static int help(void) {
    ptrdiff_t chunk = take(SEAT, 1);
    if (chunk < 0)
        return 0;
    int piece = take_piece();
    char *scratch = pool.scratch + (size_t)(piece + 1) * pool.room;
    do {
        ring();
        pool.work(pool.context, chunk, scratch);
    } while ((chunk = take(0, 1)) >= 0);
    return_piece(piece);
    atomic_fetch_add(&pool.tickets, SEAT);
    wake(&pool.caller);
    return 1;
}

/* Spins for a job.  Returns 0 when none came, or when the core is wanted by others. */
static int spin(void) {
    int64_t start = now(), last = start;
    for (;;) {
        for (int i = 0; i < 16; i++) {
            uint64_t tickets = atomic_load_explicit(&pool.tickets, memory_order_relaxed);
            if (chunks_left(tickets) > 1 && seats_free(tickets))
                return 1;
            relax();
        }
        int64_t time = now();
        if (time - start > HELPER_SPIN || time - last > PREEMPTED)
            return 0;
        last = time;
    }
}

static void *helper_main(void *argument) {
    sleeper *self = argument;
    inside = 1;
#ifdef __linux__
    atomic_store(&self->thread, (int)syscall(SYS_gettid));
#endif
    for (;;) {
        /* On the caller's core a helper could only take the caller's place.  A job missed on the way
           to sleep is the caller's, like any other. */
        while (current_core() != atomic_load(&pool.core) && help())
            while (spin() && help())
                continue;
        atomic_store(&self->asleep, 1);
        sleep_on(self);
    }
    return NULL;
}

/* ---- Helpers come and go --------------------------------------------------------------------- */

/* A fork from inside this thread's own call (a signal handler run by poll) first takes the helpers
   out of the job; the chunks left stay in `held`, and both sides go on with them. */
static uint64_t held;

static void before_fork(void) {
    if (!leading)
        return;
    held = chunks_left(atomic_fetch_and(&pool.tickets, ~(SEAT - 1)));
    while (seats_free(atomic_load(&pool.tickets)) < pool.seats)
        sched_yield();
}

static void after_fork_parent(void) {
    if (leading)
        atomic_fetch_add(&pool.tickets, held);
}

static void reset_sleepers(void) {
    for (int i = 0; i < MAX_HELPERS; i++)
        sleeper_reset(&pool.helper[i]);
    sleeper_reset(&pool.caller);
}

/* The child has one thread, no helpers, and whatever another thread's call left behind. */
static void after_fork_child(void) {
    reset_sleepers();
    pool.helpers = 0;
    pool.most = MAX_HELPERS;
    if (leading) {
        after_fork_parent();
    } else {
        pool.seats = 0;
        atomic_store(&pool.tickets, 0);
        atomic_flag_clear(&pool.taken);
    }
}

/* At load, before any call: a child of a thread's first call must be reset too. */
__attribute__((constructor)) static void prepare(void) {
    reset_sleepers();
    pool.most = pthread_atfork(before_fork, after_fork_parent, after_fork_child) ? 0 : MAX_HELPERS;
}

/* Makes up for helpers still missing; returns how many of `wanted` there are. */
static int muster(int wanted) {
    if (wanted > pool.most)
        wanted = pool.most;
    if (wanted <= pool.helpers)
        return wanted;
    /* Ctrl-C and the like belong to the main thread; faults stay with the thread that faults. */
    sigset_t blocked, before;
    sigfillset(&blocked);
    sigdelset(&blocked, SIGSEGV);
    sigdelset(&blocked, SIGBUS);
    sigdelset(&blocked, SIGFPE);
    sigdelset(&blocked, SIGILL);
    pthread_attr_t attributes;
    if (pthread_attr_init(&attributes))
        return pool.helpers;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, 1 << 20);
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    pthread_t thread;
    while (pool.helpers < wanted && !pthread_create(&thread, &attributes, helper_main, &pool.helper[pool.helpers]))
        pool.helpers++;
    if (pool.helpers < wanted)
        pool.most = pool.helpers;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return pool.helpers;
}

/* ---- A call ---------------------------------------------------------------------------------- */

/* Waits until all seats are free.  Spins at first; then sleeps, as the helper that lost its core
   may well need this one. */
static void await_helpers(int64_t start) {
    while (seats_free(atomic_load(&pool.tickets)) < pool.seats) {
        if (now() - start < CALLER_SPIN) {
            relax();
            continue;
        }
        atomic_store(&pool.caller.asleep, 1);
        if (seats_free(atomic_load(&pool.tickets)) < pool.seats)
            sleep_on(&pool.caller);
        atomic_store(&pool.caller.asleep, 0);
    }
}

/* What helpers saved in a call, less what waking them and waiting for them took.  After a loss they
   rest for a multiple of it, so that losses stay a small part of the time however busy the machine
   is; the multiple doubles unless far more had been saved since the last loss. */
static void settle(int64_t gain, int64_t time) {
    if (gain >= 0) {
        pool.saved += gain;
        return;
    }
    if (pool.saved > -16 * gain || !pool.rest)
        pool.rest = FIRST_REST;
    else if (pool.rest < LAST_REST)
        pool.rest *= 2;
    pool.saved = 0;
    gain *= pool.rest;
    atomic_store(&pool.rest_until, time + (gain < -LONGEST_REST ? LONGEST_REST : -gain));
}

static int run_shared(fastloss_work work, fastloss_poll poll, void *context, ptrdiff_t chunks, int helpers, char *scratch,
                      size_t room, int64_t start) {
    work(context, 0, scratch);
    int64_t time = now(), begin = time, each = time - start, left = each * (chunks - 1);
    /* A call that goes on for longer than the helpers rest does not wait for them: they may lose it no more than its share. */
    int resting = atomic_load_explicit(&pool.rest_until, memory_order_relaxed) - time > left;
    helpers = left < WORTH_SHARING || resting ? 0 : muster(helpers);
    if (!helpers || (left < WORTH_WAKING && atomic_load(&pool.helper[0].asleep)))
        return run_alone(work, poll, context, 1, chunks, scratch, start);

    pool.work = work;
    pool.context = context;
    pool.chunks = chunks;
    pool.scratch = scratch;
    pool.room = room;
    for (int word = 0; word < 2; word++) {
        int left = helpers - 64 * word;
        atomic_store(&pool.pieces[word], left <= 0 ? 0 : left >= 64 ? ~(uint64_t)0 : ((uint64_t)1 << left) - 1);
    }
    pool.seats = helpers;
    atomic_store(&pool.core, current_core());
    atomic_store(&pool.rung, 0);
    atomic_store(&pool.tickets, (uint64_t)helpers * SEAT + (uint64_t)(chunks - 1));

    int stop = 0;
    int64_t ringing = 0;
    ptrdiff_t chunk, own = 0;
    while (!stop && (chunk = take(0, 0)) >= 0) {
        if (ring())
            ringing += now() - time;
        work(context, chunk, scratch);
        own++;
        stop = ask(poll, context, &start);
        time = now();
    }
    if (stop)
        atomic_fetch_and(&pool.tickets, ~(SEAT - 1));
    await_helpers(time);

    int64_t end = now(), waited = end - time, mean = (time - begin - ringing) / own;
    if (mean < each)
        each = mean;
    if (!stop)
        settle(each * (chunks - 1 - own) - waited - ringing, end);
    return stop;
}

int fastloss_run(fastloss_work work, fastloss_poll poll, void *context, ptrdiff_t chunks, int threads, char *scratch,
                 size_t room) {
    int64_t start = now();
    int nested = inside, stop;
    if (threads > MAX_THREADS)
        threads = MAX_THREADS;
    inside = 1;
    if (threads > 1 && chunks > 2 && !nested && !atomic_flag_test_and_set(&pool.taken)) {
        leading = 1;
        stop = run_shared(work, poll, context, chunks, threads - 1, scratch, room, start);
        leading = 0;
        atomic_flag_clear(&pool.taken);
    } else {
        stop = run_alone(work, poll, context, 0, chunks, scratch, start);
    }
    inside = nested;
    return stop;
}

/* ---- How many threads ------------------------------------------------------------------------ */

#ifdef __linux__

enum { PATH_SIZE = 4200 };

/* The number a small file holds at `field`; 0 for none, and for "max". */
static long long read_number(const char *root, const char *path, const char *name, int field) {
    char full[PATH_SIZE + 64], line[64] = "";
    long long numbers[2] = {0, 0};
    snprintf(full, sizeof full, "%s%s/%s", root, path, name);
    FILE *file = fopen(full, "re");
    if (file) {
        if (fgets(line, sizeof line, file))
            sscanf(line, "%lld %lld", &numbers[0], &numbers[1]);
        fclose(file);
    }
    return numbers[field];
}

/* The least quota, in whole cores, of a control group and its ancestors; a container may see only
   the root of its hierarchy, the last one tried.  Rounded down, as a group that overdraws its quota
   stands still for tens of milliseconds. */
static int quota_cores(const char *root, char *path, int version, int cores) {
    for (;;) {
        long long quota = version == 2 ? read_number(root, path, "cpu.max", 0) : read_number(root, path, "cpu.cfs_quota_us", 0);
        long long period =
            version == 2 ? read_number(root, path, "cpu.max", 1) : read_number(root, path, "cpu.cfs_period_us", 0);
        if (quota > 0 && period > 0 && quota / period < cores)
            cores = (int)(quota / period);
        char *slash = strrchr(path, '/');
        if (!slash)
            return cores;
        *slash = 0;
    }
}

int fastloss_available_cores(void) {
    cpu_set_t sets[16];
    memset(sets, 0, sizeof sets);
    int cores = sched_getaffinity(0, sizeof sets, sets) ? (int)sysconf(_SC_NPROCESSORS_ONLN) : CPU_COUNT_S(sizeof sets, sets);
    /* Lines "id:controllers:path"; version 2 has no controllers there. */
    char line[PATH_SIZE];
    FILE *file = fopen("/proc/self/cgroup", "re");
    while (file && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        char *controllers = strchr(line, ':');
        char *path = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!path)
            continue;
        *controllers = *path = ',';
        if (path == controllers + 1)
            cores = quota_cores("/sys/fs/cgroup", path + 1, 2, cores);
        else if (strstr(controllers, ",cpu,"))
            cores = quota_cores("/sys/fs/cgroup/cpu", path + 1, 1, cores);
    }
    if (file)
        fclose(file);
    return cores < 1 ? 1 : cores;
}

#else

int fastloss_available_cores(void) {
    int count = (int)sysconf(_SC_NPROCESSORS_ONLN);
    return count < 1 ? 1 : count;
}

#endif

int fastloss_get_num_threads(void) {
    if (!atomic_load(&num_threads))
        fastloss_set_num_threads(MAX_THREADS);
    int count = atomic_load(&num_threads);
    if (atomic_load_explicit(&limiting, memory_order_relaxed))
        for (int limit = 1; limit < count; limit++)
            if (atomic_load_explicit(&limits[limit], memory_order_relaxed) > 0)
                return limit;
    return count;
}

/* Counted, so that overlapping limits of several threads may end in any order. */
void fastloss_limit_threads(int limit, int by) {
    atomic_fetch_add(&limits[limit < 1 ? 1 : limit > MAX_THREADS ? MAX_THREADS : limit], by);
    atomic_fetch_add(&limiting, by);
}

void fastloss_set_num_threads(int count) {
    int most = fastloss_available_cores();
    if (most > MAX_THREADS)
        most = MAX_THREADS;
    atomic_store(&num_threads, count < 1 ? 1 : count > most ? most : count);
}

#endif
