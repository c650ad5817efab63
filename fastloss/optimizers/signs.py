"""Rules that go by the sign of a mean of the gradients: every element moves equally far."""

from ..formula import Decay, Each, Flag, Fraction, NonNegative, sign
from ..formula.registry import update_rule
from ._parts import average, cautious_move


@update_rule(
    lr=NonNegative(1e-4),
    betas=Each(Fraction(open_high=True), (0.9, 0.99)),
    weight_decay=Decay(decoupled=True),
    cautious=Flag(False),
    reference="Chen et al. (2023), Symbolic Discovery of Optimization Algorithms, NeurIPS; "
    "cautious: Liang, Chen, Liu & Liu (2024), Cautious Optimizers, arXiv:2411.16085",
)
def Lion(param, grad, exp_avg, step, lr, betas, cautious):
    """The sign of the mean of the gradients, in which the present one counts more (`betas[0]`) than it will later (`betas[1]`).

    If `cautious`, an element whose move would go against its present gradient, or whose gradient is 0, does not move; the moves
    of the n others, in a tensor of d elements, are `d / (n + 1)` times as long.
    """
    beta1, beta2 = betas
    move, rate = sign(average(exp_avg, grad, beta1)), lr
    if cautious:
        move, longer = cautious_move(move, move, grad)
        rate = rate * longer
    return param - rate * move, average(exp_avg, grad, beta2)


@update_rule(
    lr=NonNegative(1e-4),
    momentum=Fraction(0.9, open_high=True, special=(0,)),
    weight_decay=Decay(decoupled=None),
    reference="Bernstein, Wang, Azizzadenesheli & Anandkumar (2018), signSGD, ICML",
)
def Signum(param, grad, exp_avg, step, lr, momentum):
    """The sign of the gradients' mean; without momentum the sign of the gradient (signSGD)."""
    if momentum == 0:
        return param - lr * sign(grad), None
    exp_avg = average(exp_avg, grad, momentum)
    return param - lr * sign(exp_avg), exp_avg
