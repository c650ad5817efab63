/* The engine of fastloss as C functions: tiles by name, and whole arrays with threads. Plain C99, with no Python in it.
 *
 * The table is in the capsule `fastloss.c_api.CAPSULE`:
 *
 *     const fastloss_api *fastloss = PyCapsule_Import("fastloss.c_api.CAPSULE", 0);
 *
 * and through cffi or ctypes at the address `fastloss.c_api.ADDRESS`. Look at `version` first. */

#ifndef FASTLOSS_API_H
#define FASTLOSS_API_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Raised when anything changes but for members added at the end of fastloss_api: `size` tells whether those are there. */
#define FASTLOSS_API_VERSION 1

/* Contiguous arrays of one precision that do not overlap, a few thousand elements at the most, inputs first and then outputs. */
typedef void (*fastloss_tile)(ptrdiff_t count, void **arrays, const double *uniforms);

enum { FASTLOSS_MOST_UNIFORMS = 32, FASTLOSS_MOST_INPUTS = 8 };

/* What becomes of the elements' losses. */
enum { FASTLOSS_NONE = 0, FASTLOSS_SUM = 1, FASTLOSS_MEAN = 2 };

/* What a call may return. Nothing is written unless it is FASTLOSS_DONE. */
enum {
    FASTLOSS_DONE = 0,
    FASTLOSS_REFUSED = -1, /* bind: see the message */
    FASTLOSS_NO_MEMORY = -2,
    FASTLOSS_BAD_WEIGHT = -3, /* a weight that is negative or not finite */
    FASTLOSS_OUTSIDE = -4,    /* an input outside the formula's domain */
    FASTLOSS_BAD_DIVISOR = -5 /* the weights' sum, or its inverse, is beyond the precision's range */
};

/* A loss with its hyperparameters. It is plain data: copy it, keep it, use it in any thread. */
typedef struct fastloss_bound {
    fastloss_tile tile; /* to be handed `uniforms` */
    int32_t itemsize;   /* of its arrays: 4 for float, 8 for double */
    int32_t inputs;
    int32_t outputs;
    int32_t has_value; /* whether the first output is the value */
    int32_t cost;      /* per element, in additions */
    int32_t reserved;
    double uniforms[FASTLOSS_MOST_UNIFORMS];
    double lowest[FASTLOSS_MOST_INPUTS]; /* the inputs' domains */
    double highest[FASTLOSS_MOST_INPUTS];
} fastloss_bound;

typedef struct fastloss_api {
    uint32_t version;
    uint32_t size; /* of this struct, in bytes */

    /* The tile function of that name, as "huber_vg_f32" or "exp_map_f64", NULL if there is none. */
    fastloss_tile (*find)(const char *name);

    /* Bind a pointwise loss: `wanted` is made of "v", "g" and "h" in this order, for value, gradient and Hessian (not "h" alone, nor
     * "vh"), `itemsize` 4 or 8; `hyperparameters` are in the order of the formula, NaN for None, or NULL for the defaults. What is
     * wrong stands in `message` (cut at `room`, which may be 0). Takes Python's lock itself, if it is not held. */
    int (*bind)(fastloss_bound *bound, const char *loss, const char *wanted, int itemsize, const double *hyperparameters,
                int count, char *message, size_t room);

    /* One pass over contiguous arrays of `count` elements, on threads where that pays. `inputs` and `outputs` are as many as `bound`
     * says; an output may be an input, but not lie partly over one. `sample_weight` may be NULL. The reduced value goes to `value`;
     * the array for the elements' values may be NULL then, and `value` with FASTLOSS_NONE. The mean of nothing is NaN. Needs
     * no lock, and runs in any thread. */
    int (*evaluate)(const fastloss_bound *bound, ptrdiff_t count, const void **inputs, const void *sample_weight, int reduction,
                    double *value, void **outputs);

    /* The first output for one element of doubles: `x` holds the inputs, `bound` is a fastloss_bound of itemsize 8. It is what
     * scipy.LowLevelCallable calls "double (int, double *, void *)". */
    double (*evaluate_one)(int count, double *x, void *bound);

    int (*get_num_threads)(void);
    void (*set_num_threads)(int count);
} fastloss_api;

#ifdef __cplusplus
}
#endif

#endif
