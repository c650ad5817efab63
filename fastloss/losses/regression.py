"""Losses for real targets: of the residual `pred - target`, and the Gaussian likelihood."""

import math

from ..formula import (
    Flag,
    Fraction,
    Interval,
    NonNegative,
    Positive,
    absolute,
    atan,
    exp,
    expm1,
    log,
    log1p,
    log1pmx,
    maximum,
    power,
    sign,
    sqrt,
    weighted,
    where,
    with_derivative,
)
from ..formula import log_cosh as _log_cosh
from ..formula.registry import loss

# Beyond this x * x may overflow, and 1 + x * x equals x * x to the last bit.
_HUGE = 1e17


@loss(
    reference="Legendre (1805), Nouvelles méthodes pour la détermination des orbites des comètes",
    peers={"torch": "F.mse_loss(pred, target, reduction='none')", "closed_form": "np.square(pred - target)"},
)
def squared_error(pred, target):
    r"""Squared error, the loss of least squares.

    .. math:: (p - t)^2

    As in PyTorch and Keras. scikit-learn's loss and SciPy's `least_squares` hold a factor 1/2, so that their gradient is
    p - t; here it is 2 (p - t).
    """
    r = pred - target
    return r * r


@loss(
    reference="Laplace (1774), Mémoire sur la probabilité des causes par les événements",
    peers={"torch": "F.l1_loss(pred, target, reduction='none')", "closed_form": "np.abs(pred - target)"},
)
def absolute_error(pred, target):
    r"""Absolute error, whose minimum is the median.

    .. math:: |p - t|

    The gradient is the sign of p - t, 0 where they agree.
    """
    return absolute(pred - target)


@loss(
    delta=Positive(1.0),
    reference="Huber (1964), Robust Estimation of a Location Parameter, Ann. Math. Statist. 35, 73-101",
    peers={
        "torch": "F.huber_loss(pred, target, reduction='none', delta=delta)",
        "scipy": "special.huber(delta, pred - target)",
    },
)
def huber(pred, target, delta):
    r"""Squared error near the target, absolute error beyond `delta`.

    .. math:: \begin{cases} \tfrac12 r^2 & |r| \le \delta \\ \delta (|r| - \tfrac12 \delta) & \text{else} \end{cases}
        \qquad r = p - t

    As in PyTorch, SciPy and scikit-learn. `smooth_l1` is this loss divided by its threshold. `delta` has the unit of the
    target.
    """
    a = absolute(pred - target)
    return where(a <= delta, 0.5 * a * a, delta * (a - 0.5 * delta))


@loss(
    beta=NonNegative(1.0, special=(0,)),
    reference="Girshick (2015), Fast R-CNN, ICCV",
    peers={
        "torch": "F.smooth_l1_loss(pred, target, reduction='none', beta=beta)",
        "closed_form": "special.huber(beta, pred - target) / beta if beta else np.abs(pred - target)",
    },
)
def smooth_l1(pred, target, beta):
    r"""Absolute error, smoothed within `beta` of the target.

    .. math:: \begin{cases} \tfrac12 r^2 / \beta & |r| < \beta \\ |r| - \tfrac12 \beta & \text{else} \end{cases}
        \qquad r = p - t

    As in PyTorch: `huber(delta=beta) / beta`, and the absolute error at `beta=0`. `beta` has the unit of the target.
    """
    a = absolute(pred - target)
    if beta == 0:
        return a
    return where(a < beta, 0.5 * a * a / beta, a - 0.5 * beta)


def _hypot1m1(x):
    """sqrt(1 + x^2) - 1, without cancellation or overflow."""
    far = absolute(x) > _HUGE
    root = sqrt(1 + x * x)
    inverse = 1 / root
    slope = with_derivative(where(far, sign(x), x / root), x, inverse * inverse * inverse)
    return with_derivative(where(far, absolute(x), x * x / (1 + root)), x, slope)


@loss(
    delta=Positive(1.0),
    reference="Charbonnier et al. (1994), Two deterministic half-quadratic regularization algorithms, ICIP",
    peers={
        "scipy": "special.pseudo_huber(delta, pred - target)",
        "closed_form": "delta**2 * (np.sqrt(1 + np.square((pred - target) / delta)) - 1)",
    },
)
def pseudo_huber(pred, target, delta):
    r"""A smooth relative of the Huber loss.

    .. math:: \delta^2 \left( \sqrt{1 + (r / \delta)^2} - 1 \right) \qquad r = p - t

    About r²/2 near the target, `delta` |r| far from it. `delta` has the unit of the target.
    """
    return delta * delta * _hypot1m1((pred - target) / delta)


@loss(
    reference="Green (1990), Bayesian reconstructions from emission tomography data, IEEE Trans. Med. Imaging 9, 84-93",
    peers={"closed_form": "np.logaddexp(pred - target, target - pred) - np.log(2)"},
)
def log_cosh(pred, target):
    r"""Logarithm of the hyperbolic cosine of the residual.

    .. math:: \log \cosh (p - t)

    About r²/2 near the target, |r| - log 2 far from it. As in Keras.
    """
    return _log_cosh(pred - target)


@loss(
    q=Fraction(0.5, open_low=True, open_high=True),
    reference="Koenker and Bassett (1978), Regression Quantiles, Econometrica 46, 33-50",
    peers={
        "sklearn": "sklearn_loss.PinballLoss(quantile=q).loss_gradient(target, pred)",
        "closed_form": "np.maximum(q * (target - pred), (q - 1) * (target - pred))",
    },
)
def quantile(pred, target, q):
    r"""Pinball loss, whose minimum is the quantile `q`.

    .. math:: \max(q\,(t - p),\ (q - 1)(t - p))

    As in scikit-learn: at `q=0.5` it is half the absolute error. Where prediction and target agree the gradient is `-q`.
    """
    u = target - pred
    return where(u >= 0, q, q - 1) * u


@loss(
    q=Fraction(0.5, open_low=True, open_high=True),
    reference="Newey and Powell (1987), Asymmetric Least Squares Estimation and Testing, Econometrica 55, 819-847",
    peers={"closed_form": "np.abs(q - (target < pred)) * np.square(target - pred)"},
)
def expectile(pred, target, q):
    r"""Asymmetric squared error, whose minimum is the expectile `q`.

    .. math:: |q - [t < p]| \, (t - p)^2

    At `q=0.5` it is half the squared error.
    """
    u = target - pred
    return where(u >= 0, q, 1 - q) * (u * u)


@loss(
    epsilon=NonNegative(0.1),
    reference="Vapnik (1995), The Nature of Statistical Learning Theory, Springer",
    peers={
        "sklearn": "sgd_loss(sgd.EpsilonInsensitive(epsilon), pred, target)",
        "closed_form": "np.maximum(0, np.abs(pred - target) - epsilon)",
    },
)
def epsilon_insensitive(pred, target, epsilon):
    r"""Absolute error beyond a tube of half-width `epsilon`, the loss of support vector regression.

    .. math:: \max(0, |p - t| - \epsilon)

    As in scikit-learn; on the edge of the tube the gradient is 0. `epsilon` has the unit of the target.
    """
    return maximum(absolute(pred - target) - epsilon, 0)


@loss(
    epsilon=NonNegative(0.1),
    reference="Vapnik (1995), The Nature of Statistical Learning Theory, Springer",
    peers={
        "sklearn": "sgd_loss(sgd.SquaredEpsilonInsensitive(epsilon), pred, target)",
        "closed_form": "np.square(np.maximum(0, np.abs(pred - target) - epsilon))",
    },
)
def squared_epsilon_insensitive(pred, target, epsilon):
    r"""Squared error beyond a tube of half-width `epsilon`.

    .. math:: \max(0, |p - t| - \epsilon)^2

    As in scikit-learn and LIBLINEAR, without a factor 1/2. `epsilon` has the unit of the target.
    """
    r = pred - target
    out = maximum(absolute(r) - epsilon, 0)
    return with_derivative(out * out, r, with_derivative(2 * out * sign(r), r, where(out > 0, 2, 0)))


@loss(
    pred=Interval(-1.0, open_low=True),
    target=Interval(-1.0, open_low=True),
    reference="scikit-learn: sklearn.metrics.mean_squared_log_error",
    peers={
        "sklearn": "metrics.mean_squared_log_error([target], [pred], multioutput='raw_values')",
        "closed_form": "np.square(np.log1p(pred) - np.log1p(target))",
    },
)
def squared_log_error(pred, target):
    r"""Squared difference of the logarithms of one plus the values.

    .. math:: (\log(1 + p) - \log(1 + t))^2

    As in scikit-learn. Keras raises both to at least 1e-7 first.
    """
    # log((1 + p) / (1 + t)) from the difference, upwards from the smaller one: no cancellation near the target.
    r = pred - target
    gap = log1p(absolute(r) / (1 + where(r > 0, target, pred)))
    inverse = 1 / (1 + pred)
    ratio = where(r > 0, gap, -gap)
    slope = with_derivative(2 * weighted(inverse, ratio), pred, 2 * weighted(inverse * inverse, 1 - ratio))
    return with_derivative(ratio * ratio, pred, slope)


@loss(
    reference="de Myttenaere et al. (2016), Mean Absolute Percentage Error for regression models, Neurocomputing 192, 38-48",
    peers={
        "sklearn": "metrics.mean_absolute_percentage_error([target], [pred], multioutput='raw_values')",
        "closed_form": "np.abs((pred - target) / np.where(target == 0, np.finfo(float).eps, target))",
    },
)
def absolute_percentage_error(pred, target):
    r"""Absolute error relative to the target: a fraction, not a percentage.

    .. math:: |p - t| \,/\, \max(|t|, 2^{-52})

    As in scikit-learn, whose floor under the target is float64's epsilon for all dtypes. Keras multiplies by 100 and has a
    floor of 1e-7.
    """
    return absolute(pred - target) / maximum(absolute(target), 2.0**-52)


@loss(
    c=Positive(1.0),
    reference="Fair (1974), On the robust estimation of econometric models, Ann. Econ. Soc. Meas. 3, 667-677",
    peers={"closed_form": "c**2 * (np.abs(pred - target) / c - np.log(1 + np.abs(pred - target) / c))"},
)
def fair(pred, target, c):
    r"""Fair's robust loss.

    .. math:: c^2 \left( |z| - \log(1 + |z|) \right) \qquad z = (p - t) / c

    About r²/2 near the target, `c` |r| far from it. `c` has the unit of the target.
    """
    z = (pred - target) / c
    a = absolute(z)
    inverse = 1 / (1 + a)
    slope = where(a < _HUGE, z * inverse, sign(z))  # z / (1 + |z|), also at infinity
    return c * c * with_derivative(-log1pmx(a), z, with_derivative(slope, z, inverse * inverse))


def _log1p_square(x):
    """log(1 + x^2), also where x^2 overflows: there it is 2 log|x|."""
    a = absolute(x)
    near = a < _HUGE
    inverse = 1 / where(near, 1 + x * x, x)
    # (1 - x^2) / (1 + x^2)^2, in an order that neither overflows nor cancels.
    curvature = 2 * (where(near, 1 - x, -1) * inverse) * (where(near, 1 + x, 1) * inverse)
    slope = with_derivative(2 * (where(near, x, 1) * inverse), x, curvature)
    return with_derivative(where(near, 1, 2) * log1p(where(near, x * x, a)), x, slope)


@loss(
    c=Positive(1.0),
    reference="Holland and Welsch (1977), Robust regression using iteratively reweighted least-squares, Commun. Stat. A 6",
    peers={
        "scipy": "robust_cost('cauchy', pred - target, c)",
        "closed_form": "0.5 * c**2 * np.log(1 + np.square((pred - target) / c))",
    },
)
def cauchy(pred, target, c):
    r"""Cauchy (Lorentzian) loss.

    .. math:: \tfrac12 c^2 \log(1 + z^2) \qquad z = (p - t) / c

    As in SciPy's `least_squares`: about r²/2 near the target. `c` has the unit of the target.
    """
    return 0.5 * c * c * _log1p_square((pred - target) / c)


def _geman(x):
    """x^2 / (1 + x^2), also where x^2 overflows."""
    far = absolute(x) > _HUGE
    inverse = 1 / (1 + x * x)
    small = where(far, 1 / x, x * inverse)
    value = where(far, 1, x * small)
    curvature = 2 * inverse * inverse * (inverse - 3 * value)
    return with_derivative(value, x, with_derivative(2 * small * inverse, x, curvature))


@loss(
    c=Positive(1.0),
    reference="Geman and McClure (1985), Bayesian image analysis: an application to SPECT, Proc. Stat. Comp. Section ASA",
    peers={"closed_form": "0.5 * (pred - target)**2 / (1 + (pred - target)**2 / c**2)"},
)
def geman_mcclure(pred, target, c):
    r"""Geman and McClure's loss, bounded by c²/2.

    .. math:: \tfrac12 c^2 \frac{z^2}{1 + z^2} \qquad z = (p - t) / c

    About r²/2 near the target. Barron's form, `barron(alpha=-2)`, has its scale twice as wide and no factor c². `c` has the
    unit of the target.
    """
    return 0.5 * c * c * _geman((pred - target) / c)


def _welsch(x):
    """1 - exp(-x^2), with derivatives that vanish at infinity."""
    bell = exp(-x * x)
    near = where(absolute(x) < _HUGE, x, 0)
    slope = with_derivative(2 * near * bell, x, 2 * (1 - 2 * near * near) * bell)
    return with_derivative(-expm1(-x * x), x, slope)


@loss(
    c=Positive(1.0),
    reference="Holland and Welsch (1977), Robust regression using iteratively reweighted least-squares, Commun. Stat. A 6",
    peers={"closed_form": "0.5 * c**2 * (1 - np.exp(-np.square((pred - target) / c)))"},
)
def welsch(pred, target, c):
    r"""Welsch's (Leclerc's) loss, bounded by c²/2.

    .. math:: \tfrac12 c^2 \left( 1 - e^{-z^2} \right) \qquad z = (p - t) / c

    About r²/2 near the target. `barron(alpha=-inf)` has its scale a factor √2 wider and no factor c². `c` has the unit of the
    target.
    """
    return 0.5 * c * c * _welsch((pred - target) / c)


@loss(
    c=Positive(4.685),
    reference="Beaton and Tukey (1974), The Fitting of Power Series, Technometrics 16, 147-185",
    peers={"closed_form": "c**2 / 6 * (1 - np.maximum(0, 1 - np.square((pred - target) / c))**3)"},
)
def tukey_biweight(pred, target, c):
    r"""Tukey's biweight, bounded: c²/6 beyond `c`.

    .. math:: \tfrac16 c^2 \left( 1 - \max(0, 1 - z^2)^3 \right) \qquad z = (p - t) / c

    About r²/2 near the target. The default `c` has 95 % efficiency for normal errors of unit variance; `c` has the unit of
    the target.
    """
    r = pred - target
    inside = where(absolute(r) < c, r, c)
    u = (inside / c) * (inside / c)
    rest = (c - inside) * (c + inside) / (c * c)  # 1 - u, to the last digits near the edge
    slope = inside * (rest * rest)
    return with_derivative(c * c / 6 * (u * (3 - u * (3 - u))), pred, slope)


@loss(
    c=Positive(1.0),
    reference="SciPy: scipy.optimize.least_squares(loss='arctan')",
    peers={
        "scipy": "robust_cost('arctan', pred - target, c)",
        "closed_form": "0.5 * c**2 * np.arctan2((pred - target)**2, c**2)",
    },
)
def arctan(pred, target, c):
    r"""Arctangent loss, bounded by πc²/4.

    .. math:: \tfrac12 c^2 \arctan z^2 \qquad z = (p - t) / c

    As in SciPy's `least_squares`: about r²/2 near the target. `c` has the unit of the target.
    """
    z = (pred - target) / c
    # z / (1 + z^4) and (1 - 3 z^4) / (1 + z^4)^2, from 1/z where |z| > 1: the powers do not overflow.
    far = absolute(z) > 1
    y = where(far, 1 / z, z)
    square = y * y
    inverse = 1 / (1 + square * square)
    bend = where(far, square * square * (square * square - 3), 1 - 3 * square * square)
    slope = with_derivative(where(far, y * square, y) * inverse, z, bend * inverse * inverse)
    return c * c * with_derivative(0.5 * atan(z * z), z, slope)


@loss(
    alpha=Interval(default=1.0, open_high=True, special=(2, 1, 0, -2, -math.inf)),
    c=Positive(1.0),
    reference="Barron (2019), A General and Adaptive Robust Loss Function, CVPR",
    peers={"closed_form": "barron_closed_form((pred - target) / c, alpha)"},
)
def barron(pred, target, alpha, c):
    r"""Barron's general robust loss: one shape parameter from squared error to Welsch.

    .. math:: \frac{|\alpha - 2|}{\alpha} \left( \left( \frac{z^2}{|\alpha - 2|} + 1 \right)^{\alpha / 2} - 1 \right)
        \qquad z = (p - t) / c

    with its limits: z²/2 at `alpha=2`, the pseudo-Huber loss at 1, log(1 + z²/2) (Cauchy) at 0, Geman and McClure at -2,
    1 - exp(-z²/2) (Welsch) at -inf. Unlike the other robust losses here, as in the paper, without a factor c²: the
    curvature at the target is 1/c². `c` has the unit of the target.
    """
    z = (pred - target) / c
    if alpha == 2:
        return 0.5 * z * z
    if alpha == 1:
        return _hypot1m1(z)
    if alpha == 0:
        return _log1p_square((pred - target) / (c * math.sqrt(2)))
    if alpha == -2:
        return 2 * _geman((pred - target) / (2 * c))
    if alpha == -math.inf:
        return _welsch((pred - target) / (c * math.sqrt(2)))
    b = absolute(alpha - 2)
    # With x = z / sqrt(b): the power f = (1 + x^2)^(alpha/2 - 1), from |x| where x^2 would overflow, gives all three.
    x = (pred - target) / (c * sqrt(b))
    a = absolute(x)
    near = a < _HUGE
    base = 1 + x * x
    root = power(where(near, base, a), 0.5 * alpha - 1)
    again = where(near, 1, root)
    f = root * again
    inverse = 1 / base
    curvature = f * (inverse + (alpha - 1) * where(near, x * x * inverse, 1))
    limit = where(alpha < 1, 0, math.inf) * sign(x)
    slope = with_derivative(where(a < math.inf, root * x * again, limit), x, curvature)
    # expm1 near the target, the power where expm1 would magnify the logarithm's rounding.
    exponent = 0.5 * alpha * where(near, 1, 2) * log1p(where(near, x * x, a))
    rise = where((absolute(exponent) < 1) | (a >= _HUGE), expm1(exponent), f * base - 1)
    # b / alpha * rise has the slope b f x in x.
    return with_derivative(b / alpha * rise, x, b * slope)


@loss(
    var=NonNegative(),
    full=Flag(False),
    eps=Positive(1e-6),
    differentiable=("pred", "var"),
    reference="Nix and Weigend (1994), Estimating the mean and variance of the target probability distribution, ICNN",
    peers={
        "torch": "F.gaussian_nll_loss(pred, target, var, full=full, eps=eps, reduction='none')",
        "scipy": "-stats.norm.logpdf(target, pred, np.sqrt(np.maximum(var, eps))) - (not full) * 0.5 * np.log(2 * np.pi)",
    },
)
def gaussian_nll(pred, target, var, full, eps):
    r"""Negative log-likelihood of a normal distribution with predicted mean and variance.

    .. math:: \tfrac12 \left( \log v + \frac{(p - t)^2}{v} \right) + [\text{full}]\, \tfrac12 \log 2\pi
        \qquad v = \max(\text{var}, \epsilon)

    As in PyTorch, with gradients for `pred` and `var`. The floor `eps` bounds the value, but the gradient passes it: a
    variance below `eps` has the gradient of `eps`. `full` adds the constant.
    """
    r = pred - target
    v = with_derivative(maximum(var, eps), var, 1)
    far = absolute(r) > _HUGE  # the square may overflow: divide first
    ratio = where(far, r, r * r) / v * where(far, r, 1)
    ratio = with_derivative(ratio, r, 2 * r / v, v, -(ratio / v))
    return 0.5 * (log(v) + ratio) + (0.5 * math.log(2 * math.pi) if full else 0)
