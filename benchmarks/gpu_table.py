"""The table that `gpu.py` writes, line by line, and what of it needs no GPU: bars, bytes, which line replaces which."""

import math
import re
from dataclasses import dataclass
from pathlib import Path

HEAD = "| what | fastloss | measured | bar | holds |"


@dataclass(frozen=True)
class Line:
    """One comparison. `measured` is held against the bar, at least or at most; without a bar it is told, without a number it failed."""

    what: str
    time: str = ""
    measured: float | None = None
    unit: str = ""
    least: float | None = None
    most: float | None = None
    note: str = ""

    @property
    def bar(self):
        number = self.least if self.most is None else self.most
        return "" if number is None else f"{'>=' if self.most is None else '<='} {number:g}{self.unit}"

    @property
    def holds(self):
        """None where there is nothing to hold."""
        if self.least is None and self.most is None:
            return None
        if self.measured is None or math.isnan(self.measured):
            return False
        return self.measured >= self.least if self.most is None else self.measured <= self.most

    def __str__(self):
        measured = (
            self.note if self.measured is None else f"{self.measured:.3g}{self.unit}{f' {self.note}' if self.note else ''}"
        )
        mark = "skipped" if self.note.startswith("skipped") else {None: "", True: "yes", False: "NO"}[self.holds]
        cells = (self.what, self.time, measured, self.bar, mark)
        return "| " + " | ".join(str(cell).replace("|", "/").replace("\n", " ") for cell in cells) + " |"


class Table:
    """Lines in a file that is whole after each of them. Lines of an earlier run with the same facts stay, but for those measured again."""

    def __init__(self, path, facts, date):
        self.path, self.facts, self.date = Path(path), facts, date
        self.lines, self.missed = self._earlier(), 0

    def _earlier(self):
        """{what: line} of the file, if what it says of the machine is what is so now."""
        if not self.path.exists():
            return {}
        text = self.path.read_text(encoding="utf-8")
        if self._about() not in text:
            return {}
        lines = [line for line in text.splitlines() if line.startswith("| ") and line != HEAD]
        return {re.split(r" ?\| ?", line)[1]: line for line in lines}

    def _about(self):
        return "".join(f"- {name}: {value}\n" for name, value in self.facts.items())

    def add(self, line):
        self.lines[line.what] = str(line)
        self.missed += line.holds is False and not line.note.startswith("skipped")
        print(line, flush=True)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        rows = "\n".join(self.lines.values())
        rule = "|" + " --- |" * HEAD.count(" | ") + " --- |"
        head = f"# {self.facts['device']}\n\n{self._about()}\nLast written {self.date} by `python benchmarks/gpu.py`.\n\n"
        self.path.write_text(f"{head}{HEAD}\n{rule}\n{rows}\n", encoding="utf-8")


def file_name(device):
    """What the results of a device are called."""
    return re.sub(r"[^A-Za-z0-9]+", "-", device).strip("-").lower() + ".md"


def last_line(error):
    """What became of a row: an exception's last line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[-1][:160] if text else ''}"


# --- bytes that must be moved: each input read once, each output written once -------------------------------------------------


def pointwise_bytes(count, size=4):
    """Prediction and target in, gradient out."""
    return 3 * size * count


def rows_bytes(rows, length, size, label_size=8):
    """Logits and labels in, gradient out."""
    return 2 * size * rows * length + label_size * rows


def adamw_bytes(count, size=4):
    """Parameter, gradient and two moments in; parameter and moments out."""
    return 7 * size * count
