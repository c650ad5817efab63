"""Divergences between distributions: entry by entry, and of whole rows."""

from ..formula import (
    Flag,
    Fraction,
    NonNegative,
    Positive,
    absolute,
    exp,
    exp_nonpositive,
    expm1,
    log,
    log1p,
    log1pmx,
    scaled_exp,
    weighted,
    where,
    with_derivative,
)
from ..formula.registry import loss, row_loss
from ..formula.rows import preceding, softmax_terms, total


@loss(
    target=Fraction(checked=False).when("log_target", False, NonNegative()),  # log-probabilities are not checked
    log_target=Flag(False),
    reference="Kullback and Leibler (1951), On Information and Sufficiency, Ann. Math. Statist. 22, 79-86",
    peers={
        "torch": "F.kl_div(pred, target, reduction='none', log_target=log_target)",
        "scipy": "special.rel_entr(np.exp(target) if log_target else target, np.exp(pred))",
    },
)
def kl_div(pred, target, log_target):
    r"""Entries of the Kullback-Leibler divergence of the prediction from the target.

    .. math:: t (\log t - p) \quad \text{or, with log\_target=True,} \quad e^t (t - p)

    As in PyTorch: `pred` holds log-probabilities, `target` probabilities, or log-probabilities with `log_target=True`. The sum
    over a distribution is its divergence; the mean over all entries is not. A target of probability 0 contributes 0, also
    where `pred` is -inf.
    """
    if log_target:
        return with_derivative(scaled_exp(target - pred, target), pred, -exp(target))
    return weighted(target, log(target) - pred)


def _tempered(x, scale):
    """What a row's logits have below their largest, times the scale, its exponentials, and their sum."""
    below, _, terms, terms_sum = softmax_terms(x, scale)
    return scale * below, terms, terms_sum


@row_loss(
    temperature=Positive(1.0),
    differentiable=("logits", "target_logits"),
    reference="Kullback and Leibler (1951), Ann. Math. Statist. 22, 79-86; distillation: Hinton et al. (2015), arXiv:1503.02531",
    peers={
        "torch": "F.kl_div(F.log_softmax(logits / temperature, -1), F.log_softmax(target_logits / temperature, -1),"
        " reduction='none', log_target=True).sum(-1)",
        "optax": "optax.losses.kl_divergence(jax.nn.log_softmax(logits / temperature), jax.nn.softmax(target_logits / temperature))",
    },
)
def kl_divergence(logits, target_logits, temperature):
    r"""Kullback-Leibler divergence of a row of logits from the row that it should match.

    .. math:: \sum_c t_c \log \frac{t_c}{s_c} \qquad s = \mathrm{softmax}(x / \tau),\ t = \mathrm{softmax}(y / \tau)

    with x = `logits`, the student's, and y = `target_logits`, the teacher's: in the order of `torch.nn.functional.kl_div` and of
    distillation, so this is KL(target ‖ prediction); the reverse divergence is had by exchanging the two. In nats, not
    multiplied by τ² = `temperature`² as Hinton et al. do. Precise also where both rows nearly agree. A class of target
    probability 0 contributes 0.
    """
    scale = 1 / temperature
    s_log, s, s_sum = _tempered(logits, scale)
    t_log, t, t_sum = _tempered(target_logits, scale)
    gap = t_log - s_log
    crossed = where(t == 0, 0, t * gap)
    plain = total(crossed) / t_sum + log(s_sum / t_sum)
    # Nearly equal rows: t gap + s - t is a square to first order, and so is what the sums leave of it.
    near = absolute(gap) < 1
    excess = total(where(near, t * (gap + expm1(-where(near, gap, 0))), crossed + (s - t))) / t_sum
    small = excess + log1pmx((s_sum - t_sum) / t_sum)
    return with_derivative(where(excess < 0.1, small, plain), plain, 1)


@row_loss(
    beta=Fraction(0.5, open_low=True, open_high=True),
    temperature=Positive(1.0),
    differentiable=("logits", "target_logits"),
    reference="Lin (1991), IEEE Trans. Inf. Theory 37, 145-151; distillation: Agarwal et al. (2024), ICLR",
    peers={
        "torch": "(lambda s, t: (lambda m: beta * (t.exp() * (t - m)).sum(-1) + (1 - beta) * (s.exp() * (s - m)).sum(-1))"
        "(torch.log(beta * t.exp() + (1 - beta) * s.exp())))"
        "(F.log_softmax(logits / temperature, -1), F.log_softmax(target_logits / temperature, -1))"
    },
)
def js_divergence(logits, target_logits, beta, temperature):
    r"""Jensen-Shannon divergence between a row of logits and the row that it should match.

    .. math:: \beta\, \mathrm{KL}(t \,\|\, m) + (1 - \beta)\, \mathrm{KL}(s \,\|\, m) \qquad m = \beta t + (1 - \beta) s,\
        s = \mathrm{softmax}(x / \tau),\ t = \mathrm{softmax}(y / \tau)

    with x = `logits`, the student's, and y = `target_logits`, the teacher's. In nats, at most log 2 at `beta=0.5`. Weights as in
    generalised knowledge distillation (TRL, Liger-Kernel), which put KL(t ‖ s) at `beta=0` and KL(s ‖ t) at `beta=1`; those are
    `kl_divergence`, the divergence itself is 0 there. Divided by `beta` it nears KL(t ‖ s) as `beta` vanishes.
    """
    scale = 1 / temperature
    s_log, s, s_sum = _tempered(logits, scale)
    t_log, t, t_sum = _tempered(target_logits, scale)
    s, t = s / s_sum, t / t_sum
    gap = (s_log - t_log) + log(t_sum / s_sum)  # log(s / t)
    below = gap < 0
    tail = log1p(where(below, 1 - beta, beta) * expm1(-absolute(gap)))
    odds = exp_nonpositive(-absolute(gap))
    s_part, t_part = where(below, (1 - beta) * odds, 1 - beta), where(below, beta, beta * odds)
    inverse = 1 / (s_part + t_part)
    # log(m / t) and log(m / s)
    over_t = with_derivative(where(below, tail, tail + gap), gap, s_part * inverse)
    over_s = with_derivative(where(below, tail - gap, tail), gap, -(t_part * inverse))
    # How the mixture moves cancels from the derivative of the sum.
    from_t = with_derivative(where(t == 0, 0, -beta * (t * over_t)), t, where(t == 0, 0, -beta * over_t))
    from_s = with_derivative(where(s == 0, 0, (beta - 1) * (s * over_s)), s, where(s == 0, 0, (beta - 1) * over_s))
    return total(from_t + from_s)


@row_loss(
    pred=Fraction(),
    target=Fraction(),
    differentiable=("pred", "target"),
    reference="Levin, Peres and Wilmer (2017), Markov Chains and Mixing Times, 2nd ed., chapter 4",
    peers={"torch": "0.5 * (pred - target).abs().sum(-1)", "closed_form": "0.5 * np.abs(pred - target).sum(-1)"},
)
def total_variation(pred, target):
    r"""Total variation distance between two rows of probabilities.

    .. math:: \tfrac12 \sum_c |p_c - t_c|

    The largest difference of the probabilities that both give to one event; from 0 to 1 where both rows sum to 1, which is not
    checked. Some libraries leave the factor 1/2 out. The gradient is 0 where entries agree. PyTorch has no such function.
    """
    return 0.5 * total(absolute(pred - target))


@row_loss(
    pred=Fraction(),
    target=Fraction(),
    differentiable=("pred", "target"),
    reference="Vallender (1974), Theory of Probability and Its Applications 18, 784-786; Rubner et al. (2000), IJCV 40, 99-121",
    peers={
        "torch": "(pred - target).cumsum(-1)[..., :-1].abs().sum(-1)",
        "scipy": "wasserstein_scipy(pred, target)",
    },
)
def wasserstein_1d(pred, target):
    r"""Wasserstein-1 (earth mover's) distance between two rows of probabilities, of points in a row one apart.

    .. math:: \sum_{c=1}^{C-1} \Bigl| \sum_{i \le c} p_i - t_i \Bigr|

    In units of the points' distance, as `scipy.stats.wasserstein_distance(arange(C), arange(C), p, t)`, which divides each row by
    its sum. Here nothing is normalised, and that both rows have one sum is not checked: what one has more than the other by
    the last point costs nothing there. Divide by C - 1 for a distance from 0 to 1. The gradient takes the sign of 0 as 0, that of
    the last entry is 0. PyTorch has no such function; the squared differences of the cumulative sums would be Cramér's distance.
    """
    return total(absolute(preceding(pred - target)))
