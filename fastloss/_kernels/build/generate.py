"""Write `tiles.pyx`, the tile kernels of every formula and the vector math that they call, and the losses' type stub.

Run by the build with nothing but the standard library: `python generate.py PACKAGE_DIR TILES STUB`.
"""

import importlib
import sys
import types
from pathlib import Path

HEAD = '''# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, nonecheck=False
"""Tile kernels, written by generate.py from the formulas: edit those."""

from libc.math cimport INFINITY, NAN
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport strcmp

cdef extern from "tile.h" nogil:
    ctypedef float* float_tile
    ctypedef double* double_tile
    float where_f32(bint, float, float)
    double where_f64(bint, double, double)
    int32_t where_i32(bint, int32_t, int32_t)
    int64_t where_i64(bint, int64_t, int64_t)
    float lesser_f32(float, float)
    double lesser_f64(double, double)
    int32_t lesser_i32(int32_t, int32_t)
    int64_t lesser_i64(int64_t, int64_t)
    float greater_f32(float, float)
    double greater_f64(double, double)
    int32_t greater_i32(int32_t, int32_t)
    int64_t greater_i64(int64_t, int64_t)
    float absolute_f32 "fabsf"(float)
    double absolute_f64 "fabs"(double)
    float sqrt_f32 "sqrtf"(float)
    double sqrt_f64 "sqrt"(double)
    float fma_f32(float, float, float)
    double fma_f64(double, double, double)
    int32_t bits_f32(float)
    int64_t bits_f64(double)
    float from_bits_f32(int32_t)
    double from_bits_f64(int64_t)
    float to_float_f32 "(float)"(int32_t)
    double to_float_f64 "(double)"(int64_t)
'''

ADDRESSES = '''
cdef struct Entry:
    const char* name
    void* address
    int cost

cdef Entry[{count}] TABLE
cdef Py_ssize_t length = 0


cdef void enter(const char* name, void* address, int cost=0) noexcept:
    global length
    TABLE[length] = Entry(name, address, cost)
    length += 1


cdef Entry* find(str name) except NULL:
    cdef bytes wanted = name.encode()
    cdef Py_ssize_t i
    for i in range(length):
        if strcmp(wanted, TABLE[i].name) == 0:
            return &TABLE[i]
    raise KeyError(name)


def address(str name):
    """Where the function of that name is, as an integer."""
    return <uintptr_t>find(name).address


def cost(str name):
    """What a kernel costs per element, in additions."""
    return find(name).cost


def layout(str name):
    """What the engine is told of a row formula's program, or of a rule that looks at whole tensors; None of other rules."""
    return LAYOUTS.get(name)


def names():
    """Every name in the table."""
    return [(<bytes>TABLE[i].name).decode() for i in range(length)]

'''


def import_formulas(package):
    """The formula modules, imported beside the compiled core that is still to be built: the decorators stand bare."""
    folders = {"fastloss": package, "fastloss.losses": package / "losses", "fastloss.optimizers": package / "optimizers"}
    for name, path in folders.items():
        module = types.ModuleType(name)
        module.__path__ = [str(path)]
        sys.modules[name] = module
    definition = importlib.import_module("fastloss.formula.definition")
    formulas = []

    def decorator(kind):
        def decorate(**options):
            def define(function):
                formulas.append(kind.define(function, **options))
                return formulas[-1]

            return define

        return decorate

    api = types.ModuleType("fastloss.api")
    api.loss, api.update_rule = decorator(definition.Formula), decorator(definition.UpdateRule)
    api.row_loss = decorator(definition.RowFormula)
    blocks = importlib.import_module("fastloss.formula.blocks")
    api.linear_loss = api.center_loss = decorator(blocks.BlockFormula)
    api.nearest_center_loss = decorator(blocks.NearestCenterFormula)
    sys.modules["fastloss.api"] = api
    for folder in ("losses", "optimizers"):
        for file in sorted((package / folder).glob("[!_]*.py")):
            if "from ..api import" in file.read_text(encoding="utf-8"):
                importlib.import_module(f"fastloss.{folder}.{file.stem}")
    return formulas


def tiles_text(formulas):
    emit = importlib.import_module("fastloss.formula.emit")
    definition = importlib.import_module("fastloss.formula.definition")
    primitives = importlib.import_module("fastloss.formula.primitives").TABLE
    importlib.import_module("fastloss.vecmath")
    program = importlib.import_module("fastloss.formula.program")
    texts, names, costs, layouts = [], [], {}, {}
    for function in definition.VECTOR_FUNCTIONS.values():
        for precision in definition.PRECISIONS:
            traced = function.trace(precision)
            texts.append(emit.function_text(traced, precision, function.source))
    for primitive in primitives.values():
        for precision in definition.PRECISIONS:
            texts.append(emit.map_text(primitive, precision))
            names.append(f"{primitive.name}_map_{precision.name}")
    for formula in formulas:
        for choice in formula.choices():
            traced = formula.trace(choice)
            texts.append(emit.uniforms_text(traced, formula.source, definition.F64))
            names.append(f"{traced.name}_uniforms")
            if isinstance(formula, definition.RowFormula):
                for want in formula.wants:
                    of_want = program.Program(traced, formula.roles(want))
                    layouts[f"{traced.name}_{want}"] = layout = of_want.layout()
                    of_want.check_room(layout)
                    for precision in definition.PRECISIONS:
                        for name, text in of_want.kernels(want, precision, formula.source):
                            texts.append(text)
                            names.append(name)
                continue
            if isinstance(formula, definition.UpdateRule) and (layout := formula.layout(traced)):
                layouts[traced.name] = layout
                emit.check_tensor_room(traced)
            for suffix, roles in formula.passes(traced):
                for precision in definition.PRECISIONS:
                    texts.append(emit.kernel_text(traced, suffix, roles, precision, formula.source, formula.in_place))
                    names.append(f"{traced.name}_{suffix}_{precision.name}")
                    costs[names[-1]] = emit.cost([traced.outputs[role] for role in roles])
    entries = [f'enter(b"{name}", <void*>{name}, {costs.get(name, 0)})' for name in names]
    entries += [f'enter(b"{name}", <void*>{text})' for name, text in tilework()]
    head = HEAD + '\ninclude "tilework.pxi"\n'
    end = f"\n\n# What the engine is told of row formulas, and of update rules that look at whole tensors.\nLAYOUTS = {layouts!r}\n"
    return "\n\n\n".join([head, *texts]) + "\n" + ADDRESSES.format(count=len(entries)) + "\n".join(entries) + end


def tilework():
    """The hand-written functions of tilework.pxi, by the name under which the driver asks for them."""
    c = {"f32": "float", "f64": "double"}
    plain = {"i8": "int8_t", "i16": "int16_t", "i32": "int32_t", "i64": "int64_t"}
    plain |= {"u8": "uint8_t", "u16": "uint16_t", "u32": "uint32_t", "u64": "uint64_t"} | c
    rows = []
    for real, c_real in c.items():
        rows += [(f"load_{e}_{real}", f"load[{c_e}, {c_real}]") for e, c_e in plain.items()]
        rows += [(f"load_{half}_{real}", f"load_{half}[{c_real}]") for half in ("f16", "bf16")]
        rows += [(f"{work}_{real}", f"{work}[{c_real}]") for work in ("scale", "weigh", "outside", "times", "rise", "run_on")]
        rows += [(f"{work}_{real}", f"{work}[{c_real}]") for work in ("adjust", "blend", "plus")]
        rows += [(f"store_{kept}_{real}", f"store[{c_real}, {c_kept}]") for kept, c_kept in c.items()]
        rows += [(f"store_{half}_{real}", f"store_{half}[{c_real}]") for half in ("f16", "bf16")]
        rows += [
            (f"{work}_{real}", f"{work}_{real}")
            for work in (
                "sum",
                "squares",
                "largest",
                "first_largest",
                "run",
                "stream",
                "split",
                "join",
                "pick",
                "add",
                "predict",
            )
        ]
    rows += [(f"load_{e}_label", f"load_label[{c_e}]") for e, c_e in plain.items() if e not in c]
    return [*rows, ("count_labels", "count_labels"), ("dither", "dither")]


def main(package, tiles, stub):
    formulas = import_formulas(Path(package).resolve())
    blocks = importlib.import_module("fastloss.formula.blocks")
    traced = [formula for formula in formulas if not isinstance(formula, blocks.BlockFormula)]
    Path(tiles).write_text(tiles_text(traced), encoding="utf-8")
    document = importlib.import_module("fastloss.formula.document")
    losses = [formula for formula in formulas if not formula.in_place]
    Path(stub).write_text(document.stub(losses), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
