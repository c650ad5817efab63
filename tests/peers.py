"""The peers of the losses: independent implementations, as expressions beside each formula, and the names they may use.

`torch` expressions see float64 tensors, `optax` expressions what JAX traces, all others float64 arrays, under the names of the
formula's inputs, and the hyperparameters as Python numbers. An expression gives the losses, or the losses and their gradients.
"""

import importlib

import numpy as np
import pytest


def evaluate(formula, peer, inputs, parameters):
    """A peer's `(value, gradients)`: arrays, and a dict by input name, or None where the peer has no gradients."""
    formula = getattr(formula, "formula", formula)
    expression = formula.peers[peer]
    inputs = {name: _number_array(array) for name, array in inputs.items()}
    inputs |= {name: None for name in formula.optional if name not in inputs}
    if peer in THROUGH:
        return THROUGH[peer](formula, expression, inputs, parameters)
    with np.errstate(all="ignore"):
        result = eval(expression, _numpy_names(expression) | inputs | parameters)  # our own text, from beside the formula
    if isinstance(result, tuple):
        value, gradient = result
        return np.asarray(value), {formula.differentiable[0]: np.asarray(gradient)}
    return np.asarray(result), None


def _number_array(array):
    """Labels stay whole numbers; all else is float64."""
    array = np.asarray(array)
    return array if array.dtype.kind in "iu" else array.astype(np.float64)


def _through_torch(formula, expression, inputs, parameters):
    torch = pytest.importorskip("torch")
    tensors = {name: None if array is None else torch.tensor(array) for name, array in inputs.items()}
    there = [name for name in formula.differentiable if tensors[name] is not None]
    wanted = [tensors[name].requires_grad_() for name in there]
    names = {"torch": torch, "F": torch.nn.functional}
    names |= {f.__name__: f for f in (focal_torchvision, asymmetric_ridnik, linear_torch, sparsemax_martins)}
    value = eval(expression, names | tensors | parameters)
    gradients = torch.autograd.grad(value.sum(), wanted)
    by_name = {name: g.numpy() for name, g in zip(there, gradients, strict=True)}
    return value.detach().numpy(), by_name


def _through_optax(formula, expression, inputs, parameters):
    jax = pytest.importorskip("jax")
    optax = pytest.importorskip("optax")
    jax.config.update("jax_enable_x64", True)
    names = {"jax": jax, "optax": optax} | parameters

    def value(*wanted):
        return eval(expression, names | inputs | dict(zip(formula.differentiable, wanted, strict=True)))

    result, pull = jax.vjp(value, *(inputs[name] for name in formula.differentiable))
    gradients = map(np.asarray, pull(np.ones(result.shape)))
    return np.asarray(result), dict(zip(formula.differentiable, gradients, strict=True))


THROUGH = {"torch": _through_torch, "optax": _through_optax}


def _numpy_names(expression):
    """NumPy, the functions below, and those library modules that the expression mentions; skips where one is missing."""
    names = {"np": np}
    names |= {f.__name__: f for f in CLOSED_FORMS}
    for name, module in MODULES.items():
        if f"{name}." in expression:
            pytest.importorskip(module.partition(".")[0])
            names[name] = importlib.import_module(module)
    return names


MODULES = {
    "special": "scipy.special",
    "stats": "scipy.stats",
    "metrics": "sklearn.metrics",
    "sklearn_loss": "sklearn._loss.loss",
    "sgd": "sklearn.linear_model._sgd_fast",
}


def sgd_loss(loss, pred, target):
    """Value and gradient by scikit-learn's stochastic gradient descent, which takes one number at a time."""
    value = [loss.py_loss(t, p) for p, t in zip(pred, target, strict=True)]
    gradient = [loss.py_dloss(p, t) for p, t in zip(pred, target, strict=True)]
    return np.array(value), np.array(gradient)


def robust_cost(name, residual, scale):
    """The cost that scipy.optimize.least_squares minimises, element by element."""
    least_squares = pytest.importorskip("scipy.optimize._lsq.least_squares")
    rho = np.empty((3, residual.size))
    least_squares.IMPLEMENTED_LOSSES[name](np.square(residual / scale), rho, cost_only=True)
    return 0.5 * scale**2 * rho[0]


def barron_closed_form(x, alpha):
    """Barron (2019), equation 8, for x = residual / scale."""
    if alpha == 2:
        return x**2 / 2
    if alpha == 0:
        return np.log(x**2 / 2 + 1)
    if alpha == -np.inf:
        return 1 - np.exp(-(x**2) / 2)
    return abs(alpha - 2) / alpha * ((x**2 / abs(alpha - 2) + 1) ** (alpha / 2) - 1)


def poisson_closed_form(log_mean, target, full):
    """mu - t log mu; with Stirling's approximation of log t! above 1."""
    value = np.exp(log_mean) - target * log_mean
    t = np.maximum(target, 1)
    return value + np.where(full & (target > 1), t * np.log(t) - t + np.log(2 * np.pi * t) / 2, 0)


def tweedie_closed_form(mean, target, power, full=False):
    """Jørgensen's deviance, halved, by default without the terms in the target alone."""
    if power == 0:
        return np.square(mean - target) / 2
    rest = full * tweedie_constant(target, power)
    if power == 1:
        return mean - target * np.log(mean) + rest
    if power == 2:
        return np.log(mean) + target / mean + rest
    return mean ** (2 - power) / (2 - power) - target * mean ** (1 - power) / (1 - power) + rest


def tweedie_constant(target, power):
    """What half the deviance has besides what depends on the mean."""
    if power == 0:
        return 0 * target
    if power == 1:
        return target * np.log(np.where(target > 0, target, 1)) - target
    if power == 2:
        return -np.log(target) - 1
    return target ** (2 - power) / ((1 - power) * (2 - power))


def plus(constant, value_and_gradient):
    value, gradient = value_and_gradient
    return value + constant, gradient


def negative_binomial_scipy(log_mean, target, dispersion, full=False):
    """SciPy's log-probabilities, less the terms that do not depend on the mean, or less those at the target as mean."""
    from scipy import special, stats

    n = 1 / dispersion
    constant = special.gammaln(target + n) - special.gammaln(n) - special.gammaln(target + 1)
    value = constant + target * np.log(dispersion) - stats.nbinom.logpmf(target, n, 1 / (1 + dispersion * np.exp(log_mean)))
    there = np.where(target > 0, target, 1)
    return value - (np.where(target > 0, negative_binomial_scipy(np.log(there), there, dispersion), 0) if full else 0)


def wasserstein_scipy(pred, target):
    """SciPy's distance of each pair of rows, which share out what one has more than the other at a last point of no length."""
    stats = pytest.importorskip("scipy.stats")
    points = np.append(np.arange(pred.shape[1]), pred.shape[1] - 1.0)
    excess = (pred - target).sum(1)
    p, t = np.column_stack([pred, np.maximum(-excess, 0)]), np.column_stack([target, np.maximum(excess, 0)])
    return np.array([stats.wasserstein_distance(points, points, a, b) * a.sum() for a, b in zip(p, t, strict=True)])


CLOSED_FORMS = (
    sgd_loss,
    robust_cost,
    barron_closed_form,
    poisson_closed_form,
    tweedie_closed_form,
    tweedie_constant,
    plus,
    negative_binomial_scipy,
    wasserstein_scipy,
)


def focal_torchvision(inputs, targets, alpha, gamma):
    """What torchvision.ops.sigmoid_focal_loss computes, in PyTorch; its alpha < 0 is None here."""
    from torch.nn import functional

    chance = inputs.sigmoid() * targets + (-inputs).sigmoid() * (1 - targets)  # that the logits give to the targets
    balance = 1.0 if alpha is None else alpha * targets + (1 - alpha) * (1 - targets)
    return balance * (1 - chance) ** gamma * functional.binary_cross_entropy_with_logits(inputs, targets, reduction="none")


def asymmetric_ridnik(x, y, gamma_neg, gamma_pos, clip):
    """Ridnik et al. (2021), equations 4 to 7, in PyTorch: focus through the shifted probability, each class its own."""
    import torch

    chance = x.sigmoid()
    shifted = (chance - clip).clamp(min=0)
    positive = -((1 - chance) ** gamma_pos) * chance.log()
    negative = -(shifted**gamma_neg) * (1 - shifted).log()
    return torch.where(y > 0, positive, negative)


def linear_torch(x, weight, target, bias, class_weight, label_smoothing, z_loss, softcap, temperature):
    """A layer, then PyTorch's cross-entropy with what it lacks of the options, as `fastloss.cross_entropy` has them."""
    import torch
    from torch.nn import functional

    logits = functional.linear(x, weight, bias)
    logits = (logits if softcap is None else softcap * torch.tanh(logits / softcap)) / temperature
    entropy = functional.cross_entropy(logits, target, class_weight, label_smoothing=label_smoothing, reduction="none")
    return entropy + z_loss * torch.logsumexp(logits, -1) ** 2


def sparsemax_martins(logits, target):
    """Martins and Astudillo (2016), algorithm 1 and equation 13, in PyTorch: the threshold from the sorted logits."""
    import torch

    ordered = logits.sort(-1, descending=True).values
    sums = ordered.cumsum(-1)
    size = torch.arange(1, logits.shape[-1] + 1)
    last = (1 + size * ordered > sums).sum(-1, keepdim=True)
    threshold = (sums.gather(-1, last - 1) - 1) / last
    inside = torch.where(logits > threshold, logits.square() - threshold.square(), 0.0)
    return 0.5 + 0.5 * inside.sum(-1) - logits.gather(-1, target[..., None])[..., 0]
