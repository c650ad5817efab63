"""The known libraries of arrays: a class each."""

import functools
import sys

import numpy as np

from .library import ArrayLibrary, Place, array_library, bfloat16


@array_library("torch")
class Torch(ArrayLibrary):
    """PyTorch's tensors are detached: autograd does not see what becomes of them."""

    name = "PyTorch"
    is_foreign = True

    def to_numpy(self, who, name, tensor):
        torch = sys.modules["torch"]
        if tensor.device.type != "cpu":
            raise TypeError(f"{who}: {name} must be in the memory of the processor, got a tensor on {tensor.device}")
        tensor = tensor.detach()
        try:
            if tensor.dtype == torch.bfloat16:
                return tensor.view(torch.int16).numpy().view(bfloat16(who))
            return tensor.numpy()
        except (TypeError, RuntimeError) as refused:
            raise TypeError(
                f"{who}: {name} must be a plain dense tensor, got {tensor.dtype}, {tensor.layout} ({refused})"
            ) from None

    def from_numpy(self, array, like):
        torch = sys.modules["torch"]
        if array.dtype.name == "bfloat16":
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(array)

    def on_device(self, value):
        return getattr(value, "is_cuda", False)

    def place(self, who, name, value):
        if value.is_neg():
            raise TypeError(f"{who}: {name} must hold its numbers as they are, got a negated view: resolve_neg() makes a copy")
        size = value.element_size()
        strides = tuple([step * size for step in value.stride()])
        return Place(value.data_ptr(), tuple(value.shape), strides, _torch_name(value.dtype), value.device.index or 0)

    def has_moved(self, value, address, shape):
        # Assigning to `.data` moves it.
        return value.data_ptr() != address or tuple(value.shape) != shape

    def empty(self, like, shape, dtype):
        torch = sys.modules["torch"]
        return torch.empty(shape, dtype=getattr(torch, dtype), device=like.device)

    def stream(self, device):
        return sys.modules["torch"].cuda.current_stream(device).cuda_stream

    def on(self, device, stream):
        cuda = sys.modules["torch"].cuda
        return cuda.stream(cuda.ExternalStream(stream, device))


@functools.lru_cache(64)
def _torch_name(dtype):
    return str(dtype).removeprefix("torch.")


@array_library("jax", "jaxlib")
class Jax(ArrayLibrary):
    """JAX shows no stream: its arrays are waited for, and so are results before it gets them."""

    name = "JAX"
    is_foreign = True
    is_mutable = False
    has_streams = False

    def from_numpy(self, array, like):
        jax = sys.modules["jax"]
        if array.dtype == np.float64 and like.dtype == np.float64:
            # Outside the context that `like` was made in, JAX would make it float32.
            enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
            with enable_x64(True):
                return jax.numpy.asarray(array)
        return jax.numpy.asarray(array)

    def place(self, who, name, value):
        value.block_until_ready()
        number = next(iter(value.devices())).local_hardware_id
        return Place(value.unsafe_buffer_pointer(), tuple(value.shape), None, value.dtype.name, number)

    def empty(self, like, shape, dtype):
        return sys.modules["jax"].numpy.empty(shape, _dtype(like, dtype)).block_until_ready()


@array_library("pandas")
class Pandas(ArrayLibrary):
    name = "pandas"
    is_foreign = True
    is_mutable = False

    def to_numpy(self, who, name, value):
        """The values in order; a missing one of a nullable column is NaN."""
        dtypes = [value.dtype] if value.ndim == 1 else list(value.dtypes)
        nullable = [dtype for dtype in dtypes if not isinstance(dtype, np.dtype)]
        if nullable and all(getattr(dtype, "kind", "O") in "fiub" for dtype in dtypes):
            plain = [np.dtype(getattr(dtype, "numpy_dtype", dtype)) for dtype in dtypes]
            if value.isna().to_numpy().any():
                plain.append(np.dtype(np.float32) if all(dtype == np.float32 for dtype in plain) else np.dtype(np.float64))
                return value.to_numpy(dtype=np.result_type(*plain), na_value=np.nan)
            return value.to_numpy(dtype=np.result_type(*plain))
        return value.to_numpy()

    def from_numpy(self, array, like):
        """With the index of `like`; an array of another length stays as it is."""
        pandas = sys.modules["pandas"]
        if array.shape == like.shape and array.ndim == 2:
            return pandas.DataFrame(array, index=like.index, columns=like.columns, copy=False)
        if array.shape == like.shape[:1]:
            return pandas.Series(array, index=like.index, name=like.name if like.ndim == 1 else None, copy=False)
        return array


@array_library("polars")
class Polars(ArrayLibrary):
    name = "Polars"
    is_foreign = True
    is_mutable = False

    def to_numpy(self, who, name, value):
        return value.to_numpy()

    def from_numpy(self, array, like):
        polars = sys.modules["polars"]
        if array.shape == like.shape and array.ndim == 2:
            return polars.DataFrame(array, schema=like.columns)
        name = like.name if isinstance(like, polars.Series) else ""
        return polars.Series(name, array) if array.shape == like.shape[:1] else array


@array_library("cupy")
class CuPy(ArrayLibrary):
    name = "CuPy"

    def place(self, who, name, value):
        return Place(value.data.ptr, value.shape, value.strides, value.dtype.name, value.device.id)

    def empty(self, like, shape, dtype):
        return sys.modules["cupy"].empty(shape, _dtype(like, dtype))

    def stream(self, device):
        return sys.modules["cupy"].cuda.get_current_stream().ptr

    def on(self, device, stream):
        return sys.modules["cupy"].cuda.ExternalStream(stream, device)


@array_library("numba")
class Numba(ArrayLibrary):
    """Numba's device arrays. Under its simulator they lie in the host's memory."""

    name = "Numba"

    def place(self, who, name, value):
        array = getattr(value, "_ary", None)
        if array is None:
            return super().place(who, name, value)
        return Place(array.ctypes.data, array.shape, array.strides, array.dtype.name)

    def number(self, value):
        return value.copy_to_host().item()


def _dtype(like, name):
    """The dtype of that name, which may be one that NumPy alone does not know."""
    return like.dtype if like.dtype.name == name else np.dtype(name)
