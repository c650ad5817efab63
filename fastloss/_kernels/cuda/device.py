"""Numba's CUDA package, imported here and nowhere else: how emitted Python becomes kernels, and how they are launched.

Kernels take C pointers and numbers, as `types` says: "f32*", "i64". Under Numba's simulator (NUMBA_ENABLE_CUDASIM=1) they run as the
Python that they are, on the host's memory.
"""

import ctypes
import warnings
from contextlib import nullcontext
from functools import cache, lru_cache
from types import SimpleNamespace
from unittest import mock

import numpy as np
from llvmlite import ir
from numba import cuda
from numba.cuda import types
from numba.cuda.core import config
from numba.cuda.extending import intrinsic

from ..jit import llvm
from ..jit.machines import Machine
from . import simulated
from .storage import STORAGES, conversions

SIMULATED = bool(config.ENABLE_CUDASIM)
if SIMULATED:
    from numba.cuda.simulator.kernelapi import FakeCUDAShared

    FakeCUDAShared.array = simulated.shared_array(FakeCUDAShared.array)
else:  # the simulator has neither
    from numba.cuda import dispatcher
    from numba.cuda.cudadrv import driver
# Of a block. The simulator runs a thread of the system for each.
THREADS = 16 if SIMULATED else 256

_RAW = {code: getattr(types, storage.raw) for code, storage in STORAGES.items()}
_INTEGERS = ("int32", "int64", "uint16", "uint32", "uint64")


@cache
def machine(precision):
    """The machine of a precision: its arithmetic, memory, and conversions to and from every kind of number in memory."""
    operations = simulated.operations(precision) if SIMULATED else _instructions(precision)
    own = Machine(precision, operations | {"cuda": cuda}, _function)
    for name, text in conversions(precision).items():
        own.operations[name] = own.compiled(own.run(text, name, own.operations))
    return own


def _function(function):
    """A function that kernels call."""
    return cuda.jit(function, device=True) if SIMULATED else cuda.jit(function, device=True, forceinline=True)


class Kernel:
    """A kernel: `text` defines the function `name`, whose arguments are of the kinds in `types`.

    Compiled at its first launch; `ptx` compiles it for any GPU.
    """

    def __init__(self, precision, name, text, types, **more):
        self.name, self.text, self.types = name, text, tuple(types)
        self._function = machine(precision).define(text, name, **more)
        # What a launch takes Python's own numbers for: addresses, whole numbers of 64 bits.
        self._narrow = [(k, STORAGES[kind].c_type) for k, kind in enumerate(self.types) if kind[-1] != "*" and kind != "i64"]
        self._loaded = {}

    def launch(self, blocks, threads, stream, arguments, shared=0):
        """Run on a stream; pointers are addresses."""
        if SIMULATED:
            given = [simulated.argument(kind, value) for kind, value in zip(self.types, arguments, strict=True)]
            # NumPy's scalars speak of what a GPU leaves unsaid.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                cuda.jit(self._function)[blocks, threads, 0, shared](*given)
            return
        number = current()
        compiled = self._loaded.get(number) or self._load(number)
        given = list(arguments)
        for k, c_type in self._narrow:
            given[k] = c_type(given[k])
        # As Numba's own launch does, which makes all of it anew each time.
        dispatcher.launch(_stream(number, stream), _grid(blocks, threads, shared), compiled.kernel, *given)

    def _load(self, number):
        """The kernel on the present GPU, of that number."""
        compiled = cuda.jit(self._function).compile(self._signature())
        # The function in the GPU's memory goes with what it was compiled into.
        function = compiled._codelibrary.get_cufunc()
        self._loaded[number] = SimpleNamespace(kernel=function.kernel, function=function, compiled=compiled)
        return self._loaded[number]

    def ptx(self, capability):
        """The assembly for a compute capability, GPU or no GPU."""
        # Numba asks the present GPU what to compile the functions for that a kernel calls.
        stand_in = SimpleNamespace(compute_capability=capability)
        with mock.patch("numba.cuda.dispatcher.get_current_device", lambda: stand_in):
            return cuda.compile(self._function, self._signature(), device=False, abi="numba", cc=capability)[0]

    def _signature(self):
        return tuple(_kind(kind) for kind in self.types)


def on(number):
    """Within, the GPU of that number is the present one."""
    return nullcontext() if SIMULATED or current() == number else cuda.gpus[number]


def current():
    """The number of the present GPU."""
    if SIMULATED:
        return 0
    failed, number = driver.binding.cuCtxGetDevice()
    # Numba's way takes some microseconds; it makes a context where there is none.
    return cuda.get_current_device().id if int(failed) else int(number)


@cache
def blocks_at_once(number):
    """So many blocks keep a GPU busy."""
    return 3 if SIMULATED else 8 * cuda.gpus[number].MULTIPROCESSOR_COUNT


def empty(shape, dtype):
    """A new array of Numba's."""
    return cuda.device_array(shape, dtype)


def mapped(count):
    """Whole numbers in the host's memory that kernels reach: the array, and its address."""
    if SIMULATED:
        array = np.zeros(count, np.int64)
        return array, array.ctypes.data
    array = cuda.mapped_array(count, np.int64)
    return array, array.device_ctypes_pointer.value


def pinned(count, dtype):
    """A NumPy array whose memory copies may be captured from."""
    return np.empty(count, dtype) if SIMULATED else cuda.pinned_array(count, dtype)


def put(address, array, stream):
    """Copy a contiguous NumPy array into a GPU's memory; unless it is pinned it may change at once."""
    if SIMULATED:
        ctypes.memmove(address, array.ctypes.data, array.nbytes)
    elif array.nbytes:
        _driver().cuMemcpyHtoDAsync(address, array.ctypes.data, array.nbytes, stream)


def get(address, array, stream):
    """Copy a GPU's memory into a contiguous NumPy array, once all before on the stream is done."""
    if SIMULATED:
        ctypes.memmove(array.ctypes.data, address, array.nbytes)
    elif array.nbytes:
        _driver().cuMemcpyDtoHAsync(array.ctypes.data, address, array.nbytes, stream)
        wait(stream)


def clear(address, size, stream):
    """Make so many bytes 0."""
    if SIMULATED:
        ctypes.memset(address, 0, size)
    elif size:
        _driver().cuMemsetD8Async(address, 0, size, stream)


def captures(stream):
    """Whether what goes onto the stream is captured into a graph, and not run; CUDA's default stream never is."""
    return not SIMULATED and stream != 0 and int(_driver().cuStreamIsCapturing(stream)) != 0


def wait(stream):
    """Wait for a stream, None for everything on the present GPU."""
    if stream is None:
        cuda.synchronize()
    elif not SIMULATED:
        (cuda.external_stream(stream) if stream else cuda.default_stream()).synchronize()


def _kind(kind):
    return types.CPointer(_RAW[kind[:-1]]) if kind[-1] == "*" else _RAW[kind]


def _driver():
    """CUDA's driver API: calls that raise what goes wrong."""
    return driver.driver


@lru_cache(maxsize=1024)
def _stream(number, handle):
    """A stream of a GPU, by its address, as it is launched on."""
    return driver.ExperimentalStream.from_handle(handle)


@lru_cache(maxsize=1024)
def _grid(blocks, threads, shared):
    """The form of a launch."""
    return dispatcher.LaunchConfig(grid=(blocks, 1, 1), block=(threads, 1, 1), shmem_size=shared)


# --- instructions -----------------------------------------------------------------------------------------------------------


def _instructions(precision):
    """Arithmetic, memory and conversions as instructions."""
    of_precision = llvm.operations(intrinsic, types, precision)
    single, whole = types.float32, types.int32
    of_single, of_whole, of_half = ir.FloatType(), ir.IntType(32), ir.IntType(16)
    real = types.float32 if precision.f32 else types.float64
    letter, llvm_real = ("f", of_single) if precision.f32 else ("d", ir.DoubleType())
    bits = "f32" if precision.f32 else "f64"

    def converted(result, argument, build):
        @intrinsic
        def operation(typing, x):
            return result(argument), lambda context, builder, signature, values: build(builder, values[0])

        return operation

    def assembly(result, argument, text, letters):
        return lambda builder, x: builder.asm(ir.FunctionType(result, [argument]), text, letters, [x], False)

    return of_precision | {
        **{name: getattr(types, name) for name in (*_INTEGERS, "float32", "float64")},
        **{f"pointer_{code}": _pointer(_RAW[code]) for code in STORAGES},
        **{f"vector{width}": _vector(width) for width in (2, 4, 8)},
        **{f"put{width}": _put(width) for width in (2, 4, 8)},
        # What the compiler cannot look through: a product behind it is rounded before it meets a sum.
        "rounded": converted(real, real, assembly(llvm_real, llvm_real, f"mov.{bits} $0, $1;", f"={letter},{letter}")),
        "half_from": converted(single, types.uint16, assembly(of_single, of_half, "cvt.f32.f16 $0, $1;", "=f,h")),
        "half_to": converted(types.uint16, real, assembly(of_half, llvm_real, f"cvt.rn.f16.{bits} $0, $1;", f"=h,{letter}")),
        "float_of_bits": converted(single, whole, lambda builder, i: builder.bitcast(i, of_single)),
        "bits_of_float": converted(whole, single, lambda builder, x: builder.bitcast(x, of_whole)),
    }


def _pointer(raw):
    @intrinsic
    def pointer(typing, address):
        result = types.CPointer(raw)

        def build(context, builder, signature, values):
            # What is known to lie in the GPU's memory is not asked where it lies at each access.
            element = context.get_data_type(raw)
            return builder.addrspacecast(builder.inttoptr(values[0], element.as_pointer(1)), element.as_pointer())

        return result(types.int64), build

    return pointer


def _vector(width):
    """So many neighbours, in one load of 16 bytes at most."""

    @intrinsic
    def vector(typing, pointer, i):
        result = types.UniTuple(pointer.dtype, width)

        def build(context, builder, signature, values):
            element = context.get_data_type(pointer.dtype)
            place = builder.bitcast(builder.gep(values[0], [values[1]]), ir.VectorType(element, width).as_pointer())
            loaded = builder.load(place, align=_alignment(pointer, width))
            parts = [builder.extract_element(loaded, ir.Constant(ir.IntType(32), k)) for k in range(width)]
            return context.make_tuple(builder, result, parts)

        return result(pointer, types.int64), build

    return vector


def _put(width):
    """Their like, stored."""

    def build_put(pointer, raws):
        def build(context, builder, signature, values):
            element = context.get_data_type(pointer.dtype)
            vector = ir.Constant(ir.VectorType(element, width), ir.Undefined)
            for k, value in enumerate(values[2:]):
                vector = builder.insert_element(vector, value, ir.Constant(ir.IntType(32), k))
            place = builder.bitcast(builder.gep(values[0], [values[1]]), vector.type.as_pointer())
            builder.store(vector, place, align=_alignment(pointer, width))
            return context.get_dummy_value()

        return types.void(pointer, types.int64, *raws), build

    makers = {
        2: lambda typing, pointer, i, a, b: build_put(pointer, [pointer.dtype] * 2),
        4: lambda typing, pointer, i, a, b, c, d: build_put(pointer, [pointer.dtype] * 4),
        8: lambda typing, pointer, i, a, b, c, d, e, f, g, h: build_put(pointer, [pointer.dtype] * 8),
    }
    return intrinsic(makers[width])


def _alignment(pointer, width):
    return min(16, width * pointer.dtype.bitwidth // 8)
