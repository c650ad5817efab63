"""The emitted text, against tests/golden: a change of the compiler, or of one of these formulas, shows what it does to kernels.

Where a change is meant, write the files anew and read their difference: `python tests/test_emit.py --update`.
"""

import ast
import re
import sys
from pathlib import Path

import pytest
import test_rows

import fastloss as fl
import fastloss.vecmath
from fastloss.formula import F32, F64, PRECISIONS, VECTOR_FUNCTIONS, WANTS, c, python

GOLDEN = Path(__file__).parent / "golden"


def _formula(name):
    found = getattr(fl, name)
    return getattr(found, "formula", None) or found.rule


def _default_variant(formula):
    values = {name: domain.default for name, domain in formula.parameters.items()}
    return formula.trace(formula.choice(values))


def _kernel(name, suffix, roles, precision):
    formula = _formula(name)
    traced = _default_variant(formula)
    roles = list(traced.outputs) if roles is None else roles
    return c.kernel_text(traced, suffix, roles, precision, formula.source, formula.in_place)


def _uniforms(name):
    formula = _formula(name)
    return c.uniforms_text(_default_variant(formula), formula.source, F64)


def _vector(name):
    definition = VECTOR_FUNCTIONS[name]
    return "\n\n\n".join(c.function_text(definition.trace(p), p, definition.source) for p in PRECISIONS)


def _python(name, want):
    formula = _formula(name)
    return python.variant_text(_default_variant(formula), formula.roles(want), f"{name}_{want}", formula.source)


def _c(name):
    formula = _formula(name)
    return "\n\n".join(text for p in PRECISIONS for _, _, text in c.loss_texts(formula, F64, p))


TEXTS = {
    "huber_vgh_f32": lambda: _kernel("huber", "vgh", _formula("huber").roles("vgh"), F32),
    "huber_vgh_f64": lambda: _kernel("huber", "vgh", _formula("huber").roles("vgh"), F64),
    "huber_uniforms": lambda: _uniforms("huber"),
    "huber_c": lambda: _c("huber"),
    "huber_python": lambda: _python("huber", "vgh"),
    "AdamW_step_f32": lambda: _kernel("AdamW", "step", None, F32),
    "AdamW_step_f64": lambda: _kernel("AdamW", "step", None, F64),
    "AdamW_uniforms": lambda: _uniforms("AdamW"),
    "LAMB_fold_f32": lambda: _kernel("LAMB", "fold", ["squared_0", "squared_1"], F32),
    "LAMB_uniforms": lambda: _uniforms("LAMB"),
    "sigmoid": lambda: _vector("sigmoid"),
    "cross_entropy_rows": lambda: test_rows.text_of_cross_entropy().rstrip("\n"),
}


def text_of(name):
    """The text, without the line numbers of the formulas' files, which other formulas move."""
    return re.sub(r"((?:#|/\*) \S+\.py):\d+", r"\1", TEXTS[name]()) + "\n"


@pytest.mark.parametrize("name", TEXTS)
def test_the_text_is_the_golden_one(name):
    golden = (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")
    assert text_of(name) == golden, "if this is meant: python tests/test_emit.py --update"


def test_there_are_no_other_golden_files():
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(TEXTS)


# --- what a person would have written ---------------------------------------------------------------------------------------


def every_formula():
    for name in (*fl.losses.POINTWISE, *fl.optimizers.__all__):
        yield name, _formula(name)


def every_kernel(precision):
    """(name, text) of every kernel that the build holds."""
    for _, formula in every_formula():
        for choice in formula.choices():
            traced = formula.trace(choice)
            for suffix, roles in formula.passes(traced):
                yield traced.name, c.kernel_text(traced, suffix, roles, precision, formula.source, formula.in_place)


def test_the_text_names_the_formulas_file_and_line():
    for name, formula in every_formula():
        path, line = formula.source.rsplit(":", 1)
        source = Path(sys.modules[formula.function.__module__].__file__)
        assert source.as_posix().endswith(path)
        # the line of the first decorator or of the def
        nearby = "".join(source.read_text(encoding="utf-8").splitlines(keepends=True)[int(line) - 1 : int(line) + 40])
        assert re.search(rf"def {name}\(", nearby), name
        assert _kernel(name, "x", None, F32).startswith(f"/* {formula.source} */\n")


def test_every_literal_of_a_float32_kernel_is_float32():
    """A single double constant halves a kernel's speed: every number stands behind a cast, or is a count."""
    number = re.compile(r"(?<![\w.\])])(\d+\.\d*(?:e[+-]?\d+)?|\d+e[+-]?\d+|INFINITY|NAN)")
    for name, text in every_kernel(F32):
        body = text[text.index("static void") :]
        assert "double" not in body.replace("const double *uniforms", ""), name
        assert not number.findall(re.sub(r"\(float\)-?(\d[\d.e+-]*|INFINITY|NAN)", "", body)), name
    texts = [c.function_text(d.trace(F32), F32, d.source) for d in VECTOR_FUNCTIONS.values()]
    for text in texts:
        assert "double" not in text
        assert not number.findall(re.sub(r"\(float\)-?(\d[\d.e+-]*|INFINITY|NAN)", "", text.split("\n", 1)[1]))
    # and the pattern does find one
    assert number.findall("t0 = 0.5 * x")
    assert not number.findall("t0 = x1 * uniforms[3]")


def test_kernels_hold_no_branches_and_no_work_done_twice():
    for name, text in every_kernel(F64):
        lines = text.splitlines()
        assert not re.search(r"\b(if|while|and|or|not|True|False|None)\b", text.split("\n", 1)[1]), name
        assigned = re.findall(r"^        (t\d+) = (.+)$", text, re.M)
        expressions = [expression for _, expression in assigned]
        assert len(set(expressions)) == len(expressions), name
        used = "\n".join(lines)
        for local, _ in assigned:
            assert len(re.findall(rf"\b{local}\b", used)) >= 3, (name, local)  # declared, set, used


def test_every_pass_holds_only_what_it_needs():
    """The pass for the value alone neither declares nor writes the others' outputs."""
    formula = _formula("huber")
    traced = _default_variant(formula)
    for want in WANTS:
        roles = formula.roles(want)
        text = c.kernel_text(traced, want, roles, F32, formula.source)
        for role in ("value", "grad_pred", "hess_pred"):
            assert (f"{role}[i] = " in text) == (role in roles)


def test_an_update_is_computed_before_it_is_written():
    """In place, an output's array may be another output's input."""
    for precision in PRECISIONS:
        for name in fl.optimizers.__all__:
            rule = _formula(name)
            for choice in rule.choices():
                traced = rule.trace(choice)
                suffix, roles = rule.passes(traced)[0]
                text = c.kernel_text(traced, suffix, roles, precision, rule.source, True)
                loop = text.split("i < count; i++) {\n")[1].removesuffix("\n    }\n}").splitlines()
                writes = [k for k, line in enumerate(loop) if re.match(r"\s+\w+\[i\] = ", line)]
                assert len(writes) == len(roles)
                assert writes == list(range(len(loop) - len(writes), len(loop)))
                written = set()
                for k in writes:
                    target, expression = loop[k].strip().split(" = ", 1)
                    read = set(re.findall(r"\w+\[i\]", expression))
                    assert not read & written, (traced.name, loop[k])
                    written.add(target)


def test_the_python_text_is_python():
    for name, formula in every_formula():
        if formula.in_place:
            continue
        for choice in formula.choices():
            traced = formula.trace(choice)
            for want in WANTS:
                (function,) = ast.parse(python.variant_text(traced, formula.roles(want), name)).body
                assert isinstance(function, ast.FunctionDef)
                assert [a.arg for a in function.args.args][: len(formula.inputs)] == list(formula.inputs)


def test_texts_do_not_depend_on_the_run():
    """The order of nodes and names comes from the formula, not from addresses or hashes."""
    for name in TEXTS:
        assert text_of(name) == text_of(name)


if __name__ == "__main__":
    if sys.argv[1:] != ["--update"]:
        sys.exit(__doc__)
    GOLDEN.mkdir(exist_ok=True)
    for stale in GOLDEN.glob("*.txt"):
        stale.unlink()
    for golden_name in TEXTS:
        (GOLDEN / f"{golden_name}.txt").write_text(text_of(golden_name), encoding="utf-8")
