"""What an optimizer keeps on a GPU: the arrays beside its parameters, and how many steps were taken."""

import numpy as np

from ... import interop
from . import device, memory, updates
from .storage import CODES
from .sweep import Sweep


class CudaBackend:
    """The engine of an optimizer whose parameters are CUDA arrays: as `fastloss.api.backends.CpuBackend` for those of NumPy.

    Arrays are `memory.Array`, `shown` as what they are to the caller. New ones are of the library of the parameter beside them.
    """

    def __init__(self, who):
        self.who, self.first, self.tally, self._steps = who, None, None, None

    def parameter(self, who, name, given):
        """A parameter's place, if it can be rewritten there."""
        library = interop.library_of(given)
        if not library.is_mutable:
            raise TypeError(f"{who}: {name} must be an array that can be rewritten in place, got one of {library.name}")
        array = memory.take(who, name, given)
        if array.code not in ("f32", "f64", "f16", "bf16"):
            raise TypeError(f"{who}: {name} must be a floating-point array, got dtype {array.dtype}: convert it first")
        if self.first is None:
            self.first = array
        self.check_place(name, array)
        return array

    def check_place(self, name, array):
        """All arrays are on one GPU, and their elements lie in order."""
        if array.device != self.first.device:
            raise ValueError(f"{self.who}: {name} must be on GPU {self.first.device}, as the others, got GPU {array.device}")
        lengths = zip(array.shape, array.strides, memory.contiguous(array.shape), strict=True)
        if array.size and any(step != dense for n, step, dense in lengths if n > 1):
            raise ValueError(
                f"{self.who}: {name} must be contiguous, rows one after the other, got strides {array.strides} of shape {array.shape}"
            )

    def shown(self, array):
        """What the caller knows it as."""
        return array.owner

    def zeros(self, like, dtype):
        array = self._made(like, dtype)
        device.clear(array.address, array.size * array.itemsize, self._stream())
        return array

    def copied(self, values, dtype, like=None):
        """A new array of the same numbers: of one on the GPU, or of NumPy's, beside `like`."""
        if isinstance(values, memory.Array):
            array = self._made(values, dtype)
            self._convert(array, values)
            return array
        array = self._made(like, dtype)
        device.put(array.address, np.array(values, dtype, order="C"), self._stream())
        return array

    def assign(self, targets, values, changes=()):
        """Copy the numbers of arrays into others, and make the changes."""
        for to, own in zip(targets, values, strict=True):
            self._convert(to, own)
        for place, name, value in changes or ():
            setattr(place, name, value)

    def _convert(self, to, values):
        if to.size:
            with device.on(to.device):
                blocks = max(1, min(-(-to.size // device.THREADS), device.blocks_at_once(to.device)))
                kernel = updates.convert(values.code, to.code)
                kernel.launch(blocks, device.THREADS, self._stream(), [to.size, values.address, to.address])

    def saved(self, array):
        """NumPy's copy of it, once the stream is done."""
        with device.on(array.device):
            return memory.host(array, self._stream())

    def saved_states(self, states):
        """Saved states whose arrays may be CUDA arrays, as NumPy's."""
        if not isinstance(states, dict):
            return states
        return {
            name: {state: self._host(name, array) for state, array in held.items()} if isinstance(held, dict) else held
            for name, held in states.items()
        }

    def row_gradient(self, who, name, param, grad):
        raise TypeError(f"{who}: the gradient of {name} must be a whole array, for it is a CUDA array, got SparseRows")

    def check_rows(self, who):
        raise TypeError(f"{who}: row_lr and row_mask must go with NumPy arrays, got CUDA arrays")

    def variant(self, rule, choice, library):
        return updates.RuleVariant(rule, choice)

    def sweep(self, who, tensors):
        if self.tally is None:
            with device.on(self.first.device):
                self.tally = memory.made(self.first, (2,), "i64")
        return Sweep(self, who, tensors)

    def count(self, step, skips, stream, captures):
        """Before the launch of the step of that number, None where the GPU alone knows it: as it will, if this one may be skipped."""
        if step is not None and self._steps != step - 1:
            if captures:
                raise RuntimeError(f"{self.who}: a step must have been taken before one is captured")
            device.put(self.tally.address, np.array([step - 1, 0], np.int64), stream)
        self._steps = None if skips or captures else step

    def recount(self):
        """The host has another count than the GPU."""
        self._steps = None

    def steps(self, known):
        """How many steps were taken, by the GPU, which is waited for, or as the host knows that is to tell it."""
        if self._steps is None and known is not None:
            return known
        with device.on(self.first.device):
            self._steps = int(memory.host(self.tally, self._stream())[0])
        return self._steps

    def __reduce__(self):
        raise TypeError(f"{self.who}: an optimizer of CUDA arrays must be saved by its state_dict, got a copy or pickle of it")

    def _made(self, like, dtype):
        with device.on(like.device):
            return memory.made(like, like.shape, CODES[np.dtype(dtype).name])

    def _host(self, name, array):
        if not interop.on_device(array):
            return array
        return self.saved(memory.take(self.who, f"the state of {name}", array))

    def _stream(self):
        return self.first.library.stream(self.first.device)
