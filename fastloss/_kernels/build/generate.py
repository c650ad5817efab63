"""Write what the build makes of the formulas: units of kernels, their layouts, the C header, type stubs.

Run by the build with nothing but the standard library: `python generate.py PACKAGE FOLDER`. A file whose text has not changed is
left as it is, so that nothing is compiled again that need not be.
"""

import importlib
import sys
import types
from pathlib import Path


def import_formulas(package):
    """The built-in formulas, as their decorators enter them; `fastloss` itself would ask for the compiled core."""
    for name in ("fastloss", "fastloss.optimizers"):
        bare = types.ModuleType(name)
        bare.__path__ = [str(package.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = bare
    for name in ("vecmath", "losses", "optimizers._rules"):
        importlib.import_module(f"fastloss.{name}")
    from fastloss.formula.registry import FORMULAS

    return list(FORMULAS.values())


def kernel_files(formulas):
    """{file: text} of the units, of the list of them, and of the layouts."""
    from units import Unit

    made = {name: Unit(name) for name in unit_names(formulas)}
    for formula in formulas:
        if formula.has_kernels:
            made[unit_of(formula)].enter_formula(formula)
    made["vecmath"].enter_primitives()
    rows = [f"    {name!r}: {layout!r},\n" for unit in made.values() for name, layout in unit.layouts.items()]
    return {f"{name}.c": unit.text for name, unit in made.items()} | {
        "units.h": "".join(f"FASTLOSS_UNIT({name})\n" for name in made),
        "layouts.py": f'"""{LAYOUTS}"""\n\nLAYOUTS = {{\n{"".join(rows)}}}\n',
    }


LAYOUTS = "What the engine is told of row formulas, and of update rules that look at whole tensors; written by the build."


def unit_of(formula):
    """One unit for each family of losses, one for all update rules."""
    _, folder, family = formula.module.split(".")
    return folder if folder == "optimizers" else f"{folder}_{family}"


def unit_names(formulas):
    return [*dict.fromkeys(unit_of(formula) for formula in formulas if formula.has_kernels), "vecmath"]


def files(package):
    """{file: text} of all that is written."""
    formulas = import_formulas(package)
    from header import header

    from fastloss.formula import Formula, UpdateRule, document

    h, pxd = header([formula for formula in formulas if type(formula) is Formula])
    losses, rules = [], []
    for formula in formulas:
        (rules if isinstance(formula, UpdateRule) else losses).append(formula)
    public = sys.modules["fastloss.optimizers._rules"].__all__
    stubs = {
        "__init__.pyi": document.stub(losses),
        "_rules.pyi": document.optimizer_stub([rule for rule in rules if rule.name in public]),
    }
    return kernel_files(formulas) | {"fastloss.h": h, "__init__.pxd": pxd} | stubs


def main(package, folder):
    for name, text in files(Path(package).resolve()).items():
        file = Path(folder, name)
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
