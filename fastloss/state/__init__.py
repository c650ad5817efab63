"""An optimizer's state outside of its process: `saving` puts it on disk, `torch_state` and `optax_state` speak to other libraries.

`tensors` is the file format, `structure` what all of them ask of an optimizer.
"""

from .optax_state import from_optax_state, to_optax_state
from .saving import load_state, save_state
from .torch_state import from_torch_state, to_torch_state

__all__ = [
    "from_optax_state",
    "from_torch_state",
    "load_state",
    "save_state",
    "to_optax_state",
    "to_torch_state",
]
