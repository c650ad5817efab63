"""Gradient descent: updates along the gradient, or along a weighted sum of the gradients so far."""

from ..formula import Decay, Flag, NonNegative, Real, maximum, where
from ..formula.registry import update_rule


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


@update_rule(
    lr=NonNegative(1e-2),
    lambd=NonNegative(1e-4),
    alpha=Real(0.75),
    t0=NonNegative(1e6),
    weight_decay=Decay(),
    reference="Polyak & Juditsky (1992), Acceleration of Stochastic Approximation by Averaging, SIAM J. Control Optim. 30, 838",
)
def ASGD(param, grad, ax, step, lr, lambd, alpha, t0):
    """Averaged stochastic gradient descent: the state `ax` is the parameters' mean over the steps after `t0`.

    `lambd` shrinks the parameters and, to the power `alpha`, sets how fast the steps decrease.
    """
    eta = lr / (1 + lambd * lr * (step - 1)) ** alpha
    param = param - (eta * lambd) * param - eta * grad
    mu = 1 / maximum(1, step - 1 - t0)
    return param, where(mu == 1, param, ax + mu * (param - ax))
