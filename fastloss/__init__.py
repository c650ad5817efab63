"""fastloss: loss functions and optimizer steps for scientific Python, at memory speed."""

from ._kernels.engine import get_num_threads, set_num_threads
from .losses import *
from .optimizers import *

__version__ = "0.1.0"
