"""DLPack, read without a library that understands it."""

import ctypes

import numpy as np

# DLPack's numbers for a GPU's memory and for managed memory.
CUDA = (2, 13)
_BFLOAT16 = 4
_KINDS = {0: "i", 1: "u", 2: "f", 6: "b"}


class Tensor(ctypes.Structure):
    """DLPack's DLTensor."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("kind", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


def place(value):
    """(address, shape, strides in bytes or None, name of the dtype, device) of an array. The capsule is not consumed."""
    capsule = value.__dlpack__()
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    tensor = Tensor.from_address(pointer(capsule, b"dltensor"))
    size = tensor.bits // 8
    shape = tuple(tensor.shape[d] for d in range(tensor.ndim))
    strides = tuple(tensor.strides[d] * size for d in range(tensor.ndim)) if tensor.strides else None
    return (tensor.data or 0) + tensor.byte_offset, shape, strides, _dtype(tensor, size), tensor.device_id


def _dtype(tensor, size):
    if tensor.lanes != 1:
        return f"{tensor.lanes} numbers of {tensor.bits} bits"
    if tensor.kind == _BFLOAT16:
        return "bfloat16"
    kind = _KINDS.get(tensor.kind)
    return np.dtype(f"{kind}{size}").name if kind else f"DLPack's {tensor.kind} of {tensor.bits} bits"
