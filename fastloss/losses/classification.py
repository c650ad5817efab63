"""Losses of a row of logits and its class."""

from math import inf

from ..formula import (
    Class,
    Classes,
    ClassWeight,
    Fraction,
    Interval,
    NonNegative,
    Optional,
    Positive,
    Real,
    absolute,
    exp,
    expm1,
    log,
    maximum,
    minimum,
    power,
    tanh,
    weighted,
    where,
    with_derivative,
)
from ..formula.registry import row_loss
from ..formula.rows import (
    class_weighted,
    is_among,
    iterate,
    leave_out,
    length,
    mean,
    need,
    need_one_peak,
    pick,
    shifted,
    softmax_terms,
    total,
)
from .binary import logistic

# Where a cross-entropy exceeds this, whatever vanishes with the class's probability has vanished.
_DECIDED = 1e4


@row_loss(
    target=Class(or_probabilities=True),
    class_weight=ClassWeight(),
    label_smoothing=Fraction(0.0, special=(0,)),
    z_loss=NonNegative(0.0),
    softcap=Optional(Positive()),
    temperature=Positive(1.0),
    curvature=True,
    reference="Bridle (1990); label smoothing: Szegedy et al. (2016), CVPR; z-loss: Chowdhery et al. (2023), JMLR 24(240)",
    peers={
        "torch": "F.cross_entropy((logits if softcap is None else softcap * torch.tanh(logits / softcap)) / temperature, target,"
        " class_weight, label_smoothing=label_smoothing, reduction='none') + z_loss * torch.logsumexp("
        "(logits if softcap is None else softcap * torch.tanh(logits / softcap)) / temperature, -1) ** 2"
    },
)
def cross_entropy(logits, target, class_weight, label_smoothing, z_loss, softcap, temperature):
    r"""Cross-entropy between a row of logits and its class, or the probabilities of its classes.

    .. math:: -\sum_c q_c w_c \log p_c + z \, \mathrm{lse}^2 \qquad p = \mathrm{softmax}(x / \tau),\
        \mathrm{lse} = \log \sum_c e^{x_c / \tau},\ q = (1 - \varepsilon)\, t + \varepsilon / C

    with t = 1 for the class that `target` names and 0 for the others, or t = `target`, if that is a floating-point array of the
    logits' shape; ε = `label_smoothing`, z = `z_loss`, τ = `temperature`. `softcap` c first replaces the logits x by
    c tanh(x / c). The unit is the nat. With the defaults as in PyTorch, which also has `class_weight` and `label_smoothing`,
    weighted alike; Optax and Keras smooth the same way but have no class weights here. A mean divides by the sum of the rows'
    w_t, or, if `target` holds probabilities, by the number of rows, as PyTorch's; they need not sum to 1, which is not checked.
    The gradient is not multiplied by τ or τ², as is usual in distillation. A logit of +inf at the label costs 0; a row with several
    of them, or with nothing above -inf, has no limit and is NaN. Under label smoothing, or with `z_loss`, a label of weight 0 still
    has the other terms.
    """
    if softcap is not None:
        logits = softcap * tanh(logits / softcap)
    scale = 1 / temperature
    # All below the largest logit: what a row's logits share must not cost the loss its digits.
    below, peak, _, terms_sum = softmax_terms(logits, scale)
    log_total = log(terms_sum)
    lse = scale * peak + log_total
    if class_weight is None:
        entropy = log_total * pick(1, target) - scale * pick(below, target)
        smooth = log_total - scale * mean(below)
    else:
        weight, weighted_below = pick(class_weight, target), weighted(class_weight, below)
        entropy = log_total * weight - scale * pick(weighted_below, target)
        smooth = log_total * mean(class_weight) - scale * mean(weighted_below)
        if label_smoothing == 0:
            leave_out((weight == 0) & (z_loss == 0))
    penalty = where(z_loss == 0, 0, (z_loss * lse) * lse)  # lse may be infinite
    return (1 - label_smoothing) * entropy + label_smoothing * smooth + penalty, {"logsumexp": lse}


def _entropy(logits, target):
    """-log p of the class, a sum of two terms that are not below 0: nothing cancels, however large the logits are."""
    below, _, _, terms_sum = softmax_terms(logits)
    return log(terms_sum) - pick(below, target)


@row_loss(
    target=Class(),
    class_weight=ClassWeight(),
    gamma=NonNegative(2.0, special=(2, 1, 0)),
    reference="Lin et al. (2017), Focal Loss for Dense Object Detection, ICCV",
    peers={
        "torch": "(-torch.expm1(-F.cross_entropy(logits, target, reduction='none'))) ** gamma"
        " * F.cross_entropy(logits, target, class_weight, reduction='none')"
    },
)
def focal_cross_entropy(logits, target, class_weight, gamma):
    r"""Cross-entropy with less weight on well-predicted rows.

    .. math:: -w_t\, (1 - p_t)^\gamma \log p_t \qquad p = \mathrm{softmax}(x)

    `gamma=0` is the cross-entropy. The paper's α is `class_weight`: one number for each class, not, as in
    `torchvision.ops.sigmoid_focal_loss`, α for the class and 1 - α for the rest. Keras's `CategoricalFocalCrossentropy` has a
    default α of 0.25, here it is 1. PyTorch has no softmax focal loss. Below `gamma=1` the curvature is unbounded where p_t nears 1.
    """
    entropy = _entropy(logits, target)
    value = entropy
    if gamma != 0:
        hit, miss = exp(-entropy), -expm1(-entropy)
        bounded = minimum(entropy, _DECIDED)
        ratio = where(miss > 0, bounded / miss, 1)
        focus = power(miss, gamma)
        bend = where(miss > 0, gamma * power(miss, gamma - 1) * hit * (2 - bounded + (gamma - 1) * hit * ratio), 0)
        slope = with_derivative(focus * (1 + gamma * hit * ratio), entropy, bend)
        value = with_derivative(focus * entropy, entropy, slope)
    return value if class_weight is None else class_weighted(pick(class_weight, target), value)


@row_loss(
    target=Class(),
    epsilon=Real(1.0),
    reference="Leng et al. (2022), PolyLoss: A Polynomial Expansion Perspective of Classification Loss Functions, ICLR",
    peers={
        "torch": "F.cross_entropy(logits, target, reduction='none')"
        " - epsilon * torch.expm1(-F.cross_entropy(logits, target, reduction='none'))",
        "optax": "optax.losses.poly_loss_cross_entropy(logits, jax.nn.one_hot(target, logits.shape[-1]), epsilon=epsilon)",
    },
)
def poly_cross_entropy(logits, target, epsilon):
    r"""Cross-entropy whose first polynomial coefficient is changed by `epsilon`: Poly-1.

    .. math:: -\log p_t + \varepsilon\, (1 - p_t) \qquad p = \mathrm{softmax}(x)

    `epsilon=0` is the cross-entropy; below -1 the loss no longer falls as p_t nears 1. Optax has it as
    `poly_loss_cross_entropy`, with a default of 2, for labels that are distributions; PyTorch and Keras do not.
    """
    entropy = _entropy(logits, target)
    return entropy - epsilon * expm1(-entropy)


@row_loss(
    target=Class(),
    q=Fraction(0.7, special=(0,)),
    reference="Zhang and Sabuncu (2018), Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels, NeurIPS",
    peers={
        "torch": "-torch.expm1(-q * F.cross_entropy(logits, target, reduction='none')) / q"
        " if q else F.cross_entropy(logits, target, reduction='none')"
    },
)
def generalized_cross_entropy(logits, target, q):
    r"""Box-Cox transform of the class's probability, which bounds the loss of a wrong label.

    .. math:: \frac{1 - p_t^q}{q} \qquad p = \mathrm{softmax}(x)

    The cross-entropy at `q=0`, the absolute error 1 - p_t at `q=1` (half of the L1 distance to the one-hot label). At most 1/q.
    PyTorch, Optax and Keras do not have it.
    """
    entropy = _entropy(logits, target)
    return entropy if q == 0 else -expm1(-q * entropy) / q


@row_loss(
    target=Class(),
    class_weight=ClassWeight(),
    margin=NonNegative(1.0),
    p=Interval(1.0, float("inf"), 1.0, open_high=True, special=(1, 2)),
    reference="Crammer and Singer (2001), JMLR 2, 265-292; the sum over classes: Weston and Watkins (1999), ESANN",
    peers={
        "torch": "(((logits - logits.gather(1, target[:, None]) + margin).clamp(min=0) ** p).sum(1) - margin**p)"
        " / logits.shape[1] * (1 if class_weight is None else class_weight[target])"
    },
)
def multi_margin(logits, target, class_weight, margin, p):
    r"""Hinge loss of each other class's logit against that of the true class.

    .. math:: \frac{w_t}{C} \sum_{c \ne t} \max(0, m - x_t + x_c)^p

    As in PyTorch, which allows `p` 1 and 2 only; here any power of 1 or more. The sum is divided by the number of classes C, not
    by C - 1. `margin` m has the unit of the logits. The gradient at the kink is 0.
    """
    hit = pick(logits, target)
    # The margin itself, without rounding, for the class; where its logit is infinite, 1 to count those that equal it.
    step = where(absolute(hit) < inf, margin, 1)
    gap = logits - hit
    lead = step + with_derivative(where(logits == hit, 0, gap), gap, 1)
    over = maximum(lead, 0)
    if p == 1:
        cost, own = over, step
    elif p == 2:
        cost, own = over * over, step * step
    else:
        slope = with_derivative(power(over, p - 1), lead, where(lead > 0, (p - 1) * power(over, p - 2), 0))
        cost = with_derivative(power(over, p), lead, p * slope)
        own = power(step, p)
    others = total(cost) - own
    need((absolute(hit) < inf) | (others == 0) | (others == inf))  # inf - inf has no limit
    value = with_derivative(maximum(others, 0), others, 1) / length(logits)
    return value if class_weight is None else class_weighted(pick(class_weight, target), value)


@row_loss(
    target=Classes(),
    margin=NonNegative(1.0),
    reference="Crammer and Singer (2003), A Family of Additive Online Algorithms for Category Ranking, JMLR 3, 1025-1058",
    peers={"torch": "margin * F.multilabel_margin_loss(logits / margin, target, reduction='none')"},
)
def multilabel_margin(logits, target, margin):
    r"""Hinge loss of the logits of all classes that are not the row's against those of all that are.

    .. math:: \frac1C \sum_{t \in T} \sum_{c \notin T} \max(0, m - x_t + x_c)

    As in PyTorch, whose margin m is 1: `target` lists the row's classes T first, ended by -1; what follows is not looked at. A
    class that is listed twice counts twice. A row without classes costs 0. `margin` has the unit of the logits. The gradient at
    the kink is 0. For a row of ones and zeros in place of a list see `multilabel_soft_margin`.
    """
    short = maximum(margin + (logits - pick(logits, target)), 0)
    return total(where(is_among(target), 0, short)) / length(logits)


@row_loss(
    target=Fraction(),
    class_weight=ClassWeight(),
    reference="Read et al. (2011), Classifier chains for multi-label classification, Machine Learning 85, 333-359: binary relevance",
    peers={"torch": "F.multilabel_soft_margin_loss(logits, target, class_weight, reduction='none')"},
)
def multilabel_soft_margin(logits, target, class_weight):
    r"""Mean over the classes of the logistic loss of each, where a row may have any number of them.

    .. math:: -\frac1C \sum_c w_c \left( t_c \log \sigma(x_c) + (1 - t_c) \log \sigma(-x_c) \right)

    As in PyTorch: `target` holds 1 for each of the row's classes and 0 for the others, or probabilities, and `class_weight`
    weighs the terms, not the rows: a mean divides by the number of rows. The same terms one by one:
    `binary_cross_entropy_with_logits`.
    """
    _, _, minus_log_miss, minus_log_hit = logistic(logits)
    cost = weighted(target, minus_log_hit) + weighted(1 - target, minus_log_miss)
    return mean(cost if class_weight is None else weighted(class_weight, cost))


@row_loss(
    target=Class(),
    class_weight=ClassWeight(),
    reference="Fisher (1922), On the Mathematical Foundations of Theoretical Statistics, Phil. Trans. R. Soc. A 222, 309-368",
    peers={"torch": "F.nll_loss(log_probs, target, class_weight, reduction='none')"},
)
def nll(log_probs, target, class_weight):
    r"""Negative log-probability of the row's class.

    .. math:: -w_t \log p_t

    As in PyTorch; `log_probs` holds logarithms of probabilities, in nats, and is not normalised. From logits, `cross_entropy` is
    the same loss in one go. PyTorch's mean divides by the sum of the rows' w_t. A class of weight 0 costs 0, even at
    probability 0.
    """
    hit = pick(log_probs, target)
    return -hit if class_weight is None else class_weighted(pick(class_weight, target), -hit)


def _newton(below, threshold):
    """Nearer to where what lies above the threshold sums to 1; from below that point the steps rise and never pass it."""
    excess = total(maximum(below - threshold, 0)) - 1
    nearer = threshold + excess / total(where(below > threshold, 1, 0))
    # The largest of n probabilities is at least 1/n: by rounding alone nothing would be left above the threshold.
    return with_derivative(minimum(nearer, -1 / length(below)), nearer, 1)


@row_loss(
    target=Class(),
    class_weight=ClassWeight(),
    reference="Martins and Astudillo (2016), From Softmax to Sparsemax, ICML; the threshold: Held, Wolfe and Crowder (1974)",
    peers={"torch": "sparsemax_martins(logits, target) * (1 if class_weight is None else class_weight[target])"},
)
def sparsemax(logits, target, class_weight):
    r"""Loss of sparsemax, the Euclidean projection of the logits onto the probabilities, which gives many classes exactly 0.

    .. math:: -x_t + \tfrac12 \sum_{c \in S} (x_c^2 - \tau^2) + \tfrac12 = \tfrac12 \|p - e_t\|^2 + \max(0, \tau - x_t)
        \qquad p = \max(0, x - \tau),\ \textstyle\sum_c p_c = 1

    with S the classes of p > 0 and e_t the one-hot label, times the class's weight. The gradient is p - e_t. Never negative, and
    0 where the class leads all others by 1 or more: the margin of a hinge loss. p, of the loss without weights, is
    `sparsemax.grad(logits, target, reduction="sum")` with 1 added at the class. As in the paper and in the Python packages
    `entmax` and TensorFlow Addons, which have no class weights; PyTorch, Optax and Keras do not have it.
    """
    below, peak = shifted(logits)
    threshold = iterate(below, -1, _newton)
    need_one_peak(peak, -1 / threshold)  # of n infinite logits the threshold is -1/n
    chances = maximum(below - threshold, 0)
    hit, at_hit = pick(chances, target), pick(below, target)
    # How the threshold moves cancels from the gradient.
    squares = with_derivative(chances * chances, below, 2 * chances)
    plain = 0.5 * total(squares) - at_hit
    # A sum of terms that are not below 0. A class of more than 1/2 is the only largest one.
    others = where(hit > 0.5, total(where(below < at_hit, chances * chances, 0)), total(squares) - hit * hit)
    value = with_derivative(0.5 * (others + (1 - hit) * (1 - hit)) + maximum(threshold - at_hit, 0), plain, 1)
    return value if class_weight is None else class_weighted(pick(class_weight, target), value)
