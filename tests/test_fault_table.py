"""Every row of docs/faults.md is shown by a test. `python tests/test_fault_table.py` lists the tests of each row.

A test shows the rows that its name begins with (`test_25_…`, `test_20_to_23_…`) or that its marker names (`fault(52)`). They are
read from the sources: nothing is imported, and a row whose tests need a GPU counts too.
"""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
TABLE = TESTS.parent / "docs" / "faults.md"
MEASURED = {39: "load.py"}  # a benchmark shows it: on a machine that runs other tests no timing holds

NAMED = re.compile(r"test_(\d\d)(?:_to_(\d\d))?_")


def rows():
    """{row: what happens to it} of the table."""
    found = re.findall(r"^\| (\d+) \| (.+?) \|", TABLE.read_text(encoding="utf-8"), re.MULTILINE)
    return {int(number): event for number, event in found}


def marked(decorator):
    """The rows that a decorator `pytest.mark.fault(…)` names."""
    if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.fault":
        return [ast.literal_eval(row) for row in decorator.args]
    return []


def shown_by(function):
    """The rows that a test shows, by its name and its markers."""
    named = NAMED.match(function.name)
    found = range(int(named[1]), int(named[2] or named[1]) + 1) if named else ()
    return {*found, *(row for decorator in function.decorator_list for row in marked(decorator))}


def scan(folder):
    """{row: the tests that show it}."""
    found = defaultdict(list)
    for path in sorted(folder.glob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                for row in shown_by(node):
                    found[row].append(f"{path.name}::{node.name}")
    return found


@pytest.fixture(scope="module")
def shown():
    return scan(TESTS)


def test_the_table_is_numbered_without_gaps():
    assert list(rows()) == list(range(1, len(rows()) + 1))
    assert len(rows()) >= 60


@pytest.mark.parametrize("row", rows())
def test_a_test_shows_the_row(shown, row):
    if row in MEASURED:
        assert (TESTS.parent / "benchmarks" / MEASURED[row]).exists()
    else:
        assert shown[row], f"no test shows row {row}: {rows()[row]}"


def test_no_test_shows_a_row_that_is_not_there(shown):
    assert set(shown) <= set(rows())


def test_the_scan_sees_names_and_markers(tmp_path):
    (tmp_path / "test_some.py").write_text(
        "@pytest.mark.fault(52, 54)\n@pytest.mark.parametrize('k', [1])\ndef test_anything(k): ...\n"
        "def test_20_to_22_hard_rows(): ...\n"
        "def test_2_is_no_row(): ...\n"
        "def helper_41_(): ...\n"
        "@pytest.mark.slow\ndef test_41_ctrl_c(): ...\n"
    )
    one = "test_some.py::test_anything"
    assert scan(tmp_path) == {
        52: [one],
        54: [one],
        **{row: ["test_some.py::test_20_to_22_hard_rows"] for row in (20, 21, 22)},
        41: ["test_some.py::test_41_ctrl_c"],
    }


if __name__ == "__main__":
    tests = scan(TESTS)
    for number, event in rows().items():
        print(f"{number}. {event}", *tests[number], sep="\n    ")
