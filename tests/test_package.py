"""The package as a whole: layers, imports, documentation, completeness of the registries, types."""

import ast
import copy
import doctest
import importlib
import importlib.util
import inspect
import pickle
import re
import shutil
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import numpy as np
import pytest

import fastloss as fl
from fastloss import losses, optimizers
from fastloss.formula import document

INSTALLED = Path(fl.__file__).parent
ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "fastloss"

each_loss = pytest.mark.parametrize("name", losses.__all__)
each_optimizer = pytest.mark.parametrize("name", optimizers.__all__)


def python(*arguments, **options):
    """A fresh interpreter's output."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=300, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- layers -----------------------------------------------------------------------------------------------------------------

# Lowest first: a layer imports itself and what stands before it.
LAYERS = [
    "formula",
    "vecmath",
    "interop",
    "_kernels",
    "api",
    "losses",
    "optimizers",
    "state",
    "threads",
    "c_api",
    "math",
    "checking",
    "__init__",
    "information",
    "demo",
    "__main__",
]
ADAPTERS = "adapters"
# May stand at the top of a module of a layer; what is imported inside functions is looked at on use alone.
THIRD_PARTY = {"formula": set(), "vecmath": set(), "losses": set(), "optimizers": set()}


def modules(folder):
    for path in sorted(folder.rglob("*.py")):
        if "__pycache__" not in path.parts:
            parts = path.relative_to(folder).with_suffix("").parts
            yield path, parts


def imports(path, parts):
    """(layer or third-party name, at the module's top, line) of every import, but for those that type checkers alone see."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [n for n in tree.body if not (isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")]
    inside = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef) for n in ast.walk(f)}
    package = ("fastloss", *parts[:-1])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [(alias.name.split("."), None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base += node.module.split(".") if node.module else []
            targets = [(base, alias.name) for alias in node.names]
        else:
            continue
        for base, name in targets:
            full = [*base, name] if name else base
            yield full, id(node) not in inside, node.lineno


def layer_of(full):
    """The layer that an import of ours reaches, for `from . import x` too."""
    if len(full) < 2:
        return "__init__"
    known = {path.stem for path in INSTALLED.glob("*.py")} | {path.name for path in INSTALLED.iterdir() if path.is_dir()}
    return full[1] if full[1] in known else "__init__"


def test_every_module_has_a_layer():
    names = {parts[0] for _, parts in modules(INSTALLED)}
    assert names <= {*LAYERS, ADAPTERS}


def test_nothing_imports_upwards():
    upwards = []
    for path, parts in modules(INSTALLED):
        layer = parts[0]
        if layer == ADAPTERS:
            continue
        for full, _, line in imports(path, parts):
            if full[0] != "fastloss":
                continue
            target = layer_of(full)
            if target == ADAPTERS or LAYERS.index(target) > LAYERS.index(layer):
                upwards.append(f"{path.relative_to(INSTALLED)}:{line} imports {'.'.join(full)}")
    assert not upwards


def test_losses_and_optimizers_do_not_know_each_other():
    for layer, other in (("losses", "optimizers"), ("optimizers", "losses")):
        for path, parts in modules(INSTALLED):
            if parts[0] == layer:
                assert other not in {layer_of(full) for full, _, _ in imports(path, parts) if full[0] == "fastloss"}, path


def test_formulas_import_nothing_but_the_standard_library():
    """At the top of a module; a function may import mpmath on use."""
    for path, parts in modules(INSTALLED):
        allowed = THIRD_PARTY.get(parts[0])
        if allowed is None:
            continue
        for full, top, line in imports(path, parts):
            if full[0] == "fastloss" or full[0] in sys.stdlib_module_names:
                continue
            assert not top or full[0] in allowed, f"{path}:{line} imports {full[0]}"
            assert top or full[0] == "mpmath", f"{path}:{line} imports {full[0]}"


def test_formula_imports_nothing_else_of_ours():
    for path, parts in modules(INSTALLED):
        if parts[0] == "formula":
            assert {layer_of(full) for full, _, _ in imports(path, parts) if full[0] == "fastloss"} <= {"formula"}, path


def test_the_scan_sees_imports():
    source = "import os\nfrom . import graph\nfrom ..losses import x\nfrom .. import api\ndef f():\n    import numpy as np\n"
    path = Path(pytest.importorskip("tempfile").mkdtemp()) / "m.py"
    path.write_text(source)
    found = list(imports(path, ("formula", "m")))
    assert [".".join(full) for full, _, _ in found] == [
        "os",
        "fastloss.formula.graph",
        "fastloss.losses.x",
        "fastloss.api",
        "numpy",
    ]
    assert [top for _, top, _ in found] == [True, True, True, True, False]
    assert [layer_of(full) for full, _, _ in found[1:4]] == ["formula", "losses", "api"]


# --- what an import costs ---------------------------------------------------------------------------------------------------

LOADED = "import sys, numpy; before = set(sys.modules); import fastloss; print(*sorted(set(sys.modules) - before))"


def test_import_takes_numpy_and_the_standard_library_alone():
    added = {name.partition(".")[0] for name in python("-P", "-c", LOADED).split()}
    assert "fastloss" in added
    others = {name for name in added - {"fastloss"} if name.lstrip("_") not in sys.stdlib_module_names | {""}}
    others -= sys.stdlib_module_names
    # Cython's runtime enters modules of its own into sys.modules
    others = {name for name in others if not re.fullmatch(r"_?cython_(runtime|[\d_]+(abi\w*)?)", name)}
    assert others - {"tiles"} == set()  # see below
    everything = set(python("-P", "-c", "import sys, fastloss; print(*sys.modules)").split())
    assert not everything & {
        "numba",
        "scipy",
        "torch",
        "mpmath",
        "ml_dtypes",
        "pandas",
        "sklearn",
        "llvmlite",
        "asyncio",
        "unittest",
    }


def test_import_takes_no_name_at_the_top():
    """A user's own module of that name would not be found any more."""
    assert python("-P", "-c", "import sys, fastloss; print('tiles' in sys.modules)").split() == ["False"]


def test_import_does_not_write_and_works_without_a_home(tmp_path):
    before = set(tmp_path.iterdir())
    python("-P", "-B", "-c", "import fastloss", cwd=tmp_path, env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"})
    assert set(tmp_path.iterdir()) == before


def test_import_is_silent_and_optimised_python_is_fine():
    assert python("-P", "-W", "error", "-OO", "-c", "import fastloss as fl; print(fl.huber([0.5], [1.0]))").split() == ["0.125"]


# --- the build --------------------------------------------------------------------------------------------------------------


GENERATE = SOURCE / "_kernels" / "build" / "generate.py"
needs_source = pytest.mark.skipif(not GENERATE.exists(), reason="no source folder")


def written(folder):
    """{file: text} of what the build has written into the folder."""
    return {file.name: file.read_text(encoding="utf-8") for file in sorted(folder.iterdir())}


@needs_source
def test_the_build_runs_in_a_bare_interpreter(tmp_path):
    """generate.py with neither site-packages nor environment: the standard library is all there is."""
    program = f"""
import runpy, sys
sys.argv = ["generate.py", {str(SOURCE)!r}, {str(tmp_path)!r}]
sys.path.insert(0, {str(GENERATE.parent)!r})
sys.dont_write_bytecode = True
runpy.run_path({str(GENERATE)!r}, run_name="__main__")
bad = {{"numpy", "numba", "mpmath", "scipy", "Cython"}} & set(sys.modules)
assert not bad, bad
ours = {{"fastloss", "__main__", "__mp_main__", "header", "sources", "units"}}
print(*sorted({{m.partition(".")[0] for m in sys.modules}} - set(sys.stdlib_module_names) - ours))
"""
    assert python("-I", "-S", "-c", program).split() == []
    texts = written(tmp_path)
    for family, members in losses.FAMILIES.items():
        for name in members:
            if name not in losses.BLOCKS:
                text = texts[f"losses_{family}.c"]
                assert f"static void {name}_vgh_" in text or f"static void {name}__" in text
    stub = ast.parse(texts["__init__.pyi"])
    names = {node.target.id for node in stub.body if isinstance(node, ast.AnnAssign)}
    assert {"FAMILIES", "huber"} <= names


@needs_source
def test_the_build_writes_the_same_text_twice(tmp_path):
    texts = []
    for seed in ("1", "2"):
        out = tmp_path / seed
        out.mkdir()
        python("-S", "-B", str(GENERATE), str(SOURCE), str(out), env={"PYTHONHASHSEED": seed})
        texts.append(written(out))
    assert texts[0] == texts[1]


@needs_source
def test_a_changed_formula_changes_its_own_family_alone(tmp_path):
    """What the build need not compile again it does not write again."""
    source, out = tmp_path / "fastloss", tmp_path / "out"
    shutil.copytree(SOURCE, source, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    out.mkdir()
    run = ("-S", "-B", str(source / "_kernels" / "build" / "generate.py"), str(source), str(out))
    python(*run)
    before = {file.name: file.stat().st_mtime_ns for file in out.iterdir()}
    formulas = source / "losses" / "regression.py"
    formulas.write_text(formulas.read_text(encoding="utf-8").replace("0.5 * a * a", "0.75 * a * a"), encoding="utf-8")
    python(*run)
    changed = {file.name for file in out.iterdir() if file.stat().st_mtime_ns != before[file.name]}
    assert changed == {"losses_regression.c", "fastloss.h"}


ADDED = {
    "losses/regression.py": """

@loss(scale=Positive(1.0), reference="nobody")
def added_loss(pred, target, scale):
    \"\"\"Added.\"\"\"
    return scale * absolute(pred - target)
""",
    "losses/embeddings.py": """

@row_loss(reference="nobody")
def added_row_loss(x1, x2):
    \"\"\"Added.\"\"\"
    (gap,) = scaled_squares(x1 - x2)
    return gap.length
""",
    "optimizers/gradient_descent.py": """

@update_rule(lr=NonNegative(0.5), nesterov=Flag(False), weight_decay=Decay(), reference="nobody")
def AddedRule(param, grad, step, lr, nesterov):
    \"\"\"Added.\"\"\"
    return (param - lr * grad,)
""",
}


@needs_source
def test_a_decorator_is_all_that_a_loss_or_a_rule_takes(tmp_path):
    """Kernels, header, stubs and every list of the package follow."""
    source, out = tmp_path / "fastloss", tmp_path / "out"
    shutil.copytree(SOURCE, source, ignore=shutil.ignore_patterns("__pycache__"))
    for file, text in ADDED.items():
        with (source / file).open("a", encoding="utf-8") as end:
            end.write(text)
    out.mkdir()
    python("-S", "-B", str(source / "_kernels" / "build" / "generate.py"), str(source), str(out))
    texts = written(out)
    assert "static void added_loss_vgh_f32(" in texts["losses_regression.c"]
    assert '{"added_row_loss_vgh_along0_f64", ' in texts["losses_embeddings.c"]
    assert (
        "static void AddedRule__nesterov_uniforms(" in texts["optimizers.c"] or '"AddedRule__nesterov_' in texts["optimizers.c"]
    )
    assert "double fastloss_added_loss_grad_f64(double pred, double target, double scale) {" in texts["fastloss.h"]
    assert "added_loss: _added_loss" in texts["__init__.pyi"] and "class _added_row_loss(RowLoss)" in texts["__init__.pyi"]
    assert "class AddedRule(Optimizer):" in texts["_rules.pyi"]
    program = """
import fastloss as fl
from fastloss import losses, optimizers
assert isinstance(fl.added_loss, fl.Loss) and fl.added_loss is losses.FAMILIES["regression"]["added_loss"]
assert isinstance(fl.added_row_loss, fl.RowLoss) and issubclass(fl.AddedRule, fl.Optimizer)
assert "added_loss" in losses.POINTWISE and "added_row_loss" in losses.ROWS and "AddedRule" in optimizers.__all__
assert {"added_loss", "added_row_loss", "AddedRule"} <= {*fl.__all__} & {*dir(fl)}
assert fl.AddedRule([]).param_groups[0]["lr"] == 0.5
print(fl.__file__)
"""
    assert python("-c", program, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}).strip() == str(source / "__init__.py")


def test_what_is_imported_on_first_use_is_what_type_checkers_see():
    tree = ast.parse(Path(fl.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING")
    assert {alias.name for node in block.body for alias in node.names} == {*fl._LAZY, *fl._MODULES}


# --- documentation ----------------------------------------------------------------------------------------------------------


def test_all_is_what_there_is():
    assert len(set(fl.__all__)) == len(fl.__all__)
    for name in fl.__all__:
        assert getattr(fl, name) is not None
    for name in losses.__all__:
        assert getattr(fl, name) is getattr(losses, name)
        assert name in fl.__all__
    for name in optimizers.__all__:
        assert getattr(fl, name) is getattr(optimizers, name)
    assert sorted(losses.__all__) == sorted(name for family in losses.FAMILIES.values() for name in family)


def sections(text):
    """{title: lines} of a numpydoc text."""
    parts = re.split(r"^(\w[\w ]*)\n-{3,}$", textwrap.dedent(text), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@each_loss
def test_docstrings_of_losses_are_numpydoc(name):
    loss = getattr(fl, name)
    doc = loss.__doc__
    signature, rest = doc.split("\n\n", 1)
    assert signature.startswith(f"{name}(")
    summary = rest.split("\n\n")[0]
    assert summary.endswith(".")
    assert "\n" not in summary, "the first line of a formula's docstring is one sentence"
    assert ".. math::" in doc
    found = sections(doc)
    assert list(found) == ["Parameters", "Returns", "Raises", "Examples", "References"]
    for argument in (*loss.formula.inputs, *loss.formula.parameters):
        assert re.search(rf"^{argument} : .+\n    \S", found["Parameters"], re.M), argument
        assert re.search(rf"\b{argument}\b", signature), argument
    for domain in loss.formula.parameters.values():
        assert f"default {domain.default}" in found["Parameters"]
        assert str(domain)[1:] in found["Parameters"]
    assert {"ValueError", "TypeError"} <= set(found["Raises"].split())
    assert found["References"].strip().startswith(".. [1] ")
    assert len(found["References"].strip()) > len(".. [1] ") + 10


@each_optimizer
def test_docstrings_of_optimizers_are_numpydoc(name):
    cls = getattr(fl, name)
    found = sections(cls.__doc__)
    assert list(found) == ["Parameters", "Examples", "References"]
    assert re.match(r".+\.", cls.__doc__)
    for argument, domain in cls.rule.hyperparameters.items():
        assert re.search(rf"^{argument} : .+default {re.escape(str(domain.default))}\n    \S", found["Parameters"], re.M), (
            argument
        )


def test_every_public_symbol_is_documented():
    missing = []
    for name in fl.__all__:
        symbol = getattr(fl, name)
        if not (symbol.__doc__ or "").strip():
            missing.append(name)
        members = vars(symbol).items() if inspect.isclass(symbol) else ()
        if inspect.isclass(symbol) or isinstance(symbol, fl.Loss):
            members = inspect.getmembers(type(symbol) if isinstance(symbol, fl.Loss) else symbol, inspect.isfunction)
        for member, function in members:
            if not member.startswith("_") and callable(function) and not (function.__doc__ or "").strip():
                missing.append(f"{name}.{member}")
    assert not missing
    for path, parts in modules(INSTALLED):
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), "/".join(parts)


def run_doctest(text, name):
    found = doctest.DocTestParser().get_doctest(text, {"np": np}, name, None, 0)
    assert found.examples, name
    out = []
    result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(found, out=out.append)
    assert result.failed == 0, "".join(out)


@each_loss
def test_examples_of_losses_run(name):
    run_doctest(getattr(fl, name).__doc__, name)


@each_optimizer
def test_examples_of_optimizers_run(name):
    run_doctest(getattr(fl, name).__doc__, name)


def test_doctest_would_notice():
    with pytest.raises(AssertionError):
        run_doctest(fl.huber.__doc__.replace("1.3125", "1.3126"), "huber")


# --- completeness -----------------------------------------------------------------------------------------------------------


@each_loss
def test_every_loss_has_a_source_and_peers(name):
    formula = getattr(fl, name).formula
    assert len(formula.reference) > 10
    assert re.search(r"\d{4}|:", formula.reference), "a year or an address"
    assert formula.peers
    for peer, expression in formula.peers.items():
        assert peer in ("torch", "optax", "scipy", "sklearn", "torchvision", "closed_form", "numpy"), peer
        compile(expression, name, "eval")
    row = document.row(formula)  # tests/test_docs.py looks for it in README.md
    assert row.startswith(f"| `{name}(")
    assert row.count("|") == 4


@each_optimizer
def test_every_optimizer_has_a_source(name):
    assert re.search(r"\d{4}", getattr(fl, name).rule.reference)


def benchmark(module):
    folder = ROOT / "benchmarks"
    if not folder.is_dir():
        pytest.skip("no benchmarks here")
    spec = importlib.util.spec_from_file_location(
        "suite", folder / "suite" / "__init__.py", submodule_search_locations=[str(folder / "suite")]
    )
    if "suite" not in sys.modules:
        sys.modules["suite"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["suite"])
    return importlib.import_module(f"suite.{module}")


def parametrised(module):
    """The values of the parameter `loss` or `optimizer` of every benchmark class that has one."""
    for _, cls in inspect.getmembers(benchmark(module), inspect.isclass):
        names = getattr(cls, "param_names", [])
        for kind in ("loss", "optimizer"):
            if kind in names:
                yield cls.__name__, list(cls.params[names.index(kind)])


def test_every_loss_and_every_optimizer_has_its_benchmarks():
    for module, registry in (("losses", losses.__all__), ("imports", losses.__all__), ("optimizers", optimizers.__all__)):
        rows = list(parametrised(module))
        assert rows, module
        for name, values in rows:
            assert values == list(registry), name


def test_extras_that_are_named_are_there():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    files = [path for folder in ("fastloss", "docs", "examples", "benchmarks") for path in (ROOT / folder).rglob("*.*")]
    files = [path for path in [*files, *ROOT.glob("*.md")] if path.suffix in (".py", ".pyx", ".pxi", ".md", ".rst")]
    named = {}
    for path in files:
        for found in re.findall(r"fastloss\[([\w,]+)\]|\bextra ``(\w+)``", path.read_text(encoding="utf-8")):
            named |= dict.fromkeys("".join(found).split(","), path)
    assert {"state", "cuda", "demo"} <= set(named)
    assert not {extra: str(path) for extra, path in named.items() if extra not in extras}


@each_loss
def test_every_loss_can_be_benchmarked(name):
    """The benchmark's arrays lie inside the formula's domains, in every dtype: nothing raises."""
    inputs = benchmark("inputs").inputs
    loss = getattr(fl, name)
    for dtype in ("float16", "float32", "float64"):
        value = loss(*inputs(loss, 100, dtype))
        assert np.isfinite(value)


# --- objects ----------------------------------------------------------------------------------------------------------------


@each_loss
def test_losses_are_pickled_by_name(name):
    loss = getattr(fl, name)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(loss, protocol)) is loss
    assert copy.copy(loss) is loss
    assert copy.deepcopy([loss])[0] is loss
    assert loss.__name__ == loss.__qualname__ == name
    assert getattr(importlib.import_module(loss.__module__), name) is loss


@each_loss
def test_repr_of_losses(name):
    loss = getattr(fl, name)
    text = repr(loss)
    assert text.startswith(f"<loss {name}({', '.join(loss.formula.inputs)}")
    for argument, domain in loss.formula.parameters.items():
        assert f"{argument}={domain.default!r}" in text


def test_losses_are_found_in_another_process():
    code = "import pickle, sys; print(pickle.loads(sys.stdin.buffer.read()).__name__)"
    done = subprocess.run([sys.executable, "-P", "-c", code], input=pickle.dumps(fl.huber), capture_output=True, check=True)
    assert done.stdout.split() == [b"huber"]


def test_version():
    from importlib import metadata

    assert metadata.version("fastloss") == fl.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", fl.__version__)


# --- types ------------------------------------------------------------------------------------------------------------------


def test_typing_files_are_installed():
    assert (INSTALLED / "py.typed").exists()
    assert (INSTALLED / "losses" / "__init__.pyi").exists()
    assert (INSTALLED / "optimizers" / "_rules.pyi").exists()
    assert (INSTALLED / "_kernels" / "cpu" / "engine.pyi").exists()


def test_headers_are_installed():
    names = {"fastloss.h", "fastloss_api.h", "fastloss_machine.h"}
    assert {path.name for path in (INSTALLED / "include").iterdir()} == names
    assert (INSTALLED / "__init__.pxd").exists()
    assert (INSTALLED / "c_api.pxd").exists()


def test_the_build_files_are_not_installed():
    assert not (INSTALLED / "_kernels" / "build").exists()
    names = {path.name for path in (INSTALLED / "_kernels" / "cpu").iterdir()}
    assert not names & {
        "line.pxi",
        "c_calls.pxi",
        "meson.build",
        "engine.pyx",
        "driver.pxi",
        "sweep.pxi",
        "segments.pxi",
        "update_tiles.pxi",
        "step_options.pxi",
        "atomic.pyx",
        "pool.c",
        "tiles.c",
        "tilework.c",
    }


def test_the_stub_says_what_the_registry_says():
    stub = ast.parse((INSTALLED / "losses" / "__init__.pyi").read_text(encoding="utf-8"))
    declared = {node.target.id for node in stub.body if isinstance(node, ast.AnnAssign)} - {
        "FAMILIES",
        "POINTWISE",
        "ROWS",
        "BLOCKS",
    }
    assert declared == set(losses.__all__)
    classes = {node.name.removeprefix("_"): node for node in stub.body if isinstance(node, ast.ClassDef)}
    for name in losses.__all__:
        formula = getattr(fl, name).formula
        methods = [node for node in classes[name].body if isinstance(node, ast.FunctionDef)]
        assert {m.name for m in methods} == {"__call__", "value_and_grad", "value_grad_hess", "grad_and_hess", "grad"}
        for method in methods:
            assert [a.arg for a in method.args.args] == ["self", *formula.inputs]
            assert set(formula.parameters) <= {a.arg for a in method.args.kwonlyargs}
        # and the methods of the class take every keyword that the stub promises
        for method in methods:
            taken = set(inspect.signature(getattr(fl.Loss, method.name)).parameters)
            assert {a.arg for a in method.args.kwonlyargs} - {*formula.parameters, *formula.options} <= taken


def test_the_stub_of_optimizers_says_what_their_rules_say():
    stub = ast.parse((INSTALLED / "optimizers" / "_rules.pyi").read_text(encoding="utf-8"))
    classes = {node.name: node for node in stub.body if isinstance(node, ast.ClassDef)}
    assert set(classes) == set(optimizers.__all__)
    options = set(inspect.signature(fl.Optimizer.__init__).parameters) - {"self", "params", "hyperparameters"}
    for name, found in classes.items():
        (method,) = found.body
        assert [argument.arg for argument in method.args.args] == ["self", "params"]
        assert {argument.arg for argument in method.args.kwonlyargs} == {*getattr(fl, name).rule.hyperparameters, *options}
        assert [base.id for base in found.bases] == [base.__name__ for base in getattr(fl, name).__bases__]


GOOD = """
import numpy as np
import fastloss as fl

pred, target = np.ones(3), np.zeros(3)
value, grad = fl.huber.value_and_grad(pred, target, delta=2.0)
number: float = value
total: float = fl.huber(pred, target, reduction="sum") + number
elements = fl.huber(pred, target, reduction="none")
elements.sum()
loss, gradient, hessian = fl.gamma_nll.value_grad_hess(pred, target)
(by_mean, by_variance) = fl.gaussian_nll.grad(pred, target, np.ones(3))
optimizer = fl.AdamW([pred], lr=1e-3, weight_decay=0.1)
optimizer.step([np.ones(3)])
fl.SGD(pred, lr=fl.schedules.cosine(1e-3, steps=10), momentum=0.9, nesterov=True, rounding="stochastic", seed=3)
fl.Sophia(pred, betas=(0.9, 0.95)).update_hessian(pred)
fl.ScheduleFreeSGD(pred, warmup_steps=100).evaluation_params()
state = optimizer.state_dict()
result: fl.StepResult = fl.LossScaler(2.0**10).step(fl.Lookahead(optimizer, k=3), [np.ones(3)], max_norm=1.0)
norm: float = fl.SAM(optimizer, rho=0.1, adaptive=True).ascend([np.ones(3)]) + fl.clip_grad_norm([np.ones(3)], 1.0, norm_type=1)
average = fl.WeightAverage({"w": pred}, decay=0.9)
with average.swap():
    average.state_dict()["updates"]
loss, gradients = fl.linear_cross_entropy.value_and_grad(np.ones((3, 2)), np.ones((4, 2)), [0, 1, 3], label_smoothing=0.1)
by_x, by_weight = gradients
first: int = fl.kmeans.assign(np.ones((3, 2)), np.ones((4, 2)))[0].item()
schedule = fl.schedules.warmup(fl.schedules.cosine(1e-3, steps=10, final=1e-5), steps=np.arange(5).item(3))
rate: float = fl.schedules.sequential([schedule, lambda step: 0.1 / (step + 1)], [20])(np.int64(7))
lower: float = fl.schedules.ReduceOnPlateau(rate, mode="max").update(loss)
@fl.loss(c=fl.Positive(1.0), target=fl.Label())
def own(pred, target, c):
    return c * fl.math.softplus(fl.math.where(target > 0, -pred, pred))
passed: bool = bool(fl.check_loss(own, quiet=True, c=2.0)) and own.value_and_grad(pred, target)[0] > 0
@fl.update_rule(lr=fl.Positive(0.1))
def Plain(param, grad, lr):
    return (param - lr * grad,)
Plain(pred, lr=0.5).step(pred)
step = fl.AdamW.jit.step(1.0, 0.5, 0.0, 0.0, 1)
scalar: float = fl.huber.jit.grad(0.5, 1.0)
with fl.threadpool_limits(1):
    threads: int = fl.get_num_threads()
point: fl.LinePoint = fl.line_search(fl.huber, pred, target, direction=pred, step=0.5, delta=2.0)
slope: float = point.slope
model = fl.as_scipy(fl.huber, np.ones((3, 2)), target, l2=0.1, delta=2.0)
value, grad = model.fun_and_grad(model.start)
rho = fl.as_least_squares_loss(fl.cauchy, c=2.0)
folder: str = fl.get_include()
address: int = fl.c_api.ADDRESS
"""
BAD = {
    "a wrong keyword": "fl.huber(pred, target, detla=2.0)",
    "a keyword of another loss": "fl.squared_error(pred, target, delta=2.0)",
    "a hyperparameter of the wrong type": "fl.huber(pred, target, delta='2')",
    "a missing input": "fl.huber(pred)",
    "an unknown reduction": "fl.huber(pred, target, reduction='average')",
    "an unknown loss": "fl.hubert(pred, target)",
    "an unknown optimizer": "fl.AdmaW(pred)",
    "a wrong keyword of an optimizer": "fl.AdamW(pred, learning_rate=1e-3)",
    "a keyword of another optimizer": "fl.SGD(pred, betas=(0.9, 0.99))",
    "an optimizer's hyperparameter of the wrong type": "fl.AdamW(pred, lr='1e-3')",
    "one number for two": "fl.AdamW(pred, betas=0.9)",
    "what this optimizer cannot do": "fl.AdamW(pred).update_hessian(pred)",
    "text for a number": "number: str = fl.huber(pred, target)",
    "grad_out of the value alone": "fl.huber(pred, target, grad_out=pred)",
    "the norm of nothing": "fl.clip_grad_norm(pred)",
    "an optimizer's option for the one around it": "fl.Lookahead(fl.SGD(pred), lr=0.1)",
    "text for a scale": "fl.LossScaler('auto')",
    "a schedule without its steps": "fl.schedules.cosine(1e-3)",
    "a schedule of text": "fl.schedules.cosine('1e-3', steps=10)",
    "a schedule's steps without their name": "fl.schedules.cosine(1e-3, 10)",
    "a schedule that is changed": "fl.schedules.constant(1e-3).value = 1e-2",
    "a list where a schedule belongs": "fl.schedules.warmup([1e-3], steps=10)",
    "a line without its direction": "fl.line_search(fl.huber, pred, target)",
    "text for a step": "fl.line_search(fl.huber, pred, target, direction=pred, step='1')",
    "a penalty of text": "fl.as_scipy(fl.huber, pred, target, l2='0.1')",
    "a check of what is no loss": "fl.check_loss(np.square)",
    "a domain of text": "fl.Positive('1')",
    "an unknown option of a check": "fl.check_loss(fl.huber, quiet='yes')",
    "centers to assign to that are none": "fl.center.assign(pred, target)",
}


def test_mypy_takes_right_programs_and_refuses_wrong_ones(tmp_path):
    pytest.importorskip("mypy")
    head = "import numpy as np\nimport fastloss as fl\npred, target = np.ones(3), np.zeros(3)\n"
    lines = GOOD.strip().splitlines()
    (tmp_path / "good.py").write_text("\n".join(lines) + "\n")
    (tmp_path / "bad.py").write_text(head + "\n".join(BAD.values()) + "\n")
    mypy = [
        sys.executable,
        "-m",
        "mypy",
        "--cache-dir=cache",
        "--no-error-summary",
        "--follow-imports=silent",
        "good.py",
        "bad.py",
    ]
    # In a folder of its own: in a checkout it would find the sources, which have no stub.
    done = subprocess.run(mypy, cwd=tmp_path, capture_output=True, text=True, check=False)
    report = done.stdout
    assert not done.stderr
    assert not [line for line in report.splitlines() if "good.py" in line], report
    refused = {int(m[1]) for m in re.finditer(r"bad\.py:(\d+): error", report)}
    missed = [case for k, case in enumerate(BAD) if k + 4 not in refused]
    assert not missed, report
