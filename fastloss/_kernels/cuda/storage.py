"""How numbers lie in memory, by the code that kernels name them with: what Numba, NumPy and ctypes call them, and their conversions."""

import ctypes
from dataclasses import dataclass

import numpy as np

from .. import formats


@dataclass(frozen=True)
class Storage:
    """One kind of number in memory; `raw` is what a load gives, before it becomes a `real`."""

    code: str
    dtype: np.dtype
    raw: str
    c_type: type

    @property
    def itemsize(self):
        return self.dtype.itemsize


def _storage(code, raw, c_type, dtype=None):
    return Storage(code, np.dtype(dtype or raw), raw, c_type)


# What Numba does not have is loaded as whole numbers.
_RAW = {"float16": "uint16", "bfloat16": "uint16"}
_C_TYPES = {"float32": ctypes.c_float, "float64": ctypes.c_double}
STORAGES = {
    own.code: _storage(
        own.code,
        raw := _RAW.get(own.name, own.name),
        _C_TYPES.get(own.name) or getattr(ctypes, f"c_{raw}"),
        "float16" if own.name == "float16" else None,
    )
    for own in formats.FORMATS.values()
}


# The codes by the names of dtypes, and back.
NAMES = {code: own.name for code, own in formats.FORMATS.items()}
CODES = {name: code for code, name in NAMES.items()} | {"bool": "u8"}


def conversions(precision):
    """The text of `from_CODE(raw) -> real`, `to_CODE(real) -> raw` and, for labels, `label_CODE(raw) -> int64`, by name.

    Halves go to and from `real` by what the machine has: `half_from`, `half_to` for float16, whole numbers for bfloat16.
    """
    double = not precision.f32
    texts = {"from_f16": "def from_f16(h):\n    return real(half_from(h))"}
    texts["to_i64"] = "def to_i64(x):\n    return int64(x)"
    texts["to_f16"] = "def to_f16(x):\n    return half_to(x)"
    for code, storage in STORAGES.items():
        if code in ("f16", "bf16"):
            continue
        texts[f"from_{code}"] = f"def from_{code}(raw):\n    return real(raw)"
        if code[0] in "iu":
            texts[f"label_{code}"] = f"def label_{code}(raw):\n    return int64(raw)"
        if code[0] == "f":
            texts[f"to_{code}"] = f"def to_{code}(x):\n    return {storage.raw}(x)"
    # Beyond int64 a label would pass for a negative one, which may be `ignore_index` or a list's end.
    texts["label_u64"] = f"def label_u64(raw):\n    return int64(raw) if raw < {2**63} else int64({1 - 2**63})"
    texts["from_bf16"] = "def from_bf16(h):\n    return real(float_of_bits(int32(h) << int32(16)))"
    if double:
        # To odd, where a double does not fit: to be rounded once more, as if it had not been rounded before.
        texts["odd_float"] = (
            "def odd_float(x):\n"
            "    nearest = float32(x)\n"
            "    back = real(nearest)\n"
            "    away = int32(1 if absolute(back) > absolute(x) else 0)\n"
            "    inexact = int32(1 if (back < x) | (back > x) else 0)\n"
            "    return float_of_bits(int32((bits_of_float(nearest) - away) | inexact))"
        )
    first = "    x = odd_float(x)\n" if double else ""
    texts["to_bf16"] = (
        f"def to_bf16(x):\n{first}"
        "    u = bits_of_float(x)\n"
        "    rounded = u + int32(0x7fff) + ((u >> int32(16)) & int32(1))\n"
        "    return uint16(((rounded if x == x else u | int32(0x400000)) >> int32(16)) & int32(0xffff))"
    )
    return texts
