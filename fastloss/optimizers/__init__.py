"""The optimizers: update rules, each written once, in modules by family; `methods` holds what some can do beside a step."""

from .adam import ADOPT, AdaBelief, Adam, Adamax, AdamW, Adan, AdEMAMix, NAdam, RAdam, Yogi
from .adaptive import FTRL, MADGRAD, Adadelta, Adagrad, RMSprop, Rprop
from .gradient_descent import ASGD, SGD
from .methods import ScheduleFreeAdamW, ScheduleFreeSGD, Sophia
from .signs import Lion, Signum

__all__ = [
    "ADOPT",
    "ASGD",
    "FTRL",
    "MADGRAD",
    "SGD",
    "AdEMAMix",
    "AdaBelief",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Adan",
    "Lion",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "Signum",
    "Sophia",
    "Yogi",
]
