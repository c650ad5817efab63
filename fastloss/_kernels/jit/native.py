"""From LLVM's assembly language to functions in memory, by llvmlite: compiled once, cached as object code, and loaded from then on.

Code is compiled for the same level of the processor as the built-in kernels, so that both round alike.
"""

import hashlib
import os
import platform
import struct
import sys
import threading
import time
from functools import cache

from ...formula.assembly import Processor
from ..cpu.engine import ISA
from . import cache as kept

# Incremented when the way from text to object code changes.
_FORMAT = 1
# Of a 64-bit ELF file's header: the type; where the table of sections starts, the size of an entry and how many there are.
_ELF = struct.Struct("<16xH22xQ10xHH2x")


class _Compiling:
    """Held while a formula is traced and compiled; reentrant, for a signal handler may compile too.

    LLVM and llvmlite have locks of their own, which a child could find held by a thread that it does not have: so a fork waits until
    no other thread compiles. The threads that fork go first: one that compiles formula after formula would always be the next.
    """

    def __init__(self):
        self._lock, self._forking = threading.RLock(), set()

    def __enter__(self):
        if self._forking:
            time.sleep(0.005)  # once: the fork may be waiting for this very thread
        self._lock.acquire()

    def __exit__(self, *raised):
        self._lock.release()

    def before_fork(self):
        self._forking.add(threading.get_ident())
        self._lock.acquire()

    def after_fork_in_parent(self):
        self._forking.discard(threading.get_ident())
        self._lock.release()

    def after_fork_in_child(self):
        self._forking.clear()
        self._lock.release()


compiling = _Compiling()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=compiling.before_fork,
        after_in_parent=compiling.after_fork_in_parent,
        after_in_child=compiling.after_fork_in_child,
    )


@cache
def _llvm():
    """llvmlite's binding, initialised. ImportError that names the extra if it is missing."""
    try:
        import llvmlite.binding as llvm
    except ImportError as missing:
        raise ImportError(
            "fastloss: a formula of one's own is compiled by llvmlite, which must be installed (pip install 'fastloss[jit]'), "
            f"got: {missing}"
        ) from missing
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm


@cache
def processor():
    """The processor, as the built-in kernels see it."""
    if ISA.startswith("x86-64"):
        return Processor(has_fma=ISA[-1] > "2", attributes=f'nounwind "prefer-vector-width"="{512 if ISA[-1] == "4" else 256}"')
    return Processor(has_fma=platform.machine() in ("aarch64", "arm64"))


@cache
def _target():
    """The processor's name and features, as LLVM has them."""
    llvm = _llvm()
    if ISA.startswith("x86-64"):
        return ISA, ""
    if platform.machine() in ("x86_64", "AMD64"):
        return "x86-64", ""
    return llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()


def _machine():
    llvm = _llvm()
    cpu, features = _target()
    return llvm.Target.from_default_triple().create_target_machine(cpu=cpu, features=features, opt=3, jit=True)


class Library:
    """The functions of these names that a text defines, in memory for as long as this lives."""

    def __init__(self, text, names):
        llvm, machine = _llvm(), _machine()
        versions = [_FORMAT, llvm.llvm_version_info, llvm.get_default_triple(), *_target()]
        key = hashlib.sha256("\n".join([*map(str, versions), text]).encode()).hexdigest()
        code = kept.read(key)
        if code is None or not _defines(code, names):
            code = _compile(text, machine)
            kept.keep(key, code)
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        self._engine.finalize_object()

    def address(self, name):
        return self._engine.get_function_address(name)


def _defines(code, names):
    """Whether the bytes look like an object file with these functions: LLVM crashes on anything else."""
    if not all(name.encode() + b"\0" in code for name in names):
        return False
    if not sys.platform.startswith("linux"):
        return True
    if len(code) < _ELF.size or code[:5] != b"\x7fELF\2":
        return False
    kind, start, size, count = _ELF.unpack_from(code)
    return kind == 1 and start + size * count <= len(code)  # relocatable, and whole: the table of sections comes last


def _compile(text, machine):
    return machine.emit_object(optimised(text, machine))


def optimised(text, machine):
    """The text's module after LLVM's optimisations."""
    llvm = _llvm()
    module = llvm.parse_assembly(text)
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = options.slp_vectorization = True
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return module
