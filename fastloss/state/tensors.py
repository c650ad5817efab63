"""The safetensors format: the length of a header, the header in JSON, then the bytes of the arrays, one after the other.

Read and written here with NumPy alone. The format is small, and the safetensors package neither holds a header against the size
of its file before it is read, nor copes with strided arrays: its NumPy writer stores their memory as it lies. To what the format
asks, `write` adds a checksum, for a flipped bit in a number is a number too.
"""

import json
import math
import sys
import zlib
from dataclasses import dataclass

import numpy as np

from .._kernels.formats import FORMATS

_DTYPES = {own.tag: own.name for own in sorted(FORMATS.values(), key=lambda own: (not own.is_floating, -own.size))} | {
    "BOOL": "bool"
}
_SIZES = {own.tag: own.size for own in FORMATS.values()} | {"BOOL": 1}
_CODES = {name: code for code, name in _DTYPES.items()}
_METADATA = "__metadata__"
_CHECKSUM = "checksum"
# Some 50,000 arrays. What Python makes of JSON takes up to forty times its memory: 620 MiB, of nested lists.
MOST_HEADER = 16 * 2**20
_MOST_DIMENSIONS = 64  # NumPy's
_MOST_BYTES = 2**63 - 1


class FormatError(ValueError):
    """A file that is not what it must be; the message says what it is."""


@dataclass(frozen=True)
class Place:
    """Where an array lies among the data, and what it is."""

    code: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def size(self):
        return math.prod(self.shape)


def write(who, file, arrays, metadata):
    """Write arrays by name, of any layout and byte order, and a dictionary of texts."""
    header, end = {_METADATA: dict(metadata)}, 0
    # Wide ones first, so that each is aligned for those who map the file into memory.
    arrays = dict(sorted(arrays.items(), key=lambda item: -item[1].itemsize))
    for name, array in arrays.items():
        code = _CODES.get(array.dtype.name)
        if code is None:
            raise TypeError(f"{who}: {name} must be an array of {', '.join(_CODES)}, got {array.dtype}")
        header[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    checksum = zlib.crc32(_canonical(header))
    for array in arrays.values():
        checksum = zlib.crc32(_bytes(array), checksum)
    header[_METADATA][_CHECKSUM] = f"{checksum:08x}"
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MOST_HEADER:
        raise ValueError(f"{who}: the names and hyperparameters must fit into {MOST_HEADER} bytes, got {len(text)}")
    file.write(len(text).to_bytes(8, "little"))
    file.write(text)
    for array in arrays.values():
        file.write(_bytes(array))


class Reader:
    """An open file whose header has been held against its size: no array in it is larger than the file.

    Attributes
    ----------
    metadata : dict of str
    places : dict of Place
        By the arrays' names, in the order in which they lie.
    """

    def __init__(self, file, size):
        if size < 8:
            raise FormatError(f"{size} bytes")
        length = int.from_bytes(_exactly(file, 8), "little")
        if length > size - 8:
            raise FormatError(f"a header of {length} bytes in a file of {size}")
        if length > MOST_HEADER:
            raise FormatError(f"a header of {length} bytes, beyond {MOST_HEADER}")
        header = parse(_exactly(file, length), "header")
        self._checked = _canonical(header)
        self.metadata = header.pop(_METADATA, {})
        if not isinstance(self.metadata, dict) or not all(isinstance(text, str) for text in self.metadata.values()):
            raise FormatError("metadata that are not texts")
        places = {name: _place(name, entry) for name, entry in header.items()}
        self.places = dict(sorted(places.items(), key=lambda item: (item[1].begin, item[1].end)))
        end = 0
        for name, place in self.places.items():
            if place.begin != end:
                raise FormatError(f"{name:.200} at byte {place.begin} of the data, after an end at {end}")
            end = place.end
        if end != size - 8 - length:
            raise FormatError(f"{size - 8 - length} bytes of data, of which the header describes {end}")
        self._file = file

    def read(self):
        """All arrays, by name."""
        checksum = zlib.crc32(self._checked)
        arrays = {}
        for name, place in self.places.items():
            array = np.empty(place.shape, _dtype(place.code))
            data = array.reshape(-1).view(np.uint8)
            if self._file.readinto(data) != data.size:
                raise FormatError(f"an end within {name:.200}")
            checksum = zlib.crc32(data, checksum)
            arrays[name] = array
        if f"{checksum:08x}" != self.metadata.get(_CHECKSUM):
            raise FormatError(f"content of checksum {checksum:08x} for {self.metadata.get(_CHECKSUM, 'none')}")
        return arrays


def parse(text, what):
    """A dictionary from JSON that may be anything."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"a {what} that is no JSON ({error})") from error
    if not isinstance(found, dict):
        raise FormatError(f"a {what} that is no dictionary")
    return found


def _place(name, entry):
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"{name:.200} without a dtype, shape and data_offsets")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(code, str) or code not in _DTYPES:
        raise FormatError(f"{name:.200} of dtype {code!r:.40}")
    if not _are_counts(shape) or len(shape) > _MOST_DIMENSIONS:
        raise FormatError(f"{name:.200} of shape {shape!r:.80}")
    if not _are_counts(offsets) or len(offsets) != 2:
        raise FormatError(f"{name:.200} at {offsets!r:.80}")
    itemsize = _SIZES[code]
    # Without its zeros a shape is what NumPy reckons with.
    reckoned = itemsize * math.prod(n or 1 for n in shape)
    if reckoned > _MOST_BYTES or offsets[1] - offsets[0] != itemsize * math.prod(shape):
        raise FormatError(f"{name:.200} of dtype {code} and shape {shape!r:.80} at {offsets!r:.80}")
    return Place(code, tuple(shape), *offsets)


def _are_counts(numbers):
    return isinstance(numbers, list) and all(type(n) is int and 0 <= n <= _MOST_BYTES for n in numbers)


def _exactly(file, length):
    data = file.read(length)
    if len(data) != length:
        raise FormatError(f"an end after {len(data)} bytes of {length}")
    return data


def _canonical(header):
    """The header's content but for the checksum, as bytes that depend on nothing else."""
    metadata = header.get(_METADATA)
    if isinstance(metadata, dict):
        header = header | {_METADATA: {key: text for key, text in metadata.items() if key != _CHECKSUM}}
    return json.dumps(header, sort_keys=True).encode()


def _bytes(array):
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little).reshape(-1).view(np.uint8).data


def _dtype(code):
    if code != "BF16":
        # Not newbyteorder("<"), which marks even a native dtype as foreign, to all who read its buffer's format.
        native = np.dtype(_DTYPES[code])
        return native if sys.byteorder == "little" else native.newbyteorder("<")
    try:
        import ml_dtypes
    except ImportError as error:
        raise ImportError(f'ml_dtypes must be installed to read bfloat16: pip install "fastloss[state]" ({error})') from error
    return np.dtype(ml_dtypes.bfloat16)
