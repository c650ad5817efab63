"""Divergences between distributions, entry by entry."""

from ..face import loss
from ..formula import Flag, Fraction, exp, log, weighted


@loss(
    target=Fraction(checked=False),  # log-probabilities are not
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
        return weighted(exp(target), target - pred)
    return weighted(target, log(target) - pred)
