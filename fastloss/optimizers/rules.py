"""The update rules: how one element of a parameter and of its state moves, given its gradient."""

from ..face import update_rule
from ..formula import Decay, Each, Flag, Fraction, NonNegative, Real, maximum, sqrt, where

_BETAS = Each(Fraction(open_high=True), (0.9, 0.999))


@update_rule(
    lr=NonNegative(1e-3),
    momentum=NonNegative(0.0, special=(0,)),
    dampening=Real(0.0),
    nesterov=Flag(False),
    weight_decay=Decay(),
    requires=[
        (
            lambda nesterov, momentum, dampening, **_: not nesterov or (momentum > 0 and dampening == 0),
            "nesterov must go with momentum > 0 and dampening = 0",
        )
    ],
    reference="Sutskever, Martens, Dahl & Hinton (2013), On the importance of initialization and momentum, ICML",
)
def SGD(param, grad, momentum_buffer, step, lr, momentum, dampening, nesterov):
    """(Stochastic) gradient descent, with momentum in the form of PyTorch: the velocity is not scaled by `lr`.

    Momentum that is turned on later starts from a velocity of 0, with dampening (PyTorch: from the whole gradient).
    """
    if momentum == 0:
        return param - lr * grad, None
    # The first step takes the gradient whole, whatever the dampening.
    kept, taken = where(step == 1, 0, momentum), where(step == 1, 1, 1 - dampening)
    momentum_buffer = kept * momentum_buffer + taken * grad
    direction = grad + momentum * momentum_buffer if nesterov else momentum_buffer
    return param - lr * direction, momentum_buffer


def _adam(param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq, step, lr, betas, eps, amsgrad):
    beta1, beta2 = betas
    exp_avg = beta1 * exp_avg + (1 - beta1) * grad
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * (grad * grad)
    max_exp_avg_sq = maximum(max_exp_avg_sq, exp_avg_sq) if amsgrad else None
    second = max_exp_avg_sq if amsgrad else exp_avg_sq
    denominator = sqrt(second) * (1 / sqrt(1 - beta2**step)) + eps
    # A second moment that is or underflows to 0 moves nothing, even without eps.
    move = where(denominator == 0, 0, exp_avg / denominator)
    return param - lr / (1 - beta1**step) * move, exp_avg, exp_avg_sq, max_exp_avg_sq


@update_rule(
    lr=NonNegative(1e-3),
    betas=_BETAS,
    eps=NonNegative(1e-8),
    weight_decay=Decay(),
    amsgrad=Flag(False),
    reference="Kingma & Ba (2015), Adam: A Method for Stochastic Optimization, ICLR; amsgrad: Reddi, Kale & Kumar (2018), ICLR",
)
def Adam(param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq, step, lr, betas, eps, amsgrad):
    """Adam; weight decay is added to the gradient (see `AdamW` for the decoupled one)."""
    return _adam(param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq, step, lr, betas, eps, amsgrad)


@update_rule(
    lr=NonNegative(1e-3),
    betas=_BETAS,
    eps=NonNegative(1e-8),
    weight_decay=Decay(1e-2, decoupled=True),
    amsgrad=Flag(False),
    reference="Loshchilov & Hutter (2019), Decoupled Weight Decay Regularization, ICLR",
)
def AdamW(param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq, step, lr, betas, eps, amsgrad):
    """Adam with decoupled weight decay: the parameter shrinks by `lr * weight_decay` before the step."""
    return _adam(param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq, step, lr, betas, eps, amsgrad)
