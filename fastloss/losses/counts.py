"""Losses for counts and positive targets: likelihoods of the generalised linear models."""

import math

from ..formula import (
    Flag,
    Interval,
    NonNegative,
    Positive,
    Real,
    absolute,
    exp,
    exp_nonpositive,
    expm1,
    log,
    log1p,
    log1pmx,
    maximum,
    minimum,
    scaled_exp,
    weighted,
    where,
    with_derivative,
    xlogy,
)
from ..formula.registry import loss

# exp(1000) overflows: beyond it the exponential alone decides, and infinity must not be subtracted from infinity.
_OVERFLOWS = 1000.0


def _poisson(x, target):
    """exp(x) - target * x."""
    return exp(x) - weighted(target, with_derivative(minimum(x, _OVERFLOWS), x, 1))


def _gamma(x, target):
    """x + target * exp(-x)."""
    return with_derivative(maximum(x, -_OVERFLOWS), x, 1) + scaled_exp(target, -x)


def _at_infinity(x, limit, value):
    """The limit where x is infinite, and the exponentials of x and the multiples of it would meet as infinity less infinity."""
    return where(absolute(x) == math.inf, limit, value)


def _excess(x):
    """exp(x) - 1 - x, to the last digits also near 0."""
    near = absolute(x) < 1
    return where(near, -log1pmx(expm1(where(near, x, 0))), expm1(x) - x)


def _poisson_deviance(x, target):
    """Half the deviance t log(t / mu) - t + mu."""
    log_ratio = log(target) - x
    far = exp(x) + weighted(target, maximum(log_ratio, -_OVERFLOWS) - 1)
    return where((log_ratio < -1) | (target == 0), far, target * _excess(-log_ratio))


def _gamma_deviance(x, target):
    """Half the deviance t / mu - 1 - log(t / mu)."""
    log_ratio = log(target) - x
    return where(log_ratio > 1, scaled_exp(target, -x) - (1 + minimum(log_ratio, _OVERFLOWS)), _excess(log_ratio))


def _tweedie_deviance(x, target, power):
    """Half the deviance for other powers k: mu^b r^2 exp[0, r, b r], with a = 1 - k, b = 2 - k and r = log(t / mu).

    exp[...] is the second divided difference of the exponential, continuous in all three. Its points are shifted below 0, and what
    is taken off them is put onto the logarithm of mu^b: nothing overflows before the deviance does.
    """
    a, b = 1 - power, 2 - power
    log_target = log(target)
    r = log_target - x
    near, further = a * r, b * r
    # Which of 0, r and b r is the largest, and what they are less it: differences of theirs would cancel where x is large.
    is_last, is_middle = ((r > 0) & (b > 1)) | ((r <= 0) & (b < 0)), r > 0
    at_0 = exp_nonpositive(where(is_last, -further, where(is_middle, -r, 0)))
    at_r = exp_nonpositive(where(is_last, -near, where(is_middle, 0, r)))
    at_br = exp_nonpositive(where(is_last, 0, where(is_middle, near, further)))
    # exp(r) - 1 and (exp(b r) - 1) / b, both less the largest.
    first = where(r > 0, -at_r, at_0) * expm1(-absolute(r))
    second = where(further > 0, -at_br, at_0) * expm1(-absolute(further)) / b
    apart = (second - first) / a
    together = (at_r * expm1(near) / a - first) / b
    shape = where(absolute(near) < 0.25, where(absolute(r) < 0.5, r * r * at_0 * _series(r, further), together), apart)
    largest = where(
        is_last, b * log_target, where(is_middle, a * x + log_target, b * x)
    )  # of log mu^b, and the others put onto it
    value = where(target == 0, scaled_exp(1 / b, b * x), scaled_exp(shape, largest))
    bound = where(target == 0, 0, exp(b * log_target) / (a * b))  # what it nears where mu^b or mu^a vanish
    return _at_infinity(
        x, where(x > 0, where(b > 0, math.inf, bound), where(a < 0, where(target == 0, 0, math.inf), bound)), value
    )


def _series(x, y):
    """exp[0, x, y] for |x| < 1/2 and |y| < 3/4: the sum of the complete homogeneous polynomials h_n(x, y) / (n + 2)!."""
    symmetric, last, found, factorial = 1, 1, 0.5, 2
    for n in range(1, 25):
        last = last * y
        symmetric = x * symmetric + last
        factorial *= n + 2
        found = found + symmetric * (1 / factorial)
    return found


@loss(
    pred=Real().when("log_input", False, Interval(0.0)),
    target=NonNegative(),
    log_input=Flag(True),
    full=Flag(False),
    eps=NonNegative(1e-8),
    reference="Nelder and Wedderburn (1972), Generalized Linear Models, J. R. Stat. Soc. A 135, 370-384",
    peers={
        "torch": "F.poisson_nll_loss(pred, target, log_input=log_input, full=full, eps=eps, reduction='none')",
        "closed_form": "poisson_closed_form(pred if log_input else np.log(pred + eps), target, full)"
        " - (0 if log_input else eps)",
    },
)
def poisson_nll(pred, target, log_input, full, eps):
    r"""Negative log-likelihood of a Poisson distribution, without log t!.

    .. math:: e^p - t p \quad \text{or, with log\_input=False,} \quad p - t \log(p + \epsilon)

    As in PyTorch. `pred` is the logarithm of the mean, or the mean itself with `log_input=False`. `full` adds Stirling's
    approximation t log t - t + log(2πt)/2 of log t! where t > 1.
    """
    value = _poisson(pred, target) if log_input else pred - where(pred < math.inf, xlogy(target, pred + eps), 0)
    if full:
        stirling = target * log(target) - target + 0.5 * log(2 * math.pi * target)
        value = value + where(target > 1, stirling, 0)
    return value


@loss(
    target=Positive(),
    full=Flag(False),
    reference="McCullagh and Nelder (1989), Generalized Linear Models, 2nd ed., chapter 8",
    peers={
        "sklearn": "plus(full * tweedie_constant(target, 2), sklearn_loss.HalfGammaLoss().loss_gradient(target, pred))",
        "scipy": "-stats.gamma.logpdf(target, 1, scale=np.exp(pred)) - full * (1 + np.log(target))",
    },
)
def gamma_nll(pred, target, full):
    r"""Negative log-likelihood of a gamma distribution, the logarithm of its mean predicted.

    .. math:: p + t\, e^{-p}

    As in scikit-learn's `HalfGammaLoss`: half the deviance, without the terms that depend on the target alone, which `full` adds.
    """
    value = _gamma(pred, target)
    return with_derivative(_gamma_deviance(pred, target), value, 1) if full else value


@loss(
    target=NonNegative().when("power", Interval(2.0), Positive()),
    power=Real(1.5, special=(0, 1, 2)),
    full=Flag(False),
    reference="Jørgensen (1987), Exponential Dispersion Models, J. R. Stat. Soc. B 49, 127-162",
    peers={
        "sklearn": "plus(full * tweedie_constant(target, power),"
        " sklearn_loss.HalfTweedieLoss(power=power).loss_gradient(target, pred))",
        "closed_form": "tweedie_closed_form(np.exp(pred), target, power, full)",
    },
)
def tweedie(pred, target, power, full):
    r"""Half the deviance of a Tweedie distribution, the logarithm of its mean predicted.

    .. math:: \frac{e^{(2 - k) p}}{2 - k} - t\, \frac{e^{(1 - k) p}}{1 - k} \qquad k = \text{power}

    without the terms that depend on the target alone; (e^p - t)²/2 at `power=0` (normal), e^p - t p at 1 (Poisson),
    p + t e^-p at 2 (gamma). As in scikit-learn's `HalfTweedieLoss`. The terms left out grow without bound as `power` nears 1
    or 2, so values compare within one `power` only; with `full` nothing is left out, and half the deviance is continuous in
    `power`. There is no such distribution for 0 < `power` < 1; `power` of 2 or more needs targets above 0.
    """
    if power == 0:
        r = exp(pred) - target
        return with_derivative(0.5 * r * r, pred, scaled_exp(r, pred))
    if power == 1:
        value = _poisson(pred, target)
        return with_derivative(_poisson_deviance(pred, target), value, 1) if full else value
    if power == 2:
        value = _gamma(pred, target)
        return with_derivative(_gamma_deviance(pred, target), value, 1) if full else value
    first = exp((2 - power) * pred)
    second = scaled_exp(target, (1 - power) * pred)

    def unless_overflown(limit, x):
        """The limit where both exponentials are infinite (or the first alone: the same), not infinity minus infinity."""
        return where(first == math.inf, limit, x)

    curvature = unless_overflown(math.inf, (2 - power) * first - (1 - power) * second)
    slope = unless_overflown(where(power > 2, -math.inf, math.inf), first - second)
    value = unless_overflown(math.inf, first / (2 - power) - second / (1 - power))
    if full:
        value = _tweedie_deviance(pred, target, power)
    return with_derivative(value, pred, with_derivative(slope, pred, curvature))


@loss(
    target=Positive(),
    full=Flag(False),
    reference="Tweedie (1957), Statistical Properties of Inverse Gaussian Distributions, Ann. Math. Statist. 28, 362-377",
    peers={
        "sklearn": "plus(full * tweedie_constant(target, 3), sklearn_loss.HalfTweedieLoss(power=3).loss_gradient(target, pred))",
        "scipy": "-stats.invgauss.logpdf(target, np.exp(pred)) - (not full) * 0.5 / target - 0.5 * np.log(2 * np.pi * target**3)",
    },
)
def inverse_gaussian(pred, target, full):
    r"""Half the deviance of an inverse Gaussian distribution, the logarithm of its mean predicted.

    .. math:: \tfrac12 t\, e^{-2p} - e^{-p}

    without 1/(2t), which depends on the target alone and is added by `full`. As in scikit-learn's `HalfTweedieLoss(power=3)`.
    The link is the logarithm, as for the other losses of this module, not the canonical 1/μ².
    """
    m = exp(-pred)
    value = with_derivative(m * (0.5 * target * m - 1), pred, m * (1 - target * m))
    if not full:
        return value
    # (t - mu)^2 / (2 mu^2 t), by the logarithm of t / mu.
    log_ratio = log(target) - pred
    gap = expm1(-absolute(log_ratio))
    square = 0.5 * gap * gap
    return with_derivative(where(log_ratio > 0, scaled_exp(square * target, -2 * pred), square / target), value, 1)


@loss(
    target=NonNegative(),
    dispersion=Positive(1.0),
    full=Flag(False),
    reference="Hilbe (2011), Negative Binomial Regression, 2nd ed., Cambridge University Press",
    peers={"scipy": "negative_binomial_scipy(pred, target, dispersion, full)"},
)
def negative_binomial(pred, target, dispersion, full):
    r"""Negative log-likelihood of a negative binomial distribution, the logarithm of its mean predicted.

    .. math:: \left( t + \frac1\alpha \right) \log(1 + \alpha \mu) - t \log \mu \qquad \mu = e^p,\ \alpha = \text{dispersion}

    The variance is μ + αμ² (the NB2 model). Terms that depend on target and dispersion alone (log-gamma functions) are left
    out, as in `poisson_nll`, which is the limit for a vanishing dispersion; `full` gives half the deviance.
    """
    offset = log(dispersion)
    below = pred < -offset
    power = exp(where(below, pred, -pred))
    odds = power * where(below, dispersion, 1 / dispersion)  # alpha mu or its inverse, whichever is below 1
    inverse, tail = 1 / (1 + odds), log1p(odds)
    # alpha mu / (1 + alpha mu) / alpha, and 1 / (1 + alpha mu).
    up, down = where(below, power, 1 / dispersion) * inverse, where(below, 1, odds) * inverse
    curvature = up * down
    log_sum = maximum(pred + offset, 0) + tail  # log(1 + alpha mu)
    both = with_derivative(log_sum / dispersion, pred, with_derivative(up, pred, curvature))
    log_ratio = tail - minimum(pred, -offset)  # log((1 + alpha mu) / mu)
    bend = scaled_exp(target * where(below, dispersion, 1 / dispersion) * (inverse * inverse), where(below, pred, -pred))
    slope = with_derivative(-(target * down), pred, bend)
    value = both + with_derivative(weighted(target, log_ratio), pred, slope)
    if not full:
        return value
    return with_derivative(_negative_binomial_deviance(pred, target, dispersion, up * dispersion, down, log_sum), value, 1)


def _negative_binomial_deviance(x, target, dispersion, up, down, log_sum):
    """Half the deviance, with down = 1 / (1 + alpha mu), up = alpha mu / (1 + alpha mu) and log_sum = log(1 + alpha mu).

    With y = (1 + alpha t) / (1 + alpha mu) - 1 and z = (t / mu) / (1 + y) - 1 it is t log(1 + z) - log(1 + y) / alpha; near the
    target without what cancels there.
    """
    r = log(target) - x
    near = absolute(r) < 0.5
    gap = expm1(where(near, r, 0))
    y, z = up * gap, gap / (1 + dispersion * target)
    close = (z * y - log1pmx(y)) / dispersion + target * log1pmx(z)
    rise = -dispersion * target * down * expm1(-absolute(r))
    log_y = where(r > 0, log1p(rise), log1p(dispersion * target) - log_sum)
    z = expm1(r) / (1 + dispersion * target)
    log_z = where((z > -0.5) & (z < 1), log1p(z), r - log_y)
    value = where(near, close, weighted(target, log_z) - log_y / dispersion)
    return _at_infinity(x, where((x < 0) & (target == 0), 0, math.inf), value)
