"""An optimizer's state outside of its process: `saving` puts it on disk.

`tensors` is the file format, `structure` what is asked of an optimizer.
"""

from .saving import load_state, save_state

__all__ = ["load_state", "save_state"]
