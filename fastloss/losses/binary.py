"""Losses for two classes: of probabilities, of logits, of margins, and of pairs."""

from ..formula import (
    Fraction,
    Interval,
    Label,
    NonNegative,
    Optional,
    Positive,
    Real,
    absolute,
    exp,
    log,
    log1p,
    maximum,
    minimum,
    power,
    sigmoid,
    softplus,
    weighted,
    where,
    with_derivative,
)
from ..formula.registry import loss

# Where a cross-entropy exceeds this, whatever vanishes with the other class's probability has vanished.
_DECIDED = 1e4


@loss(
    pred=Fraction(),
    target=Fraction(),
    reference="Good (1952), Rational Decisions, J. R. Stat. Soc. B 14, 107-114",
    peers={
        "torch": "F.binary_cross_entropy(pred, target, reduction='none')",
        "closed_form": "-special.xlogy(target, pred) - special.xlog1py(1 - target, -pred)",
    },
)
def binary_cross_entropy(pred, target):
    r"""Cross-entropy between a target and a predicted probability.

    .. math:: -t \max(\log p, -100) - (1 - t) \max(\log(1 - p), -100)

    As in PyTorch: the floor keeps the value finite, and the gradient is (p - t) / max(p (1 - p), 1e-12). Keras clips p to
    [1e-7, 1 - 1e-7]. From logits, `binary_cross_entropy_with_logits` is exact.
    """
    rest = 1 - pred
    spread = pred * rest
    curvature = where(spread > 1e-12, target / (pred * pred) + (1 - target) / (rest * rest), 1e12)
    slope = with_derivative((pred - target) / maximum(spread, 1e-12), pred, curvature)
    return with_derivative(-(target * maximum(log(pred), -100) + (1 - target) * maximum(log1p(-pred), -100)), pred, slope)


def logistic(x):
    """sigmoid(x), sigmoid(-x), softplus(x) and softplus(-x), from one exponential that never overflows."""
    size = absolute(x)
    large, small, tail = sigmoid(size), sigmoid(-size), softplus(-size)
    up, down = where(x > 0, large, small), where(x > 0, small, large)
    return (
        with_derivative(up, x, large * small),
        with_derivative(down, x, -(large * small)),
        with_derivative(maximum(x, 0) + tail, x, up),
        with_derivative(maximum(-x, 0) + tail, x, -down),
    )


@loss(
    target=Fraction(),
    pos_weight=Positive(1.0),
    label_smoothing=Fraction(0.0),
    reference="Cox (1958), The Regression Analysis of Binary Sequences, J. R. Stat. Soc. B 20, 215-242",
    peers={
        "torch": "F.binary_cross_entropy_with_logits(pred, target * (1 - label_smoothing) + 0.5 * label_smoothing,"
        " reduction='none', pos_weight=torch.tensor(pos_weight, dtype=torch.float64))",
        "closed_form": "(pos_weight * (target * (1 - label_smoothing) + label_smoothing / 2) * np.logaddexp(0, -pred)"
        " + (1 - target * (1 - label_smoothing) - label_smoothing / 2) * np.logaddexp(0, pred))",
    },
)
def binary_cross_entropy_with_logits(pred, target, pos_weight, label_smoothing):
    r"""Cross-entropy between a target and the probability sigmoid(p): the logistic loss.

    .. math:: -w\, s \log \sigma(p) - (1 - s) \log(1 - \sigma(p)) \qquad s = (1 - \epsilon) t + \tfrac12 \epsilon,
        \quad w = \text{pos\_weight},\ \epsilon = \text{label\_smoothing}

    As in PyTorch, label smoothing as in Keras. Infinite logits cost 0 on the target's side, infinity on the other.
    """
    s = (1 - label_smoothing) * target + 0.5 * label_smoothing
    _, _, minus_log_miss, minus_log_hit = logistic(pred)
    return weighted(pos_weight * s, minus_log_hit) + weighted(1 - s, minus_log_miss)


def _focused(entropy, slope, u, du, gamma, x):
    """`entropy * u ** gamma` for an entropy of this slope and a probability `u` of slope `du`, both in `x`."""
    focus = power(u, gamma)
    if isinstance(gamma, float):  # 0, 1 or 2
        bend = gamma * du * power(u, gamma - 1)
    else:
        # By the logarithmic derivative: no infinite power of u meets a slope that has vanished.
        bend = gamma * focus * where(u > 0, du / u, 0)
        focus = with_derivative(focus, x, bend)
    return with_derivative(entropy * focus, x, slope * focus + minimum(entropy, _DECIDED) * bend)


@loss(
    target=Fraction(),
    alpha=Optional(Fraction()),
    gamma=NonNegative(2.0, special=(2, 1, 0)),
    reference="Lin et al. (2017), Focal Loss for Dense Object Detection, ICCV",
    peers={"torch": "focal_torchvision(pred, target, alpha, gamma)"},
)
def focal(pred, target, alpha, gamma):
    r"""Logistic loss with less weight on well-predicted elements.

    .. math:: -\alpha_t\, (1 - p_t)^\gamma \log p_t \qquad p_t = \begin{cases} \sigma(p) & t = 1 \\
        1 - \sigma(p) & t = 0 \end{cases}

    As `torchvision.ops.sigmoid_focal_loss`, which also defines it for targets between 0 and 1; `alpha` weighs class 1 and
    `1 - alpha` class 0, None (torchvision: -1) neither. torchvision's default `alpha` is 0.25.
    """
    up, down, minus_log_miss, minus_log_hit = logistic(pred)
    entropy = weighted(target, minus_log_hit) + weighted(1 - target, minus_log_miss)
    slope = (1 - target) * up - target * down
    wrong = target * down + (1 - target) * up
    value = _focused(entropy, slope, wrong, (1 - 2 * target) * (up * down), gamma, pred)
    return value if alpha is None else (alpha * target + (1 - alpha) * (1 - target)) * value


@loss(
    target=Label(),
    gamma_neg=NonNegative(4.0),
    gamma_pos=NonNegative(1.0),
    clip=Interval(0.0, 1.0, 0.05, open_high=True, special=(0,)),
    reference="Ridnik et al. (2021), Asymmetric Loss For Multi-Label Classification, ICCV",
    peers={"torch": "asymmetric_ridnik(pred, target, gamma_neg, gamma_pos, clip)"},
)
def asymmetric(pred, target, gamma_neg, gamma_pos, clip):
    r"""Focal loss with a separate focus for each class; easy negatives below a probability are ignored.

    .. math:: -(1 - q)^{\gamma_+} \log q \ \text{ where } t = 1, \qquad -q_m^{\gamma_-} \log(1 - q_m) \ \text{ where } t = 0,
        \qquad q = \sigma(p),\ q_m = \max(q - \text{clip}, 0)

    As the authors' `AsymmetricLoss(disable_torch_grad_focal_loss=False)`, with the gradient taken through the focus, but for
    their floor of 1e-8 under the probabilities in the logarithms. Labels: above 0 is the positive class, so 0/1 and -1/+1
    mean the same.
    """
    up, down, minus_log_miss, minus_log_hit = logistic(pred)
    both = up * down
    if clip == 0:
        shifted, slope, miss, miss_slope = up, both, minus_log_miss, up
    else:
        shifted = maximum(up - clip, 0)
        slope = where(up > clip, both, 0)
        miss, miss_slope = -log1p(-shifted), slope / (1 - shifted)
    positive = target > 0
    return _focused(
        where(positive, minus_log_hit, miss),
        where(positive, -down, miss_slope),
        where(positive, down, shifted),
        where(positive, -both, slope),
        where(positive, gamma_pos, gamma_neg),
        pred,
    )


def _margin(pred, target):
    """The prediction, its sign turned for the negative class: positive is right."""
    return where(target > 0, 1, -1) * pred  # a product: gcc turns a select between pred and -pred into a branch


@loss(
    target=Label(),
    reference="Cortes and Vapnik (1995), Support-Vector Networks, Mach. Learn. 20, 273-297",
    peers={
        "sklearn": "sgd_loss(sgd.Hinge(1.0), pred, 2.0 * (target > 0) - 1)",
        "closed_form": "np.maximum(0, 1 - pred * np.where(target > 0, 1, -1))",
    },
)
def hinge(pred, target):
    r"""Hinge loss, the loss of support vector machines.

    .. math:: \max(0, 1 - y p) \qquad y = \pm 1

    Labels: above 0 is the positive class, so 0/1 and -1/+1 mean the same. At y p = 1 the gradient is -y, as in scikit-learn.
    """
    m = _margin(pred, target)
    return where(m <= 1, 1 - m, 0)


@loss(
    target=Label(),
    reference="Chang et al. (2008), Coordinate Descent Method for Large-scale L2-loss Linear SVM, JMLR 9, 1369-1398",
    peers={
        "sklearn": "sgd_loss(sgd.SquaredHinge(1.0), pred, 2.0 * (target > 0) - 1)",
        "closed_form": "np.square(np.maximum(0, 1 - pred * np.where(target > 0, 1, -1)))",
    },
)
def squared_hinge(pred, target):
    r"""Squared hinge loss.

    .. math:: \max(0, 1 - y p)^2 \qquad y = \pm 1

    As in scikit-learn and Keras. Labels: above 0 is the positive class, so 0/1 and -1/+1 mean the same.
    """
    m = _margin(pred, target)
    short = where(m <= 1, 1 - m, 0)
    return short * short


@loss(
    target=Label(),
    reference="Rosenblatt (1958), The Perceptron, Psychol. Rev. 65, 386-408",
    peers={
        "sklearn": "sgd_loss(sgd.Hinge(0.0), pred, 2.0 * (target > 0) - 1)",
        "closed_form": "np.maximum(0, -pred * np.where(target > 0, 1, -1))",
    },
)
def perceptron(pred, target):
    r"""Perceptron loss.

    .. math:: \max(0, -y p) \qquad y = \pm 1

    Labels: above 0 is the positive class, so 0/1 and -1/+1 mean the same. At p = 0 the gradient is -y, as in scikit-learn, so
    that learning can start from zero.
    """
    m = _margin(pred, target)
    return where(m <= 0, -m, 0)


@loss(
    target=Label(),
    reference="Zhang (2004), Solving large scale linear prediction problems using stochastic gradient descent, ICML",
    peers={
        "sklearn": "sgd_loss(sgd.ModifiedHuber(), pred, 2.0 * (target > 0) - 1)",
        "closed_form": "np.square(np.clip(1 - np.where(target > 0, 1, -1) * pred, 0, 2))"
        " - 4 * np.minimum(0, np.where(target > 0, 1, -1) * pred + 1)",
    },
)
def modified_huber(pred, target):
    r"""Squared hinge loss, linear for margins below -1.

    .. math:: \begin{cases} \max(0, 1 - y p)^2 & y p \ge -1 \\ -4 y p & \text{else} \end{cases} \qquad y = \pm 1

    As in scikit-learn. Labels: above 0 is the positive class, so 0/1 and -1/+1 mean the same.
    """
    m = _margin(pred, target)
    short = where(m <= 1, 1 - m, 0)
    return where(m >= -1, short * short, -4 * m)


@loss(
    target=Label(),
    reference="Freund and Schapire (1997), A Decision-Theoretic Generalization of On-Line Learning, J. Comput. Syst. Sci. 55",
    peers={
        "sklearn": "sklearn_loss.ExponentialLoss().loss_gradient(1.0 * (target > 0), pred)",
        "closed_form": "np.exp(-pred * np.where(target > 0, 1, -1))",
    },
)
def exponential(pred, target):
    r"""Exponential loss, the loss of AdaBoost.

    .. math:: e^{-y p} \qquad y = \pm 1

    Labels: above 0 is the positive class, so 0/1 and -1/+1 mean the same. Its minimum is half the log-odds.
    """
    return exp(-_margin(pred, target))


@loss(
    target=Label(),
    reference="Collobert et al. (2002), Torch: a modular machine learning software library, IDIAP-RR 02-46",
    peers={
        "torch": "F.soft_margin_loss(pred, torch.where(target > 0, 1.0, -1.0), reduction='none')",
        "sklearn": "sklearn_loss.HalfBinomialLoss().loss_gradient(1.0 * (target > 0), pred)",
    },
)
def soft_margin(pred, target):
    r"""Logistic loss of a margin.

    .. math:: \log(1 + e^{-y p}) \qquad y = \pm 1

    As in PyTorch; `binary_cross_entropy_with_logits` for hard labels. Labels: above 0 is the positive class, so 0/1 and -1/+1
    mean the same. Infinite margins cost 0 where right, infinity where wrong.
    """
    *_, value = logistic(_margin(pred, target))
    return value


@loss(
    target=Label(),
    margin=Real(1.0),
    reference="Hadsell, Chopra and LeCun (2006), Dimensionality Reduction by Learning an Invariant Mapping, CVPR",
    peers={
        "torch": "F.hinge_embedding_loss(pred, torch.where(target > 0, 1.0, -1.0), margin=margin, reduction='none')",
        "closed_form": "np.where(target > 0, pred, np.clip(margin - pred, 0, None))",
    },
)
def hinge_embedding(pred, target, margin):
    r"""Distance of similar pairs; for dissimilar ones, by how much it is below `margin`.

    .. math:: \begin{cases} p & t > 0 \\ \max(0, \text{margin} - p) & \text{else} \end{cases}

    As in PyTorch. Labels: above 0 is the positive class (similar), so 0/1 and -1/+1 mean the same. `margin` has the unit of
    the distance.
    """
    return where(target > 0, pred, where(pred <= margin, margin - pred, 0))


@loss(
    target=Label(),
    margin=Real(0.0),
    differentiable=("x1", "x2"),
    reference="Herbrich, Graepel and Obermayer (1999), Support Vector Learning for Ordinal Regression, ICANN",
    peers={
        "torch": "F.margin_ranking_loss(x1, x2, torch.where(target > 0, 1.0, -1.0), margin=margin, reduction='none')",
        "closed_form": "np.maximum(0, margin - np.where(target > 0, 1, -1) * (x1 - x2))",
    },
)
def margin_ranking(x1, x2, target, margin):
    r"""Hinge loss of a difference of scores: the first should exceed the second, or fall below it, by `margin`.

    .. math:: \max(0, \text{margin} - y (x_1 - x_2)) \qquad y = \pm 1

    As in PyTorch, with gradients for `x1` and `x2`. Labels: above 0 says that `x1` should rank higher, so 0/1 and -1/+1 mean
    the same.
    """
    short = margin - _margin(x1 - x2, target)
    return with_derivative(where(short >= 0, short, 0), short, where(short >= 0, 1, 0))
