"""What README and docs say is so. `python tests/test_docs.py --update` writes README's tables anew."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastloss as fl
from fastloss.formula.document import row

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
TABLE = {what: re.compile(rf"(?<=<!-- {what} -->\n).*?(?=<!-- /{what} -->)", re.DOTALL) for what in ("losses", "schedules")}


def table_of_losses():
    parts = []
    for family, losses in fl.losses.FAMILIES.items():
        parts += ["", f"**{family}**", "", "| loss | what it is | agrees with |", "|---|---|---|"]
        parts += [row(loss.formula) for loss in losses.values()]
    return "\n".join(parts[1:]) + "\n"


def table_of_schedules():
    parts = ["| schedule | what it is |", "|---|---|"]
    in_order = [schedule for name, schedule in vars(fl.schedules).items() if name in fl.schedules.__all__]
    for schedule in in_order:
        arguments = [
            each.name if each.default is each.empty else f"{each.name}={each.default!r}"
            for each in inspect.signature(schedule).parameters.values()
        ]
        parts.append(
            f"| `{schedule.__name__}({', '.join(arguments)})` | {inspect.cleandoc(schedule.__doc__).splitlines()[0]} |"
        )
    return "\n".join(parts) + "\n"


WRITTEN = {"losses": table_of_losses, "schedules": table_of_schedules}


@pytest.mark.parametrize("what", WRITTEN)
def test_readme_lists_every_one(what):
    text = README.read_text(encoding="utf-8")
    assert TABLE[what].search(text).group() == WRITTEN[what](), "run: python tests/test_docs.py --update"


def blocks(where=r"(?<!<!-- cuda -->\n)"):
    return re.findall(where + r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_readme_examples_run():
    namespace = {}
    assert len(blocks()) >= 2
    for block in blocks():
        exec(compile(block, "README.md", "exec"), namespace)


def test_readme_example_for_cuda_runs():
    pytest.importorskip("numba_cuda")
    (block,) = blocks(r"(?<=<!-- cuda -->\n)")
    # Numba must hear of its simulator before it is imported.
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}
    subprocess.run([sys.executable, "-c", block], env=environment, check=True, timeout=120)


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#:]+)\)", README.read_text(encoding="utf-8")))
def test_readme_links_lead_somewhere(link):
    assert (ROOT / link).exists()


def test_readme_names_the_folders_that_are_there():
    layout = README.read_text(encoding="utf-8").split("Where things are")[1].split("```")[1]
    for folder in re.findall(r"^  (\w+)/", layout, re.MULTILINE):
        assert (ROOT / "fastloss" / folder).is_dir(), folder


if __name__ == "__main__" and "--update" in sys.argv:
    updated = README.read_text(encoding="utf-8")
    for what, write in WRITTEN.items():
        updated = TABLE[what].sub(write().replace("\\", r"\\"), updated)
    README.write_text(updated, encoding="utf-8")
