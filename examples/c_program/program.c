/* A line through points with outliers, in plain C: the loss of one element from fastloss.h, whole arrays through the engine. */

#include "fastloss.h"
#include "fastloss_api.h"

/* Gradient descent; line[0] + line[1] * x. Returns the mean loss. */
double fit_line(const double *x, const double *y, ptrdiff_t count, double c, double lr, int steps, double *line) {
    double total = 0;
    for (int step = 0; step < steps; step++) {
        double slope0 = 0, slope1 = 0;
        total = 0;
        for (ptrdiff_t i = 0; i < count; i++) {
            double pred = line[0] + line[1] * x[i];
            double slope = fastloss_cauchy_grad_f64(pred, y[i], c);
            total += fastloss_cauchy_f64(pred, y[i], c);
            slope0 += slope;
            slope1 += slope * x[i];
        }
        line[0] -= lr * slope0 / (double)count;
        line[1] -= lr * slope1 / (double)count;
    }
    return total / (double)count;
}

/* Value and gradient of arrays in one pass, on the engine's threads; the table's address comes from fastloss.c_api.ADDRESS. */
int whole_arrays(uintptr_t address, const double *pred, const double *target, ptrdiff_t count, double c, double *value,
                 double *grad, char *message, size_t room) {
    const fastloss_api *fastloss = (const fastloss_api *)address;
    fastloss_bound cauchy;
    const void *inputs[2];
    void *outputs[2] = {NULL, NULL};
    int done;
    if (fastloss->version != FASTLOSS_API_VERSION)
        return FASTLOSS_REFUSED;
    done = fastloss->bind(&cauchy, "cauchy", "vg", sizeof(double), &c, 1, message, room);
    if (done != FASTLOSS_DONE)
        return done;
    inputs[0] = pred;
    inputs[1] = target;
    outputs[1] = grad;
    return fastloss->evaluate(&cauchy, count, inputs, NULL, FASTLOSS_MEAN, value, outputs);
}
