"""Write what the build makes of the formulas: units of kernels, their layouts, the C header, type stubs.

Run by the build with nothing but the standard library: `python generate.py PACKAGE FOLDER`. A file whose text has not changed is
left as it is, so that nothing is compiled again that need not be.
"""

import importlib
import sys
import types
from pathlib import Path


def import_formulas(package):
    """The formulas by module, imported beside the compiled core that is still to be built: the decorators stand bare."""
    folders = {"fastloss": package, "fastloss.losses": package / "losses", "fastloss.optimizers": package / "optimizers"}
    for name, path in folders.items():
        module = types.ModuleType(name)
        module.__path__ = [str(path)]
        sys.modules[name] = module
    definition = importlib.import_module("fastloss.formula.definition")
    formulas = {}

    def decorator(kind):
        def decorate(**options):
            def define(function):
                formula = kind.define(function, **options)
                formulas.setdefault(formula.module.removeprefix("fastloss."), []).append(formula)
                return formula

            return define

        return decorate

    api = types.ModuleType("fastloss.api")
    api.loss, api.update_rule = decorator(definition.Formula), decorator(definition.UpdateRule)
    api.row_loss = decorator(definition.RowFormula)
    api.pair_loss = decorator(importlib.import_module("fastloss.formula.pairs").PairFormula)
    sys.modules["fastloss.api"] = api
    for folder in ("losses", "optimizers"):
        for file in sorted((package / folder).glob("[!_]*.py")):
            if "from ..api import" in file.read_text(encoding="utf-8"):
                importlib.import_module(f"fastloss.{folder}.{file.stem}")
    importlib.import_module("fastloss.vecmath")
    return formulas


def kernel_files(package, formulas):
    """{file: text} of the units, of the list of them, and of the layouts."""
    from sources import units
    from units import Unit

    from fastloss.formula import PairFormula

    made = {name: Unit(name) for name in units(package)}
    for module, defined in formulas.items():
        unit = made["optimizers" if module.startswith("optimizers.") else module.replace(".", "_")]
        for formula in defined:
            if not isinstance(formula, PairFormula):
                unit.enter_formula(formula)
    made["vecmath"].enter_primitives()
    layouts = {name: layout for unit in made.values() for name, layout in unit.layouts.items()}
    return {f"{name}.c": unit.text for name, unit in made.items()} | {
        "units.h": "".join(f"FASTLOSS_UNIT({name})\n" for name in made),
        "layouts.py": f'"""{LAYOUTS}"""\n\nLAYOUTS = {{\n'
        + "".join(f"    {name!r}: {layout!r},\n" for name, layout in layouts.items())
        + "}\n",
    }


LAYOUTS = "What the engine is told of row formulas, and of update rules that look at whole tensors; written by the build."


def files(package):
    """{file: text} of all that is written."""
    formulas = import_formulas(package)
    from header import header

    from fastloss.formula import Formula, document

    every = [formula for defined in formulas.values() for formula in defined]
    h, pxd = header([formula for formula in every if type(formula) is Formula])
    stub = document.stub([formula for formula in every if not formula.in_place])
    return kernel_files(package, formulas) | {"fastloss.h": h, "__init__.pxd": pxd, "__init__.pyi": stub}


def main(package, folder):
    for name, text in files(Path(package).resolve()).items():
        file = Path(folder, name)
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
