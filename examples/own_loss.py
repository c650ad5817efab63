"""Losses and an update rule of one's own: formulas in a few lines, with everything that the built-in ones have."""

import numpy as np

import fastloss as fl


@fl.loss(tau=fl.Fraction(0.5, open_low=True, open_high=True), width=fl.Positive(0.1))
def smooth_quantile(pred, target, tau, width):
    """The pinball loss, made smooth: tau r + width log(1 + exp(-r / width)) for r = target - pred."""
    r = target - pred
    return tau * r + width * fl.math.softplus(-r / width)


@fl.loss(label=fl.Class(), margin=fl.Positive(1.0))
def soft_margin(scores, label, margin):
    """A loss of rows: how far the other classes come up to the label's, with a margin."""
    ahead = scores - fl.math.pick(scores, label) + margin
    return fl.math.logsumexp(ahead) - margin


@fl.update_rule(lr=fl.Positive(0.05), momentum=fl.Fraction(0.9))
def HeavyBall(param, grad, velocity, lr, momentum):
    """Polyak's heavy ball."""
    velocity = momentum * velocity - lr * grad
    return param + velocity, velocity


rng = np.random.default_rng(0)
x = rng.uniform(0, 1, 20_000)
y = 2 * x + (0.5 + x) * rng.standard_normal(20_000)
line = np.zeros(2)
optimizer = HeavyBall(line)
for _ in range(400):
    # One pass: the loss and its gradient, derived from the formula.
    loss, grad = smooth_quantile.value_and_grad(line[0] + line[1] * x, y, tau=0.9)
    optimizer.step(np.array([grad.sum(), grad @ x]))
below = float(np.mean(y < line[0] + line[1] * x))
print(f"the 90 % quantile: {line[0]:.2f} + {line[1]:.2f} x, {below:.1%} of the points below it")

scores, labels = rng.standard_normal((5, 3), dtype=np.float32), np.array([0, 2, 1, 1, 0])
losses = soft_margin(scores, labels, margin=0.5, reduction="none")
print("rows of scores:", losses.dtype, losses.round(2))
