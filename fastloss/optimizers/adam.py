"""Adam and its variants: a mean of the gradients, scaled by a second moment or a substitute for it."""

from ..formula import Decay, Each, Flag, Fraction, NonNegative, absolute, exp, log, maximum, minimum, sign, sqrt, where
from ..formula.registry import update_rule
from ._parts import average, cautious_move, ratio

_BETAS = Each(Fraction(open_high=True), (0.9, 0.999))


def _adam(param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq, step, lr, betas, eps, amsgrad, cautious):
    beta1, beta2 = betas
    exp_avg = average(exp_avg, grad, beta1)
    exp_avg_sq = average(exp_avg_sq, grad * grad, beta2)
    max_exp_avg_sq = maximum(max_exp_avg_sq, exp_avg_sq) if amsgrad else None
    second = max_exp_avg_sq if amsgrad else exp_avg_sq
    move = ratio(exp_avg, sqrt(second) * (1 / sqrt(1 - beta2**step)) + eps)
    rate = lr / (1 - beta1**step)
    if cautious:
        move, longer = cautious_move(move, exp_avg, grad)
        rate = rate * longer
    return param - rate * move, exp_avg, exp_avg_sq, max_exp_avg_sq


@update_rule(
    lr=NonNegative(1e-3),
    betas=_BETAS,
    eps=NonNegative(1e-8),
    weight_decay=Decay(decoupled=None),
    amsgrad=Flag(False),
    cautious=Flag(False),
    reference="Kingma & Ba (2015), Adam: A Method for Stochastic Optimization, ICLR; amsgrad: Reddi, Kale & Kumar (2018), ICLR",
)
def Adam(param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq, step, lr, betas, eps, amsgrad, cautious):
    """Adam; weight decay is added to the gradient unless it is decoupled (then this is `AdamW`).

    For `cautious` see `AdamW`; the gradient is then that with the weight decay in it.
    """
    return _adam(param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq, step, lr, betas, eps, amsgrad, cautious)


@update_rule(
    lr=NonNegative(1e-3),
    betas=_BETAS,
    eps=NonNegative(1e-8),
    weight_decay=Decay(1e-2, decoupled=True),
    amsgrad=Flag(False),
    cautious=Flag(False),
    reference="Loshchilov & Hutter (2019), Decoupled Weight Decay Regularization, ICLR; "
    "cautious: Liang, Chen, Liu & Liu (2024), Cautious Optimizers, arXiv:2411.16085",
)
def AdamW(param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq, step, lr, betas, eps, amsgrad, cautious):
    """Adam with decoupled weight decay: the parameter shrinks by `lr * weight_decay` before the step.

    If `cautious`, an element whose update would go against its current gradient, or whose gradient is 0, is not updated; the updates
    of the n others, in a tensor of d elements, are `d / (n + 1)` times as long.
    """
    return _adam(param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq, step, lr, betas, eps, amsgrad, cautious)


def _nesterov_weight(step, beta1, momentum_decay):
    return beta1 * (1 - 0.5 * 0.96 ** (step * momentum_decay))


@update_rule(
    lr=NonNegative(2e-3),
    betas=_BETAS,
    eps=NonNegative(1e-8),
    weight_decay=Decay(decoupled=None),
    momentum_decay=NonNegative(4e-3),
    carried={
        "mu_product": (
            1.0,
            lambda mu_product, step, betas, momentum_decay, **_: mu_product * _nesterov_weight(step, betas[0], momentum_decay),
        )
    },
    reference="Dozat (2016), Incorporating Nesterov Momentum into Adam, ICLR Workshop",
)
def NAdam(param, grad, exp_avg, exp_avg_sq, step, lr, betas, eps, momentum_decay, mu_product):
    """Adam with Nesterov's momentum, whose weight grows over the steps towards `betas[0]`."""
    beta1, beta2 = betas
    mu, following = (_nesterov_weight(t, beta1, momentum_decay) for t in (step, step + 1))
    exp_avg = average(exp_avg, grad, beta1)
    exp_avg_sq = average(exp_avg_sq, grad * grad, beta2)
    of_grad, of_average = lr * (1 - mu) / (1 - mu_product), lr * following / (1 - mu_product * following)
    denominator = sqrt(exp_avg_sq) * (1 / sqrt(1 - beta2**step)) + eps
    return param - ratio(of_grad * grad + of_average * exp_avg, denominator), exp_avg, exp_avg_sq


@update_rule(
    lr=NonNegative(1e-3),
    betas=_BETAS,
    eps=NonNegative(1e-8),
    weight_decay=Decay(decoupled=None),
    reference="Liu, Jiang, He, Chen, Liu, Gao & Han (2020), On the Variance of the Adaptive Learning Rate and Beyond, ICLR",
)
def RAdam(param, grad, exp_avg, exp_avg_sq, step, lr, betas, eps):
    """Rectified Adam: gradients are scaled only once enough of them have been seen to estimate their variance."""
    beta1, beta2 = betas
    exp_avg = average(exp_avg, grad, beta1)
    exp_avg_sq = average(exp_avg_sq, grad * grad, beta2)
    # The length of the mean over the past that the second moment stands for: in the end, and now.
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * step * beta2**step / (1 - beta2**step)
    rectifier = sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))
    # A number, for all elements to agree with the rate that goes with it: `length` itself is rounded in their precision.
    known = where(length > 5, 1, 0)
    rate = lr / (1 - beta1**step) * where(known == 1, rectifier * sqrt(1 - beta2**step), 1)
    move = where(known == 1, ratio(exp_avg, sqrt(exp_avg_sq) + eps), exp_avg)
    return param - rate * move, exp_avg, exp_avg_sq


@update_rule(
    lr=NonNegative(2e-3),
    betas=_BETAS,
    eps=NonNegative(1e-8),
    weight_decay=Decay(),
    reference="Kingma & Ba (2015), Adam: A Method for Stochastic Optimization, ICLR, section 7.1",
)
def Adamax(param, grad, exp_avg, exp_inf, step, lr, betas, eps):
    """Adam with an exponentially weighted maximum of the gradients instead of their mean square."""
    beta1, beta2 = betas
    exp_avg = average(exp_avg, grad, beta1)
    exp_inf = maximum(beta2 * exp_inf, absolute(grad) + eps)
    return param - lr / (1 - beta1**step) * ratio(exp_avg, exp_inf), exp_avg, exp_inf


@update_rule(
    lr=NonNegative(1e-3),
    betas=_BETAS,
    eps=NonNegative(1e-16),
    weight_decay=Decay(decoupled=True),
    reference="Zhuang, Tang, Ding, Tatikonda, Dvornek, Papademetris & Duncan (2020), AdaBelief Optimizer, NeurIPS",
)
def AdaBelief(param, grad, exp_avg, exp_avg_var, step, lr, betas, eps):
    """Adam that takes larger steps where gradients agree with their mean: it scales by the squared deviation from it.

    `eps` is added to the variance at every step, and also to its square root.
    """
    beta1, beta2 = betas
    exp_avg = average(exp_avg, grad, beta1)
    surprise = grad - exp_avg
    exp_avg_var = average(exp_avg_var, surprise * surprise, beta2) + eps
    denominator = sqrt(exp_avg_var) * (1 / sqrt(1 - beta2**step)) + eps
    return param - lr / (1 - beta1**step) * ratio(exp_avg, denominator), exp_avg, exp_avg_var


@update_rule(
    lr=NonNegative(1e-2),
    betas=_BETAS,
    eps=NonNegative(1e-3),
    initial_accumulator_value=NonNegative(1e-6),
    weight_decay=Decay(),
    reference="Zaheer, Reddi, Sachan, Kale & Kumar (2018), Adaptive Methods for Nonconvex Optimization, NeurIPS",
)
def Yogi(param, grad, exp_avg, exp_avg_sq, step, lr, betas, eps, initial_accumulator_value):
    """Adam whose second moment changes in proportion to the squared gradient alone, so that it decreases slowly.

    Both moments are corrected for their start as Adam's are.
    """
    beta1, beta2 = betas
    square = grad * grad
    exp_avg = average(exp_avg, grad, beta1)
    exp_avg_sq = exp_avg_sq + where(step == 1, initial_accumulator_value, 0)
    exp_avg_sq = exp_avg_sq - (1 - beta2) * sign(exp_avg_sq - square) * square
    denominator = sqrt(exp_avg_sq) * (1 / sqrt(1 - beta2**step)) + eps
    return param - lr / (1 - beta1**step) * ratio(exp_avg, denominator), exp_avg, exp_avg_sq


@update_rule(
    lr=NonNegative(1e-3),
    betas=Each(Fraction(open_high=True), (0.98, 0.92, 0.99)),
    eps=NonNegative(1e-8),
    weight_decay=NonNegative(0.0),
    reference="Xie, Zhou, Li, Lin & Yan (2024), Adan: Adaptive Nesterov Momentum Algorithm, IEEE TPAMI 46, 9508",
)
def Adan(param, grad, exp_avg, exp_avg_diff, exp_avg_sq, previous_grad, step, lr, betas, eps, weight_decay):
    """Adaptive Nesterov momentum, made of the differences between one gradient and the next.

    `betas` are the shares of the past that are kept (one less the paper's β). Weight decay is proximal: after the step the
    parameter is divided by `1 + lr * weight_decay`.
    """
    beta1, beta2, beta3 = betas
    difference = where(step == 1, 0, grad - previous_grad)
    ahead = grad + beta2 * difference
    exp_avg = average(exp_avg, grad, beta1)
    exp_avg_diff = average(exp_avg_diff, difference, beta2)
    exp_avg_sq = average(exp_avg_sq, ahead * ahead, beta3)
    of_average, of_difference = lr / (1 - beta1**step), lr * beta2 / (1 - beta2**step)
    denominator = sqrt(exp_avg_sq) * (1 / sqrt(1 - beta3**step)) + eps
    param = param - ratio(of_average * exp_avg + of_difference * exp_avg_diff, denominator)
    # A quotient by a rounded 1 + lr * weight_decay would shrink at another rate.
    param = param - (lr * weight_decay / (1 + lr * weight_decay)) * param
    return param, exp_avg, exp_avg_diff, exp_avg_sq, grad


@update_rule(
    lr=NonNegative(1e-3),
    betas=Each(Fraction(open_high=True), (0.9, 0.999, 0.9999)),
    alpha=NonNegative(5.0),
    beta3_warmup=NonNegative(0.0),
    alpha_warmup=NonNegative(0.0),
    eps=NonNegative(1e-8),
    weight_decay=Decay(decoupled=True),
    reference="Pagliardini, Ablin & Grangier (2025), The AdEMAMix Optimizer: Better, Faster, Older, ICLR",
)
def AdEMAMix(param, grad, exp_avg_fast, exp_avg_slow, exp_avg_sq, step, lr, betas, alpha, beta3_warmup, alpha_warmup, eps):
    """Adam with two means of the gradients: a short one, and a long one with the weight `alpha`.

    Over the first `alpha_warmup` steps `alpha` grows from 0, over the first `beta3_warmup` the long mean's half-life grows from
    that of the short one.
    """
    beta1, beta2, final = betas
    done = step / beta3_warmup
    beta3 = where(done < 1, minimum(exp(1 / ((1 - done) / log(beta1) + done / log(final))), final), final)
    exp_avg_fast = average(exp_avg_fast, grad, beta1)
    exp_avg_slow = average(exp_avg_slow, grad, beta3)
    exp_avg_sq = average(exp_avg_sq, grad * grad, beta2)
    share = alpha * minimum(1, step / alpha_warmup)
    direction = 1 / (1 - beta1**step) * exp_avg_fast + share * exp_avg_slow
    denominator = sqrt(exp_avg_sq) * (1 / sqrt(1 - beta2**step)) + eps
    return param - lr * ratio(direction, denominator), exp_avg_fast, exp_avg_slow, exp_avg_sq


@update_rule(
    lr=NonNegative(1e-3),
    betas=Each(Fraction(open_high=True), (0.9, 0.9999)),
    eps=NonNegative(1e-6),
    clip_exponent=NonNegative(0.25),
    weight_decay=Decay(decoupled=None),
    reference="Taniguchi et al. (2024), ADOPT: Modified Adam Can Converge with Any β2 with the Optimal Rate, NeurIPS",
)
def ADOPT(param, grad, exp_avg, exp_avg_sq, step, lr, betas, eps, clip_exponent):
    """Adam that scales each gradient by the second moment of the previous ones before it takes their mean.

    Scaled gradients are clipped at `(step - 1) ** clip_exponent`. The first step only sets the second moment.
    """
    beta1, beta2 = betas
    limit = where(step == 1, 0, (step - 1) ** clip_exponent)
    scaled = ratio(grad, maximum(sqrt(exp_avg_sq), eps))
    exp_avg = average(exp_avg, minimum(maximum(scaled, -limit), limit), beta1)
    exp_avg_sq = beta2 * exp_avg_sq + where(step == 1, 1, 1 - beta2) * (grad * grad)
    return param - lr * exp_avg, exp_avg, exp_avg_sq
