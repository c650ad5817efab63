"""Twenty optimizers train the network that names handwritten digits, each at the learning rate that suits it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import numpy as np

import fastloss as fl

from .common import SEED, Curves, Track, untracked
from .digits import CLASSES_BATCH, CLASSES_LAYERS, load, share_right
from .network import Network

EPOCHS, HESSIAN_EVERY = 20, 10
# The learning rates are those of 1, 2 and 5 times the powers of ten with the lowest last training loss, its mean over the seeds
# 1 to 8; all else is the default. Twice the rate is often the edge of stability: plain SGD learns nothing at 2. Over these
# seeds an optimizer's last losses differ by a factor of 1.1 to 5, so neighbours in the ranking change places.
RACERS: dict[str, tuple[Callable[..., fl.Optimizer], float]] = {
    "SGD": (fl.SGD, 1.0),
    "SGD, momentum 0.9": (partial(fl.SGD, momentum=0.9), 0.2),
    "SGD, Nesterov 0.9": (partial(fl.SGD, momentum=0.9, nesterov=True), 0.2),
    "Adagrad": (fl.Adagrad, 0.1),
    "Adadelta": (fl.Adadelta, 20.0),
    "RMSprop": (fl.RMSprop, 0.05),
    "Rprop": (fl.Rprop, 0.02),
    "MADGRAD": (fl.MADGRAD, 0.1),
    "Adam": (fl.Adam, 0.05),
    "AdamW": (fl.AdamW, 0.05),
    "NAdam": (fl.NAdam, 0.05),
    "RAdam": (fl.RAdam, 0.2),
    "AdaBelief": (fl.AdaBelief, 0.05),
    "Adan": (fl.Adan, 0.05),
    "AdEMAMix": (fl.AdEMAMix, 0.05),
    "ADOPT": (fl.ADOPT, 0.05),
    "Lion": (fl.Lion, 0.005),
    "Signum": (fl.Signum, 0.005),
    "Sophia": (fl.Sophia, 0.005),
    "ScheduleFreeAdamW": (fl.ScheduleFreeAdamW, 0.1),
}


@dataclass(frozen=True)
class Race:
    """By optimizer, the lowest last loss first: the training loss before each epoch and at the end, and what else was measured.

    `held_out` is the share of right answers, `microseconds` the median time of a step: the call of `step` alone.
    """

    losses: Curves
    held_out: dict[str, float]
    microseconds: dict[str, float]


def optimizer_race(track: Track = untracked) -> Race:
    """The network of two layers under cross-entropy: the same start and the same batches for every optimizer."""
    parts, _ = load()
    found = {name: _train(parts, name, lr, track(range(EPOCHS), name)) for name, (_, lr) in RACERS.items()}
    ranking = sorted(found, key=lambda name: found[name][0][-1])
    return Race(*({name: found[name][k] for name in ranking} for k in range(3)))


def _train(parts, name, lr, epochs, seed=SEED):
    """The training losses, the held-out share of right answers, and the median microseconds of a step."""
    rng, draws = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    network = Network(CLASSES_LAYERS, rng)
    make, _ = RACERS[name]
    # Rprop compares the signs of successive gradients, which the noise of batches would turn.
    batches = 1 if make is fl.Rprop else len(parts.targets) // CLASSES_BATCH
    paces_itself = make in (fl.Rprop, fl.ScheduleFreeAdamW)
    optimizer = make(network.parameters, lr=lr if paces_itself else fl.schedules.cosine(lr, steps=EPOCHS * batches))
    losses, times = [fl.cross_entropy(network(parts.features), parts.targets)], []
    for _ in epochs:
        for batch in np.array_split(rng.permutation(len(parts.targets)), batches):
            activations = network.activations(parts.features[batch])
            if make is fl.Sophia and optimizer.steps % HESSIAN_EVERY == 0:
                optimizer.update_hessian(_curvature(network, activations, draws))
            grads = network.gradients(activations, fl.cross_entropy.grad(activations[-1], parts.targets[batch]))
            begin = perf_counter()
            optimizer.step(grads)
            times.append(perf_counter() - begin)
        trained = network.holding(optimizer.evaluation_params()) if make is fl.ScheduleFreeAdamW else network
        losses.append(fl.cross_entropy(trained(parts.features), parts.targets))
    held_out = share_right(trained, parts.held_out_features, parts.held_out_targets)
    return np.array(losses), held_out, 1e6 * float(np.median(times))


def _curvature(network, activations, draws):
    """Sophia's estimate of the Hessian's diagonal: squared gradients for labels drawn from the model's own probabilities."""
    logits = activations[-1]
    # With Gumbel's noise added, a logit is the largest with its class's probability.
    drawn = (logits + draws.gumbel(size=logits.shape)).argmax(axis=1)
    grads = network.gradients(activations, fl.cross_entropy.grad(logits, drawn))
    return [len(logits) * grad**2 for grad in grads]
