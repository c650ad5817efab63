"""The optimizers: `rules` holds the update rules, each written once. The other modules hold what stands around a step: gradients
accumulated and clipped, the scale of a loss, averages, optimizers around others, schedules; `arithmetic` what they are made of.
"""

from .accumulation import accumulate
from .averaging import WeightAverage
from .clipping import clip_grad_adaptive, clip_grad_norm, clip_grad_value
from .lookahead import Lookahead
from .rules import SGD, Adam, AdamW
from .scaling import LossScaler
from .sharpness import SAM

# The optimizers that are rules: tests, benchmarks and docs go over them.
__all__ = ["SGD", "Adam", "AdamW"]
