"""Schedule-free rules: a mean over the steps takes the place of a falling learning rate."""

from ..formula import Decay, Each, Fraction, NonNegative, minimum, sqrt, where
from ..formula.registry import update_rule
from ._parts import average, ratio

# The numbers that both rules share: the learning rate rises over the first steps, and a step's weight in the mean is
# step ** r * (largest learning rate so far) ** weight_lr_power.
_SCHEDULE = {"warmup_steps": NonNegative(0.0), "r": NonNegative(0.0), "weight_lr_power": NonNegative(2.0)}
_REFERENCE = "Defazio, Yang, Mehta, Mishchenko, Khaled & Cutkosky (2024), The Road Less Scheduled, NeurIPS"


def _largest(lr_max, step, lr, warmup_steps):
    return max(lr_max, lr * min(1.0, step / warmup_steps) if warmup_steps else lr)


_CARRIED = {
    "weight_sum": (
        0.0,
        lambda weight_sum, lr_max, step, lr, warmup_steps, r, weight_lr_power, **_: (
            weight_sum + float(step) ** r * _largest(lr_max, step, lr, warmup_steps) ** weight_lr_power
        ),
    ),
    "lr_max": (0.0, lambda lr_max, step, lr, warmup_steps, **_: _largest(lr_max, step, lr, warmup_steps)),
}


def _schedule_free(param, move, z, step, lr, beta1, warmup_steps, r, weight_lr_power, weight_sum, lr_max):
    """The parameter y, where gradients are taken, lies between z, which takes the steps, and x, the mean of all z."""
    lr = lr * minimum(1, step / warmup_steps)
    share = where(weight_sum == 0, 0, step**r * lr_max**weight_lr_power / weight_sum)
    z = where(step == 1, param, z)
    param = param + share * (z - param) - (lr * (1 - beta1 * (1 - share))) * move
    return param, z - lr * move


@update_rule(
    lr=NonNegative(1.0),
    momentum=Fraction(0.9, open_low=True, open_high=True),
    weight_decay=Decay(),
    **_SCHEDULE,
    carried=_CARRIED,
    abilities=("Averages",),
    reference=_REFERENCE,
)
def ScheduleFreeSGD(param, grad, z, step, lr, momentum, warmup_steps, r, weight_lr_power, weight_sum, lr_max):
    """Gradient descent that needs no schedule: the parameters of use are a mean over the steps, `evaluation_params()`.

    The arrays hold y, where gradients are taken, and the state z; the mean is `x = z + (y - z) / momentum`.
    """
    return _schedule_free(param, grad, z, step, lr, momentum, warmup_steps, r, weight_lr_power, weight_sum, lr_max)


@update_rule(
    lr=NonNegative(2.5e-3),
    betas=Each(Fraction(open_high=True), (0.9, 0.999)),
    eps=NonNegative(1e-8),
    weight_decay=NonNegative(0.0),
    **_SCHEDULE,
    requires=[(lambda betas, **_: betas[0] > 0, "betas[0] must be > 0")],
    carried=_CARRIED,
    abilities=("Averages",),
    reference=_REFERENCE,
)
def ScheduleFreeAdamW(
    param, grad, z, exp_avg_sq, step, lr, betas, eps, weight_decay, warmup_steps, r, weight_lr_power, weight_sum, lr_max
):
    """AdamW that needs no schedule: the parameters of use are a mean over the steps, `evaluation_params()`.

    The arrays hold y, where gradients are taken and weights decay, and the state z; the mean is `x = z + (y - z) / betas[0]`.
    """
    beta1, beta2 = betas
    exp_avg_sq = average(exp_avg_sq, grad * grad, beta2)
    denominator = sqrt(exp_avg_sq) * (1 / sqrt(1 - beta2**step)) + eps
    move = ratio(grad, denominator) + weight_decay * param
    param, z = _schedule_free(param, move, z, step, lr, beta1, warmup_steps, r, weight_lr_power, weight_sum, lr_max)
    return param, z, exp_avg_sq
