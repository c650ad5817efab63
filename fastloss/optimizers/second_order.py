"""Rules that know an estimate of the Hessian's diagonal."""

from ..formula import Decay, Each, Fraction, NonNegative, maximum, minimum
from ..formula.registry import update_rule
from ._parts import average, ratio


@update_rule(
    lr=NonNegative(1e-4),
    betas=Each(Fraction(open_high=True), (0.965, 0.99)),
    gamma=NonNegative(0.01),
    eps=NonNegative(1e-12),
    weight_decay=Decay(0.1, decoupled=True),
    abilities=("TakesHessian",),
    reference="Liu, Li, Hall, Liang & Ma (2024), Sophia: A Scalable Stochastic Second-order Optimizer, ICLR",
)
def Sophia(param, grad, exp_avg, hessian, step, lr, betas, gamma, eps):
    """The mean of the gradients over `gamma` times that of the Hessian's diagonal, no element farther than `lr`.

    Every few steps (ten in the paper) `update_hessian(estimates)` is to be given estimates of the diagonal, of which the rule
    keeps a mean of its own (`betas[1]`); before the first every element moves by `lr`. They come from the loss's Hessian, or as
    `u * (Hessian by u)` for a random u of -1 and 1, or as squared gradients of labels drawn from the model.
    """
    exp_avg = average(exp_avg, grad, betas[0])
    move = ratio(exp_avg, maximum(gamma * hessian, eps))
    return param - lr * minimum(maximum(move, -1), 1), exp_avg, hessian
