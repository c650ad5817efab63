"""benchmarks/gpu.py where there is no GPU: what it asks for, what it writes, and that a row that fails stops no other."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
FACTS = {"device": "NVIDIA H100 80GB HBM3", "driver": "1.2", "versions": "fastloss 0"}


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield importlib.import_module("gpu")
    for name in ("gpu", "gpu_table"):
        sys.modules.pop(name)


@pytest.fixture
def tables(gpu):
    return importlib.import_module("gpu_table")


def test_without_a_gpu_it_says_what_is_missing(gpu):
    if not gpu.missing():
        pytest.skip("there is a GPU")
    done = subprocess.run([sys.executable, str(BENCHMARKS / "gpu.py")], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert re.search(r"gpu\.py: needs PyTorch with CUDA, numba-cuda and a GPU; missing: \w", done.stderr)
    assert "Traceback" not in done.stderr


def test_arguments(gpu, capsys):
    assert gpu.parsed([]).names == list(gpu.ROWS)
    assert gpu.parsed(["--only", "AdamW o"]).names == ["AdamW one"]
    assert gpu.parsed(["--quick", "--results", "somewhere"]).results == Path("somewhere")
    with pytest.raises(SystemExit):
        gpu.parsed(["--only", "no such row"])
    assert "must be part of a row's name" in capsys.readouterr().err


def test_every_bar_of_the_issue_has_a_row(gpu):
    rows = " ".join(gpu.ROWS)
    for name in (
        *gpu.LOSSES,
        "8192x32000 float32",
        "8192x32000 bfloat16",
        "4096x128256 bfloat16",
        "AdamW one",
        "AdamW many",
        "AdamW bfloat16",
        "host overhead",
        "same bits",
        "tests",
    ):
        assert name in rows


def test_bytes(tables):
    assert tables.pointwise_bytes(10**8) == 12 * 10**8
    assert tables.rows_bytes(2, 10, 4) == 2 * 80 + 16
    assert tables.rows_bytes(2, 10, 2) == 2 * 40 + 16
    assert tables.adamw_bytes(10, 2) == 140


@pytest.mark.parametrize(
    ("options", "holds", "text"),
    [
        ({"measured": 0.9, "least": 0.85}, True, "| a |  | 0.9 | >= 0.85 | yes |"),
        ({"measured": 0.8, "least": 0.85}, False, "| a |  | 0.8 | >= 0.85 | NO |"),
        ({"measured": 12.5, "most": 15, "unit": " us"}, True, "| a |  | 12.5 us | <= 15 us | yes |"),
        ({"measured": 41.0, "most": 40, "unit": " us"}, False, "| a |  | 41 us | <= 40 us | NO |"),
        ({"measured": float("nan"), "least": 1}, False, "| a |  | nan | >= 1 | NO |"),
        ({"measured": 4.3, "unit": " TB/s"}, None, "| a |  | 4.3 TB/s |  |  |"),
        ({"note": "failed: b|c\nd", "least": 1}, False, "| a |  | failed: b/c d | >= 1 | NO |"),
        ({"note": "skipped: no compiler", "least": 1}, False, "| a |  | skipped: no compiler | >= 1 | skipped |"),
    ],
)
def test_lines(options, holds, text, tables):
    line = tables.Line("a", **options)
    assert line.holds is holds
    assert str(line) == text


def test_the_table_is_whole_after_each_line(tables, tmp_path):
    path = tmp_path / "results" / tables.file_name(FACTS["device"])
    assert path.name == "nvidia-h100-80gb-hbm3.md"
    table = tables.Table(path, FACTS, "2026-01-02")
    table.add(tables.Line("one", measured=2.0, least=1))
    first = path.read_text()
    assert "# NVIDIA H100 80GB HBM3" in first
    assert "2026-01-02" in first
    table.add(tables.Line("two", measured=0.5, least=1))
    assert table.missed == 1
    again = tables.Table(path, FACTS, "2026-01-03")
    again.add(tables.Line("two", measured=3.0, least=1))
    assert again.missed == 0
    assert [line for line in path.read_text().splitlines() if line.startswith(("| one", "| two"))] == [
        "| one |  | 2 | >= 1 | yes |",
        "| two |  | 3 | >= 1 | yes |",
    ]
    other = tables.Table(path, FACTS | {"versions": "fastloss 1"}, "2026-01-04")
    assert not other.lines


def test_a_row_that_fails_stops_no_other(gpu, tables, tmp_path, monkeypatch):
    def fails(device):
        yield tables.Line("before", measured=1.0)
        raise RuntimeError("first line\nout of memory")

    def refuses(device):
        raise TypeError("AdamW: params must be NumPy arrays, got Tensor")
        yield

    monkeypatch.setattr(
        gpu, "ROWS", {"fails": fails, "AdamW": refuses, "last": lambda device: [tables.Line("last", measured=2.0)]}
    )
    table = tables.Table(tmp_path / "a.md", FACTS, "2026-01-02")
    gpu.measure(table, None, list(gpu.ROWS), 100)
    assert list(table.lines) == ["before", "fails", "AdamW", "last"]
    assert "failed: RuntimeError: out of memory" in table.lines["fails"]
    assert "skipped: TypeError: AdamW: params must be NumPy arrays" in table.lines["AdamW"]
    assert table.missed == 1
    monkeypatch.setitem(gpu.ROWS, "a loss", refuses)
    gpu.measure(table, None, ["a loss"], 100)
    assert "failed: TypeError" in table.lines["a loss"]
    gpu.measure(table, None, ["last"], -1)
    assert "skipped: -1 s were over" in table.lines["last"]


def test_ratios_of_a_timer_that_stands_in(gpu):
    class Stopwatch:
        def copied(self):
            return 4e12

    line = gpu.against_copy(Stopwatch(), "x", 1.2e9 / 3.6e12, 1.2e9, 0.85)
    assert line.measured == pytest.approx(0.9)
    assert line.holds
    assert "3.60 TB/s" in str(line)
    assert gpu.against("y", 1e-3, 3e-3, 2.5).measured == pytest.approx(3)
    assert gpu.shown(3.33e-4) == "333 us"
