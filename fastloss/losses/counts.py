"""Losses for counts and positive targets: likelihoods of the generalised linear models."""

import math

from ..formula import (
    Flag,
    NonNegative,
    Positive,
    Real,
    exp,
    log,
    log1p,
    maximum,
    minimum,
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
    return with_derivative(maximum(x, -_OVERFLOWS), x, 1) + weighted(target, exp(-x))


@loss(
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
    reference="McCullagh and Nelder (1989), Generalized Linear Models, 2nd ed., chapter 8",
    peers={
        "sklearn": "sklearn_loss.HalfGammaLoss().loss_gradient(target, pred)",
        "scipy": "-stats.gamma.logpdf(target, 1, scale=np.exp(pred))",
    },
)
def gamma_nll(pred, target):
    r"""Negative log-likelihood of a gamma distribution, the logarithm of its mean predicted.

    .. math:: p + t\, e^{-p}

    As in scikit-learn's `HalfGammaLoss`: half the deviance, without the terms that depend on the target alone.
    """
    return _gamma(pred, target)


@loss(
    target=NonNegative(),
    power=Real(1.5, special=(0, 1, 2)),
    reference="Jørgensen (1987), Exponential Dispersion Models, J. R. Stat. Soc. B 49, 127-162",
    peers={
        "sklearn": "sklearn_loss.HalfTweedieLoss(power=power).loss_gradient(target, pred)",
        "closed_form": "tweedie_closed_form(np.exp(pred), target, power)",
    },
)
def tweedie(pred, target, power):
    r"""Half the deviance of a Tweedie distribution, the logarithm of its mean predicted.

    .. math:: \frac{e^{(2 - k) p}}{2 - k} - t\, \frac{e^{(1 - k) p}}{1 - k} \qquad k = \text{power}

    without the terms that depend on the target alone; (e^p - t)²/2 at `power=0` (normal), e^p - t p at 1 (Poisson),
    p + t e^-p at 2 (gamma). As in scikit-learn's `HalfTweedieLoss`. The terms left out grow without bound as `power` nears 1
    or 2, so values compare within one `power` only. There is no such distribution for 0 < `power` < 1; `power` of 2 or more
    needs targets above 0.
    """
    if power == 0:
        r = exp(pred) - target
        return 0.5 * r * r
    if power == 1:
        return _poisson(pred, target)
    if power == 2:
        return _gamma(pred, target)
    first = exp((2 - power) * pred)
    second = weighted(target, exp((1 - power) * pred))

    def unless_overflown(limit, x):
        """The limit where both exponentials are infinite (or the first alone: the same), not infinity minus infinity."""
        return where(first == math.inf, limit, x)

    curvature = unless_overflown(math.inf, (2 - power) * first - (1 - power) * second)
    slope = unless_overflown(where(power > 2, -math.inf, math.inf), first - second)
    value = unless_overflown(math.inf, first / (2 - power) - second / (1 - power))
    return with_derivative(value, pred, with_derivative(slope, pred, curvature))


@loss(
    target=Positive(),
    reference="Tweedie (1957), Statistical Properties of Inverse Gaussian Distributions, Ann. Math. Statist. 28, 362-377",
    peers={
        "sklearn": "sklearn_loss.HalfTweedieLoss(power=3).loss_gradient(target, pred)",
        "scipy": "-stats.invgauss.logpdf(target, np.exp(pred)) - 0.5 / target - 0.5 * np.log(2 * np.pi * target**3)",
    },
)
def inverse_gaussian(pred, target):
    r"""Half the deviance of an inverse Gaussian distribution, the logarithm of its mean predicted.

    .. math:: \tfrac12 t\, e^{-2p} - e^{-p}

    without 1/(2t), which depends on the target alone. As in scikit-learn's `HalfTweedieLoss(power=3)`. The link is the
    logarithm, as for the other losses of this module, not the canonical 1/μ².
    """
    m = exp(-pred)
    return with_derivative(m * (0.5 * target * m - 1), pred, m * (1 - target * m))


@loss(
    target=NonNegative(),
    dispersion=Positive(1.0),
    reference="Hilbe (2011), Negative Binomial Regression, 2nd ed., Cambridge University Press",
    peers={"scipy": "negative_binomial_scipy(pred, target, dispersion)"},
)
def negative_binomial(pred, target, dispersion):
    r"""Negative log-likelihood of a negative binomial distribution, the logarithm of its mean predicted.

    .. math:: \left( t + \frac1\alpha \right) \log(1 + \alpha \mu) - t \log \mu \qquad \mu = e^p,\ \alpha = \text{dispersion}

    The variance is μ + αμ² (the NB2 model). Terms that depend on target and dispersion alone (log-gamma functions) are left
    out, as in `poisson_nll`, which is the limit for a vanishing dispersion.
    """
    offset = log(dispersion)
    below = pred < -offset
    power = exp(where(below, pred, -pred))
    odds = power * where(below, dispersion, 1 / dispersion)  # alpha mu or its inverse, whichever is below 1
    inverse, tail = 1 / (1 + odds), log1p(odds)
    # alpha mu / (1 + alpha mu) / alpha, and 1 / (1 + alpha mu).
    up, down = where(below, power, 1 / dispersion) * inverse, where(below, 1, odds) * inverse
    curvature = up * down
    both = with_derivative((maximum(pred + offset, 0) + tail) / dispersion, pred, with_derivative(up, pred, curvature))
    log_ratio = tail - minimum(pred, -offset)  # log((1 + alpha mu) / mu)
    slope = with_derivative(-down, pred, dispersion * curvature)
    return both + weighted(target, with_derivative(log_ratio, pred, slope))
