"""What README and docs say is so. `python tests/test_docs.py --update` writes README's table of losses anew."""

import re
import sys
from pathlib import Path

import pytest

import fastloss as fl
from fastloss.formula.document import row

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
TABLE = re.compile(r"(?<=<!-- losses -->\n).*?(?=<!-- /losses -->)", re.DOTALL)


def table():
    parts = []
    for family, losses in fl.losses.FAMILIES.items():
        parts += ["", f"**{family}**", "", "| loss | what it is | agrees with |", "|---|---|---|"]
        parts += [row(loss.formula) for loss in losses.values()]
    return "\n".join(parts[1:]) + "\n"


def test_readme_lists_every_loss():
    assert TABLE.search(README.read_text(encoding="utf-8")).group() == table(), "run: python tests/test_docs.py --update"


def blocks():
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_readme_examples_run():
    namespace = {}
    assert len(blocks()) >= 2
    for block in blocks():
        exec(compile(block, "README.md", "exec"), namespace)


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#:]+)\)", README.read_text(encoding="utf-8")))
def test_readme_links_lead_somewhere(link):
    assert (ROOT / link).exists()


def test_readme_names_the_folders_that_are_there():
    layout = README.read_text(encoding="utf-8").split("Where things are")[1].split("```")[1]
    for folder in re.findall(r"^  (\w+)/", layout, re.MULTILINE):
        assert (ROOT / "fastloss" / folder).is_dir(), folder


if __name__ == "__main__" and "--update" in sys.argv:
    README.write_text(TABLE.sub(lambda _: table(), README.read_text(encoding="utf-8")), encoding="utf-8")
