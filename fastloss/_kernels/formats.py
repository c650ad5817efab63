"""How numbers are kept in memory: one table, from which the engines, saved files and the states of optimizers read."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class StorageFormat:
    """One way to keep the numbers of an array.

    An engine has for each format a function that loads its elements as the numbers that kernels compute with, and for those that
    results are kept in one that stores them: `load` and `store` are their names, to which the kernel's precision is added.
    """

    code: str  # in the names of functions
    name: str  # of NumPy's dtype
    size: int  # bytes of an element
    tag: str  # in safetensors files
    # The largest number that does not become infinite when it is stored; None of whole numbers, which nothing is stored in.
    largest: float | None = None
    # Arrays that an optimizer may keep beside one in this format, by name: what rounding took.
    companions: tuple[str, ...] = ()

    @property
    def is_floating(self):
        return self.largest is not None

    @property
    def load(self):
        return f"load_{self.code}"

    @property
    def store(self):
        return f"store_{self.code}"


def _whole(letter, kind, size):
    return StorageFormat(f"{letter}{8 * size}", f"{kind}{8 * size}", size, f"{letter.upper()}{8 * size}")


# In the order of the engine's numbers for them.
FORMATS = {
    own.code: own
    for own in (
        StorageFormat("f32", "float32", 4, "F32", np.nextafter(2.0**128 - 2.0**103, 0.0)),
        StorageFormat("f64", "float64", 8, "F64", np.finfo(np.float64).max),
        StorageFormat("f16", "float16", 2, "F16", np.nextafter(np.float32(65520.0), np.float32(0)), ("remainder",)),
        StorageFormat(
            "bf16", "bfloat16", 2, "BF16", np.nextafter(np.float32(2.0**128 - 2.0**119), np.float32(0)), ("remainder",)
        ),
        *(_whole("i", "int", size) for size in (1, 2, 4, 8)),
        *(_whole("u", "uint", size) for size in (1, 2, 4, 8)),
    )
}
_BY_NAME = {own.name: own for own in FORMATS.values()} | {"bool": FORMATS["u8"]}
FLOATING = [own.name for own in sorted(FORMATS.values(), key=lambda own: -own.size) if own.is_floating]


def of(dtype):
    """The format of a dtype, None if there is none."""
    return _BY_NAME.get(dtype.name)
