"""The update rules as their papers have them, for all tests of optimizers: pseudo-code in NumPy, and settings of every number.

A paper's function takes and returns the parameter; what else it holds from step to step stands in `held`: arrays under the names
that the paper gives them, numbers under names that begin with an underscore. It computes in the arrays' precision.

Every hyperparameter is away from its default and not zero wherever a variant allows it: at `weight_decay=0` right and
wrong agree.
"""

import contextlib
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

import fastloss as fl


def regularised(w, g, lr, weight_decay, maximize, decoupled=False):
    """Loshchilov & Hutter (2019): the decay is part of the gradient, or the parameter shrinks by itself."""
    g = -g if maximize else g
    return (w - lr * weight_decay * w, g) if decoupled else (w, g + weight_decay * w)


def mean(held, name, beta, now):
    """An exponential moving average that starts at 0."""
    held[name] = beta * held.get(name, 0 * now) + (1 - beta) * now
    return held[name]


def cautious_move(u, g):
    """Liang et al. (2024), algorithm 2: the mask, and what the learning rate is multiplied by."""
    phi = u * g > 0
    alpha = phi.size / (int(phi.sum()) + 1)
    return alpha * (u * phi)


# --- gradient descent -----------------------------------------------------------------------------------------------------


def paper_sgd(w, g, held, t, lr, momentum, dampening, nesterov, weight_decay, maximize):
    """PyTorch's documentation of SGD, after Sutskever et al. (2013)."""
    w, g = regularised(w, g, lr, weight_decay, maximize)
    if momentum != 0:
        b = g if "b" not in held else momentum * held["b"] + (1 - dampening) * g
        held["b"] = b
        g = g + momentum * b if nesterov else b
    return w - lr * g


def paper_asgd(w, g, held, t, lr, lambd, alpha, t0, weight_decay, maximize):
    """Bottou's averaged SGD, as in PyTorch: the parameter decays, and its mean is taken from step `t0` + 2 on."""
    w, g = regularised(w, g, lr, weight_decay, maximize)
    eta = lr / (1 + lambd * lr * (t - 1)) ** alpha
    w = (1 - lambd * eta) * w - eta * g
    counted = t - 1 - t0
    held["ax"] = w if counted <= 1 else held["ax"] + (w - held["ax"]) / counted
    return w


# --- Adam and its kin -----------------------------------------------------------------------------------------------------


def paper_adam(w, g, held, t, lr, betas, eps, weight_decay, amsgrad, maximize, decoupled_weight_decay=False, cautious=False):
    """Kingma & Ba (2015), algorithm 1; amsgrad as in PyTorch's documentation."""
    b1, b2 = betas
    w, g = regularised(w, g, lr, weight_decay, maximize, decoupled_weight_decay)
    m = mean(held, "m", b1, g)
    v = mean(held, "v", b2, g**2)
    if amsgrad:
        v = held["v_max"] = np.maximum(held.get("v_max", 0 * g), v)
    m_hat = m / (1 - b1**t)
    v_hat = v / (1 - b2**t)
    u = m_hat / (np.sqrt(v_hat) + eps)
    if cautious:
        u = cautious_move(u, g)
    return w - lr * u


def paper_adamw(*args, **hyper):
    return paper_adam(*args, **hyper, decoupled_weight_decay=True)


def paper_nadam(w, g, held, t, lr, betas, eps, weight_decay, momentum_decay, decoupled_weight_decay, maximize):
    """PyTorch's documentation of NAdam, after Dozat (2016)."""
    b1, b2 = betas
    w, g = regularised(w, g, lr, weight_decay, maximize, decoupled_weight_decay)
    mu_now = b1 * (1 - 0.96 ** (t * momentum_decay) / 2)
    mu_next = b1 * (1 - 0.96 ** ((t + 1) * momentum_decay) / 2)
    held["_product"] = held.get("_product", 1.0) * mu_now
    m = mean(held, "m", b1, g)
    v = mean(held, "v", b2, g**2)
    m_hat = mu_next * m / (1 - held["_product"] * mu_next) + (1 - mu_now) * g / (1 - held["_product"])
    v_hat = v / (1 - b2**t)
    return w - lr * m_hat / (np.sqrt(v_hat) + eps)


def paper_radam(w, g, held, t, lr, betas, eps, weight_decay, decoupled_weight_decay, maximize):
    """Liu et al. (2020), algorithm 2, with eps and the bound 5 of PyTorch's documentation."""
    b1, b2 = betas
    w, g = regularised(w, g, lr, weight_decay, maximize, decoupled_weight_decay)
    m = mean(held, "m", b1, g)
    v = mean(held, "v", b2, g**2)
    m_hat = m / (1 - b1**t)
    rho_inf = 2 / (1 - b2) - 1
    rho = rho_inf - 2 * t * b2**t / (1 - b2**t)
    if rho <= 5:
        return w - lr * m_hat
    adaptive = math.sqrt(1 - b2**t) / (np.sqrt(v) + eps)
    r = math.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
    return w - lr * m_hat * r * adaptive


def paper_adamax(w, g, held, t, lr, betas, eps, weight_decay, maximize):
    """Kingma & Ba (2015), algorithm 2, with PyTorch's eps."""
    b1, b2 = betas
    w, g = regularised(w, g, lr, weight_decay, maximize)
    m = mean(held, "m", b1, g)
    u = held["u"] = np.maximum(b2 * held.get("u", 0 * g), np.abs(g) + eps)
    return w - lr / (1 - b1**t) * m / u


def paper_adabelief(w, g, held, t, lr, betas, eps, weight_decay, maximize):
    """Zhuang et al. (2020), algorithm 2; weight decay as in the authors' code."""
    b1, b2 = betas
    w, g = regularised(w, g, lr, weight_decay, maximize, decoupled=True)
    m = mean(held, "m", b1, g)
    s = held["s"] = b2 * held.get("s", 0 * g) + (1 - b2) * (g - m) ** 2 + eps
    m_hat = m / (1 - b1**t)
    s_hat = s / (1 - b2**t)
    return w - lr * m_hat / (np.sqrt(s_hat) + eps)


def paper_yogi(w, g, held, t, lr, betas, eps, initial_accumulator_value, weight_decay, maximize):
    """Zaheer et al. (2018), algorithm 2, with Adam's corrections for the start."""
    b1, b2 = betas
    w, g = regularised(w, g, lr, weight_decay, maximize)
    v = held.get("v", 0 * g + initial_accumulator_value)
    m = mean(held, "m", b1, g)
    v = held["v"] = v - (1 - b2) * np.sign(v - g**2) * g**2
    return w - lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)


def paper_adan(w, g, held, t, lr, betas, eps, weight_decay, maximize):
    """Xie et al. (2024), algorithm 1 with 1 - β for β, and the corrections for the start of the authors' code."""
    b1, b2, b3 = betas
    g = -g if maximize else g
    d = g - held["g"] if "g" in held else 0 * g
    held["g"] = g
    m = mean(held, "m", b1, g) / (1 - b1**t)
    v = mean(held, "v", b2, d) / (1 - b2**t)
    n = mean(held, "n", b3, (g + b2 * d) ** 2) / (1 - b3**t)
    eta = lr / (np.sqrt(n) + eps)
    return (w - eta * (m + b2 * v)) / (1 + lr * weight_decay)


def paper_ademamix(w, g, held, t, lr, betas, alpha, beta3_warmup, alpha_warmup, eps, weight_decay, maximize):
    """Pagliardini et al. (2025), algorithm 1 and the schedules below it."""
    b1, b2, b3 = betas
    w, g = regularised(w, g, lr, weight_decay, maximize, decoupled=True)
    if t < beta3_warmup:
        part = t / beta3_warmup
        upper, lower = math.log(b1) * math.log(b3), (1 - part) * math.log(b3) + part * math.log(b1)
        b3 = min(math.exp(upper / lower), b3)
    if t < alpha_warmup:
        alpha = alpha * t / alpha_warmup
    m1 = mean(held, "m1", b1, g)
    m2 = mean(held, "m2", b3, g)
    v = mean(held, "v", b2, g**2)
    m1_hat = m1 / (1 - b1**t)
    v_hat = v / (1 - b2**t)
    return w - lr * (m1_hat + alpha * m2) / (np.sqrt(v_hat) + eps)


def paper_adopt(w, g, held, t, lr, betas, eps, clip_exponent, weight_decay, decoupled_weight_decay, maximize):
    """Taniguchi et al. (2024), algorithm 2: its step 0 is our first."""
    b1, b2 = betas
    w, g = regularised(w, g, lr, weight_decay, maximize, decoupled_weight_decay)
    if t == 1:
        held["v"], held["m"] = g**2, 0 * g
        return w
    bound = (t - 1) ** clip_exponent
    m = mean(held, "m", b1, np.clip(g / np.maximum(np.sqrt(held["v"]), eps), -bound, bound))
    mean(held, "v", b2, g**2)
    return w - lr * m


# --- adaptive step lengths ------------------------------------------------------------------------------------------------


def paper_rmsprop(w, g, held, t, lr, alpha, eps, weight_decay, momentum, centered, maximize):
    """PyTorch's documentation of RMSprop."""
    w, g = regularised(w, g, lr, weight_decay, maximize)
    v = mean(held, "v", alpha, g**2)
    if centered:
        v = np.maximum(v - mean(held, "g_avg", alpha, g) ** 2, 0)
    g = g / (np.sqrt(v) + eps)
    if momentum != 0:
        g = held["b"] = momentum * held.get("b", 0 * g) + g
    return w - lr * g


def paper_adagrad(w, g, held, t, lr, lr_decay, weight_decay, initial_accumulator_value, eps, maximize):
    """PyTorch's documentation of Adagrad."""
    w, g = regularised(w, g, lr, weight_decay, maximize)
    s = held["s"] = held.get("s", 0 * g + initial_accumulator_value) + g**2
    return w - lr / (1 + (t - 1) * lr_decay) * g / (np.sqrt(s) + eps)


def paper_adadelta(w, g, held, t, lr, rho, eps, weight_decay, maximize):
    """Zeiler (2012), algorithm 1, with PyTorch's lr."""
    w, g = regularised(w, g, lr, weight_decay, maximize)
    v = mean(held, "v", rho, g**2)
    dx = np.sqrt(held.get("u", 0 * g) + eps) / np.sqrt(v + eps) * g
    mean(held, "u", rho, dx**2)
    return w - lr * dx


def paper_rprop(w, g, held, t, lr, etas, step_sizes, maximize):
    """PyTorch's documentation of Rprop: without weight backtracking."""
    g = -g if maximize else g
    turned = held.get("prev", 0 * g) * g
    size = held.get("size", 0 * g + lr)
    size = np.where(turned > 0, size * etas[1], np.where(turned < 0, size * etas[0], size))
    held["size"] = np.clip(size, *map(size.dtype.type, step_sizes))
    held["prev"] = np.where(turned < 0, 0 * g, g)
    return w - held["size"] * np.sign(held["prev"])


def paper_ftrl(w, g, held, t, alpha, beta, l1, l2, maximize):
    """McMahan et al. (2013), algorithm 1."""
    g = -g if maximize else g
    n = held.get("n", 0 * g)
    sigma = (np.sqrt(n + g**2) - np.sqrt(n)) / alpha
    z = held["z"] = held.get("z", 0 * g) + g - sigma * w
    n = held["n"] = n + g**2
    return np.where(np.abs(z) <= l1, 0 * z, -(z - np.sign(z) * l1) / ((beta + np.sqrt(n)) / alpha + l2))


def paper_madgrad(w, g, held, t, lr, momentum, weight_decay, eps, maximize):
    """Defazio & Jelassi (2022), algorithm 1: c = 1 - momentum."""
    x0 = held["x0"] = held.get("x0", w)
    w, g = regularised(w, g, lr, weight_decay, maximize)
    lamb = lr * math.sqrt(t)
    s = held["s"] = held.get("s", 0 * g) + lamb * g
    v = held["v"] = held.get("v", 0 * g) + lamb * g**2
    z = x0 - s / (np.cbrt(v) + eps)
    return momentum * w + (1 - momentum) * z


# --- signs ----------------------------------------------------------------------------------------------------------------


def paper_lion(w, g, held, t, lr, betas, weight_decay, cautious, maximize):
    """Chen et al. (2023), algorithm 2."""
    b1, b2 = betas
    w, g = regularised(w, g, lr, weight_decay, maximize, decoupled=True)
    u = np.sign(b1 * held.get("m", 0 * g) + (1 - b1) * g)
    if cautious:
        u = cautious_move(u, g)
    mean(held, "m", b2, g)
    return w - lr * u


def paper_signum(w, g, held, t, lr, momentum, weight_decay, decoupled_weight_decay, maximize):
    """Bernstein et al. (2018), algorithm 2."""
    w, g = regularised(w, g, lr, weight_decay, maximize, decoupled_weight_decay)
    return w - lr * np.sign(mean(held, "m", momentum, g) if momentum else g)


# --- as far as the tensor is large ------------------------------------------------------------------------------------------


def paper_lamb(w, g, held, t, lr, betas, eps, weight_decay, maximize):
    """You et al. (2020), algorithm 2 with the identity for phi, and no trust where a norm is 0, as in the authors' code."""
    b1, b2 = betas
    g = -g if maximize else g
    m = mean(held, "m", b1, g) / (1 - b1**t)
    v = mean(held, "v", b2, g**2) / (1 - b2**t)
    r = m / (np.sqrt(v) + eps) + weight_decay * w
    norm_w, norm_r = (math.sqrt((x.astype(np.float64) ** 2).sum()) for x in (w, r))
    return w - lr * (norm_w / norm_r if norm_w and norm_r else 1.0) * r


# --- with a Hessian, and without a schedule -------------------------------------------------------------------------------


def paper_sophia(w, g, held, t, lr, betas, gamma, eps, weight_decay, maximize):
    """Liu et al. (2024), algorithm 3; whoever steps sees to `held["h"]`."""
    w, g = regularised(w, g, lr, weight_decay, maximize, decoupled=True)
    m = mean(held, "m", betas[0], g)
    h = held["h"] = held.get("h", 0 * g)
    return w - lr * np.clip(m / np.maximum(gamma * h, eps), -1, 1)


def schedule_free(w, g, held, t, lr, beta, warmup_steps, r, weight_lr_power):
    """Defazio et al. (2024), equations 14 to 16, with the weights of the authors' code. `g` is the base rule's direction."""
    z = held.get("z", w)
    x = held.get("_x", w)
    lr = lr * min(1, t / warmup_steps) if warmup_steps else lr
    held["_lr_max"] = max(lr, held.get("_lr_max", 0.0))
    weight = t**r * held["_lr_max"] ** weight_lr_power
    held["_sum"] = held.get("_sum", 0.0) + weight
    c = weight / held["_sum"] if held["_sum"] else 0.0
    z = held["z"] = z - lr * g
    # The mean x of all z; by it and z the next gradient's place.
    x = held["_x"] = (1 - c) * x + c * z
    return (1 - beta) * z + beta * x


def paper_schedule_free_sgd(w, g, held, t, lr, momentum, weight_decay, maximize, **schedule):
    w, g = regularised(w, g, lr, weight_decay, maximize)
    return schedule_free(w, g, held, t, lr, momentum, **schedule)


def paper_schedule_free_adamw(w, g, held, t, lr, betas, eps, weight_decay, maximize, **schedule):
    g = -g if maximize else g
    v = mean(held, "v", betas[1], g**2) / (1 - betas[1] ** t)
    return schedule_free(w, g / (np.sqrt(v) + eps) + weight_decay * w, held, t, lr, betas[0], **schedule)


# --- the table ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """What the tests know of a rule.

    `states` are the paper's names of what is held and ours; `settings` change `hyper` so that every variant is reached.
    `signs` decide, or moves are clipped: infinity need not show in the parameter. `torch` is None, or what PyTorch's rule of that
    name holds besides.
    """

    paper: Callable
    hyper: dict
    states: dict
    settings: tuple = ({},)
    signs: bool = False
    torch: tuple | None = None
    rate: str = "lr"
    decoupled: bool = False
    # How many times the usual error may remain: differences of large numbers, functions of the step.
    cancels: float = 1
    # A NaN in one element reaches all of the tensor.
    spreads: bool = False


def each(**options):
    """Every combination of settings."""
    return tuple(dict(zip(options, values, strict=True)) for values in itertools.product(*options.values()))


_BETAS = (0.83, 0.967)
_ADAM_STATES = {"m": "exp_avg", "v": "exp_avg_sq"}
_AMSGRAD = _ADAM_STATES | {"v_max": "max_exp_avg_sq"}
_SCHEDULE = {"warmup_steps": 7.0, "r": 0.4, "weight_lr_power": 1.3}
DECOUPLED = each(decoupled_weight_decay=(True, False))

SGD = {"lr": 0.037, "momentum": 0.81, "dampening": 0.23, "nesterov": False, "weight_decay": 0.061}
ADAMW = {"lr": 0.013, "betas": _BETAS, "eps": 3e-4, "weight_decay": 0.061, "amsgrad": True, "cautious": False}
ADAM = {**ADAMW, "decoupled_weight_decay": False}

RULES = {
    "SGD": Rule(
        paper_sgd,
        SGD,
        {"b": "momentum_buffer"},
        ({}, {"dampening": 0.0}, {"dampening": -0.4}, {"momentum": 0.0}, {"dampening": 0.0, "nesterov": True}),
        torch=(),
    ),
    "ASGD": Rule(
        paper_asgd,
        {"lr": 0.037, "lambd": 0.021, "alpha": 0.62, "t0": 5.5, "weight_decay": 0.061},
        {"ax": "ax"},
        torch=("mu", "eta"),
    ),
    "Adam": Rule(
        paper_adam,
        ADAM,
        _AMSGRAD,
        (
            *each(amsgrad=(True, False), eps=(3e-4, 1e-8)),
            *each(amsgrad=(True, False), decoupled_weight_decay=(True,)),
            *each(amsgrad=(True, False), decoupled_weight_decay=(True, False), cautious=(True,)),
        ),
        torch=(),
    ),
    "AdamW": Rule(
        paper_adamw,
        ADAMW,
        _AMSGRAD,
        (*each(amsgrad=(True, False), eps=(3e-4, 1e-8)), *each(amsgrad=(True, False), cautious=(True,))),
        torch=(),
        decoupled=True,
    ),
    "NAdam": Rule(
        paper_nadam,
        {
            "lr": 0.013,
            "betas": _BETAS,
            "eps": 3e-4,
            "weight_decay": 0.071,
            "momentum_decay": 0.13,
            "decoupled_weight_decay": False,
        },
        _ADAM_STATES,
        DECOUPLED,
        torch=("mu_product",),
    ),
    "RAdam": Rule(
        paper_radam,
        {"lr": 0.013, "betas": _BETAS, "eps": 3e-4, "weight_decay": 0.071, "decoupled_weight_decay": False},
        _ADAM_STATES,
        DECOUPLED,
        torch=(),
    ),
    "Adamax": Rule(
        paper_adamax,
        {"lr": 0.013, "betas": _BETAS, "eps": 3e-4, "weight_decay": 0.071},
        {"m": "exp_avg", "u": "exp_inf"},
        torch=(),
    ),
    "AdaBelief": Rule(
        paper_adabelief,
        {"lr": 0.013, "betas": _BETAS, "eps": 3e-4, "weight_decay": 0.071},
        {"m": "exp_avg", "s": "exp_avg_var"},
        decoupled=True,
    ),
    "Yogi": Rule(
        paper_yogi,
        {"lr": 0.013, "betas": _BETAS, "eps": 2e-3, "initial_accumulator_value": 3e-3, "weight_decay": 0.071},
        _ADAM_STATES,
    ),
    "Adan": Rule(
        paper_adan,
        {"lr": 0.013, "betas": (0.83, 0.77, 0.967), "eps": 3e-4, "weight_decay": 0.071},
        {"m": "exp_avg", "v": "exp_avg_diff", "n": "exp_avg_sq", "g": "previous_grad"},
        decoupled=True,
    ),
    "AdEMAMix": Rule(
        paper_ademamix,
        {
            "lr": 0.013,
            "betas": (0.83, 0.967, 0.991),
            "alpha": 3.7,
            "beta3_warmup": 13.0,
            "alpha_warmup": 11.0,
            "eps": 3e-4,
            "weight_decay": 0.071,
        },
        {"m1": "exp_avg_fast", "m2": "exp_avg_slow", "v": "exp_avg_sq"},
        ({}, {"beta3_warmup": 0.0, "alpha_warmup": 0.0}),
        decoupled=True,
        cancels=3,
    ),
    "ADOPT": Rule(
        paper_adopt,
        {
            "lr": 0.013,
            "betas": _BETAS,
            "eps": 3e-4,
            "clip_exponent": 0.31,
            "weight_decay": 0.071,
            "decoupled_weight_decay": False,
        },
        _ADAM_STATES,
        DECOUPLED,
        signs=True,
    ),
    "RMSprop": Rule(
        paper_rmsprop,
        {"lr": 0.013, "alpha": 0.83, "eps": 3e-4, "weight_decay": 0.071, "momentum": 0.71, "centered": True},
        {"v": "square_avg", "g_avg": "grad_avg", "b": "momentum_buffer"},
        each(momentum=(0.71, 0.0), centered=(True, False)),
        torch=(),
        cancels=2,
    ),
    "Adagrad": Rule(
        paper_adagrad,
        {"lr": 0.037, "lr_decay": 0.11, "weight_decay": 0.061, "initial_accumulator_value": 0.07, "eps": 3e-4},
        {"s": "sum"},
        torch=(),
    ),
    "Adadelta": Rule(
        paper_adadelta,
        {"lr": 0.7, "rho": 0.83, "eps": 3e-4, "weight_decay": 0.061},
        {"v": "square_avg", "u": "acc_delta"},
        torch=(),
    ),
    "Rprop": Rule(
        paper_rprop,
        {"lr": 0.037, "etas": (0.43, 1.31), "step_sizes": (1e-3, 0.21)},
        {"prev": "prev", "size": "step_size"},
        signs=True,
        torch=(),
    ),
    "FTRL": Rule(
        paper_ftrl,
        {"alpha": 0.13, "beta": 0.7, "l1": 0.053, "l2": 0.31},
        {"z": "z", "n": "n"},
        rate="alpha",
        cancels=2,
    ),
    "MADGRAD": Rule(
        paper_madgrad,
        {"lr": 0.013, "momentum": 0.71, "weight_decay": 0.061, "eps": 3e-4},
        {"s": "grad_sum", "v": "grad_sum_sq", "x0": "x0"},
    ),
    "Lion": Rule(
        paper_lion,
        {"lr": 0.013, "betas": (0.83, 0.967), "weight_decay": 0.071, "cautious": True},
        {"m": "exp_avg"},
        each(cautious=(True, False)),
        signs=True,
        decoupled=True,
    ),
    "Signum": Rule(
        paper_signum,
        {"lr": 0.013, "momentum": 0.71, "weight_decay": 0.071, "decoupled_weight_decay": False},
        {"m": "exp_avg"},
        each(momentum=(0.71, 0.0), decoupled_weight_decay=(True, False)),
        signs=True,
    ),
    "LAMB": Rule(
        paper_lamb,
        {"lr": 0.013, "betas": _BETAS, "eps": 3e-4, "weight_decay": 0.071},
        _ADAM_STATES,
        decoupled=True,
        spreads=True,
    ),
    "Sophia": Rule(
        paper_sophia,
        {"lr": 0.013, "betas": (0.83, 0.967), "gamma": 0.37, "eps": 0.41, "weight_decay": 0.071},
        {"m": "exp_avg", "h": "hessian"},
        signs=True,
        decoupled=True,
    ),
    "ScheduleFreeSGD": Rule(
        paper_schedule_free_sgd,
        {"lr": 0.037, "momentum": 0.71, "weight_decay": 0.061, **_SCHEDULE},
        {"z": "z"},
        ({}, {"warmup_steps": 0.0}),
    ),
    "ScheduleFreeAdamW": Rule(
        paper_schedule_free_adamw,
        {"lr": 0.013, "betas": _BETAS, "eps": 3e-4, "weight_decay": 0.071, **_SCHEDULE},
        {"z": "z", "v": "exp_avg_sq"},
        ({}, {"warmup_steps": 0.0}),
    ),
}


def variants():
    """(name, hyperparameters) of every kernel, and of the ways to reach it."""
    for name, rule in RULES.items():
        decays = (rule.hyper["weight_decay"], 0.0) if "weight_decay" in rule.hyper else (None,)
        for maximize, decay, own in itertools.product((True, False), decays, rule.settings):
            common = {"maximize": maximize} | ({} if decay is None else {"weight_decay": decay})
            yield name, rule.hyper | common | own


VARIANTS = list(variants())
PRINCIPAL = [(name, rule.hyper | {"maximize": True}) for name, rule in RULES.items()]
PRINCIPAL.insert(1, ("SGD", SGD | {"dampening": 0.0, "nesterov": True, "maximize": True}))


def ident(value):
    """The name of a test's parameter: what a variant's hyperparameters are, but for those that never change."""
    if isinstance(value, dict):
        return "-".join(f"{k}={v}" for k, v in value.items() if k not in ("lr", "betas"))
    return str(value)


@contextlib.contextmanager
def torch_in_double():
    """PyTorch, which otherwise rounds the numbers that it carries from step to step to float32."""
    torch = pytest.importorskip("torch")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield torch
    finally:
        torch.set_default_dtype(before)


def torch_variants():
    """(name, hyperparameters, those of them that PyTorch's class takes) of what it has."""
    for name, hyper in VARIANTS:
        if RULES[name].torch is not None and not hyper.get("cautious"):
            yield name, hyper, {k: v for k, v in hyper.items() if k != "cautious"}


def draw(rng, shape, dtype):
    """Numbers of many magnitudes."""
    return np.asarray(rng.standard_normal(shape) * 10.0 ** rng.uniform(-3, 1, shape)).astype(dtype)


def run(name, hyper, w, grads):
    """The parameter and the states after the steps."""
    w = w.copy()
    optimizer = getattr(fl, name)(w, **hyper)
    for g in grads:
        optimizer.step(g)
    return w, optimizer.state_dict()["state"]["params"]


def on_paper(name, hyper, w, grads, dtype=np.float64):
    """The parameter, the states by name, and how large each of their elements was or moved on the way."""
    rule, held = RULES[name], {}
    w = w.astype(dtype)
    reach = {"param": np.abs(w)}
    for t, g in enumerate(grads, start=1):
        before = {"param": w, **held}
        w = rule.paper(w, g.astype(dtype), held, t, **hyper)
        for key, now in {"param": w, **held}.items():
            if key[0] != "_":
                was = before.get(key, 0 * w)
                reach[key] = np.maximum(reach.get(key, 0), np.maximum(np.abs(now), np.abs(now - was)))
    states = {name: held[key] for key, name in rule.states.items() if key in held}
    return w, states, {rule.states.get(key, key): size for key, size in reach.items()}


def assert_near(ours, theirs, relative, scale):
    """Within `relative` of each element, or of `scale`, the size of what was added up on the way."""
    assert ours.shape == theirs.shape
    difference = np.abs(ours.astype(np.float64) - theirs)
    scale = np.maximum(np.abs(theirs), scale)
    assert not np.isnan(difference).any()
    assert (difference <= relative * scale).all(), (difference / np.where(scale, scale, 1)).max()
