"""Adaptive per-parameter learning rates: from the squares of the gradients, or from whether their sign changes."""

from ..formula import (
    Decay,
    Each,
    Flag,
    Fraction,
    NonNegative,
    Positive,
    absolute,
    maximum,
    minimum,
    sign,
    sqrt,
    where,
)
from ..formula.registry import update_rule
from ._parts import average, ratio


@update_rule(
    lr=NonNegative(1e-2),
    alpha=Fraction(0.99),
    eps=NonNegative(1e-8),
    weight_decay=Decay(),
    momentum=NonNegative(0.0, special=(0,)),
    centered=Flag(False),
    reference="Tieleman & Hinton (2012), Lecture 6.5, COURSERA; centered: Graves (2013), arXiv:1308.0850",
)
def RMSprop(param, grad, square_avg, grad_avg, momentum_buffer, step, lr, alpha, eps, momentum, centered):
    """Gradients divided by the root of their mean square or, if `centered`, of their variance."""
    square_avg = average(square_avg, grad * grad, alpha)
    second = square_avg
    if centered:
        grad_avg = average(grad_avg, grad, alpha)
        # Rounding may leave less than 0 of the variance of equal gradients.
        second = maximum(square_avg - grad_avg * grad_avg, 0)
    move = ratio(grad, sqrt(second) + eps)
    if momentum == 0:
        return param - lr * move, square_avg, grad_avg if centered else None, None
    momentum_buffer = momentum * momentum_buffer + move
    return param - lr * momentum_buffer, square_avg, grad_avg if centered else None, momentum_buffer


@update_rule(
    lr=NonNegative(1e-2),
    lr_decay=NonNegative(0.0),
    weight_decay=Decay(),
    initial_accumulator_value=NonNegative(0.0),
    eps=NonNegative(1e-10),
    reference="Duchi, Hazan & Singer (2011), Adaptive Subgradient Methods, JMLR 12, 2121",
)
def Adagrad(param, grad, sum, step, lr, lr_decay, initial_accumulator_value, eps):
    """Gradients divided by the root of the sum of all their squares."""
    sum = sum + where(step == 1, initial_accumulator_value, 0) + grad * grad
    return param - lr / (1 + (step - 1) * lr_decay) * ratio(grad, sqrt(sum) + eps), sum


@update_rule(
    lr=NonNegative(1.0),
    rho=Fraction(0.9),
    eps=NonNegative(1e-6),
    weight_decay=Decay(),
    reference="Zeiler (2012), ADADELTA: An Adaptive Learning Rate Method, arXiv:1212.5701",
)
def Adadelta(param, grad, square_avg, acc_delta, step, lr, rho, eps):
    """Moves as large as the recent ones, where the gradient is as large as the recent ones: without a unit of length."""
    square_avg = average(square_avg, grad * grad, rho)
    delta = ratio(sqrt(acc_delta + eps), sqrt(square_avg + eps)) * grad
    return param - lr * delta, square_avg, average(acc_delta, delta * delta, rho)


@update_rule(
    lr=NonNegative(1e-2),
    etas=Each(Positive(), (0.5, 1.2)),
    step_sizes=Each(NonNegative(), (1e-6, 50.0)),
    requires=[
        (lambda etas, **_: etas[0] < 1 < etas[1], "etas must be a number < 1 and one > 1"),
        (lambda step_sizes, **_: step_sizes[0] <= step_sizes[1], "step_sizes must be the smallest and the largest"),
    ],
    reference="Riedmiller & Braun (1993), A direct adaptive method for faster backpropagation learning: RPROP, ICNN",
)
def Rprop(param, grad, prev, step_size, step, lr, etas, step_sizes):
    """Steps whose length depends on the gradient's sign alone, for gradients of whole data sets.

    It is `lr` at first, grows by `etas[1]` while the sign stays, and shrinks by `etas[0]` after it changed, when the element rests
    for one step.
    """
    agreement = sign(grad) * prev  # not grad * prev: it underflows
    factor = where(agreement > 0, etas[1], where(agreement < 0, etas[0], 1))
    step_size = (step_size + where(step == 1, lr, 0)) * factor
    step_size = minimum(maximum(step_size, step_sizes[0]), step_sizes[1])
    grad = where(agreement < 0, 0, grad)
    return param - step_size * sign(grad), grad, step_size


@update_rule(
    alpha=Positive(0.1),
    beta=NonNegative(1.0),
    l1=NonNegative(0.0),
    l2=NonNegative(0.0),
    reference="McMahan et al. (2013), Ad Click Prediction: a View from the Trenches, KDD",
)
def FTRL(param, grad, z, n, step, alpha, beta, l1, l2):
    """FTRL-Proximal: follow the regularised leader, step lengths `alpha / (beta + root of the sum of squares)`.

    `l1` makes parameters exactly 0; parameters should start at 0, towards which the first step draws them.
    """
    total = n + grad * grad
    root = sqrt(total)
    # (root - sqrt(n)) / alpha without the cancellation at large n.
    sigma = ratio(grad * grad, root + sqrt(n)) * (1 / alpha)
    z = z + grad - sigma * param
    curvature = root * (1 / alpha) + (beta / alpha + l2)
    moved = where(absolute(z) <= l1, 0, (l1 * sign(z) - z) / curvature)
    return where(curvature == 0, param, moved), z, total


@update_rule(
    lr=NonNegative(1e-2),
    momentum=Fraction(0.9, open_high=True),
    weight_decay=Decay(),
    eps=NonNegative(1e-6),
    reference="Defazio & Jelassi (2022), Adaptivity without Compromise: MADGRAD, JMLR 23, 1",
)
def MADGRAD(param, grad, grad_sum, grad_sum_sq, x0, step, lr, momentum, eps):
    """Dual averaging: from the start, the weighted sum of all gradients over the cube root of that of their squares."""
    weight = lr * sqrt(step)
    grad_sum = grad_sum + weight * grad
    grad_sum_sq = grad_sum_sq + weight * (grad * grad)
    x0 = where(step == 1, param, x0)
    z = x0 - ratio(grad_sum, grad_sum_sq ** (1 / 3) + eps)
    return momentum * param + (1 - momentum) * z, grad_sum, grad_sum_sq, x0
