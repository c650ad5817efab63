"""A loss inside one's own compiled loop: stochastic gradient descent for a Huber regression, one row at a time, as fast as by hand."""

import numpy as np
from numba import njit, prange

import fastloss as fl

# Fixed hyperparameters are part of the code; this one says which quantile.
upper = fl.quantile.jit(q=0.9)
momentum = fl.SGD.jit(momentum=0.9)


@njit(error_model="numpy")
def train(features, target, weights, velocity, lr, delta):
    total = 0.0
    for i in range(len(target)):
        loss, slope = fl.huber.jit.value_and_grad(features[i] @ weights, target[i], delta)
        for j in range(len(weights)):
            weights[j], velocity[j] = momentum.step(weights[j], slope * features[i, j], velocity[j], i + 1, lr=lr)
        total += loss
    return total / len(target)


@njit(parallel=True, error_model="numpy")
def pinball(pred, target):
    total = 0.0
    for i in prange(len(target)):
        total += upper.value(pred[i], target[i])
    return total / len(target)


rng = np.random.default_rng(0)
features = rng.standard_normal((20_000, 3))
target = features @ np.array([3.0, -2.0, 0.5]) + 0.1 * rng.standard_t(2, 20_000)
weights, velocity = np.zeros(3), np.zeros(3)
for epoch in range(3):
    print(f"epoch {epoch}: loss {train(features, target, weights, velocity, 1e-3, 0.5):.4f}")
print("weights", weights.round(2))
print(f"pinball loss {pinball(features @ weights, target):.4f}, the same {fl.quantile(features @ weights, target, q=0.9):.4f}")
