/* How a unit of kernels says what it holds: a table of its functions by name, which tiles.c finds them by. */

#ifndef FASTLOSS_KERNELS_H
#define FASTLOSS_KERNELS_H

typedef struct {
    const char *name; /* NULL behind the last one */
    void *address;
    int cost; /* per element, in additions */
} Kernel;

#endif
