"""Layer-wise adaptive rules: steps in proportion to the norm of the tensor."""

from ..formula import Each, Fraction, NonNegative, sqrt, where
from ..formula.registry import update_rule
from ..formula.rows import norm2
from ._parts import average, ratio


@update_rule(
    lr=NonNegative(1e-3),
    betas=Each(Fraction(open_high=True), (0.9, 0.999)),
    eps=NonNegative(1e-6),
    weight_decay=NonNegative(0.0),
    reference="You et al. (2020), Large Batch Optimization for Deep Learning: Training BERT in 76 Minutes, ICLR",
)
def LAMB(param, grad, exp_avg, exp_avg_sq, step, lr, betas, eps, weight_decay):
    """Adam for large batches: each tensor moves by `lr` times its own norm.

    Weight decay is part of the move. A tensor of zeros moves as far as with Adam.
    """
    beta1, beta2 = betas
    exp_avg = average(exp_avg, grad, beta1)
    exp_avg_sq = average(exp_avg_sq, grad * grad, beta2)
    denominator = sqrt(exp_avg_sq) * (1 / sqrt(1 - beta2**step)) + eps
    move = 1 / (1 - beta1**step) * ratio(exp_avg, denominator) + weight_decay * param
    size, length = norm2(param), norm2(move)
    trust = where(size == 0, 1, where(length == 0, 1, size / length))
    return param - lr * trust * move, exp_avg, exp_avg_sq
