# cython: language_level=3, boundscheck=False, wraparound=False
"""A linear model trained by stochastic gradient descent, element by element, without Python in the loop."""

from fastloss cimport huber_f64, huber_grad_f64
from fastloss.c_api cimport FASTLOSS_DONE, FASTLOSS_MEAN, fastloss_api, fastloss_bound, import_fastloss

import numpy as np


def train(const double[:, ::1] features, const double[::1] target, double delta, double lr, int epochs):
    """The weights, and the mean loss of the last epoch as it went along."""
    cdef Py_ssize_t i, k
    cdef int _epoch
    cdef double pred, slope, total = 0
    weights = np.zeros(features.shape[1])
    cdef double[::1] w = weights
    with nogil:
        for _epoch in range(epochs):
            total = 0
            for i in range(features.shape[0]):
                pred = 0
                for k in range(features.shape[1]):
                    pred += features[i, k] * w[k]
                total += huber_f64(pred, target[i], delta)
                slope = huber_grad_f64(pred, target[i], delta)
                for k in range(features.shape[1]):
                    w[k] -= lr * slope * features[i, k]
    return weights, total / max(1, features.shape[0])


def mean_loss(const double[::1] pred, const double[::1] target, double delta):
    """The mean over whole arrays, on fastloss's threads, in kernels made for this processor."""
    cdef const fastloss_api* fastloss = import_fastloss()
    cdef fastloss_bound huber
    cdef char[200] message
    cdef const void* inputs[2]
    cdef void* outputs[1]
    cdef double value = 0
    cdef int done
    if target.shape[0] != pred.shape[0]:
        raise ValueError(f"mean_loss: target must have pred's length {pred.shape[0]}, got {target.shape[0]}")
    if fastloss.bind(&huber, b"huber", b"v", sizeof(double), &delta, 1, message, sizeof(message)) != FASTLOSS_DONE:
        raise ValueError(message.decode())
    if pred.shape[0] == 0:
        return float("nan")
    inputs[0], inputs[1], outputs[0] = &pred[0], &target[0], NULL
    with nogil:
        done = fastloss.evaluate(&huber, pred.shape[0], inputs, NULL, FASTLOSS_MEAN, &value, outputs)
    if done != FASTLOSS_DONE:
        raise MemoryError()
    return value
