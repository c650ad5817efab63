"""What a row has in memory, and the text that finds, reads and checks it."""

from dataclasses import dataclass

from ...formula.emit import uniform_names, uniforms
from ...formula.program import Program
from . import walk


@dataclass(frozen=True)
class RowKey:
    """What a row kernel is written for.

    `arrays` holds (name, code, has rows) of everything that a row has in memory: rows of inputs and outputs, numbers of rows. Rows whose
    elements lie one after the other, all of them (`dense`), are read `width` at a time. `lanes` threads go along a row, whose place is
    found over `dims` dimensions. Several blocks share a row in stages, a kernel for each pass: that of pass `stage`.
    """

    roles: tuple
    sums: bool
    arrays: tuple
    has_weights: bool
    by_weights: bool
    domains: tuple
    lanes: int
    width: int
    dense: bool
    dims: int
    stage: int | None = None


class RowAccess:
    """The arrays of a kernel's rows, by what the formula calls them."""

    def __init__(self, variant, key):
        self.key, self.formula, self.traced = key, variant.formula, variant.traced
        self.program = Program(self.traced, key.roles)
        self.codes = {name: code for name, code, _ in key.arrays}
        self.along = [name for name, _, has_rows in key.arrays if has_rows]
        self.label = self.formula.label if self.formula.label in self.codes and self.formula.label not in self.along else None
        self.lists = self.formula.label if self.formula.has_lists else None
        self.runs = {name for here in self.program.passes for name in here.runs}
        self.uniform_nodes = uniforms(self.traced, list(self.traced.outputs.values()))
        self.uniforms = [f"{name}_given" for name in uniform_names(self.uniform_nodes).values()]

    def is_last(self):
        """Whether this kernel writes results."""
        return self.key.stage in (None, len(self.program.passes) - 1)

    def offsets(self):
        """Where the row's arrays begin."""
        return walk.offsets(list(self.codes), self.key.dims)

    def numbers_given(self):
        """The inputs that have one number for each row."""
        return [name for name in self.traced.inputs if name in self.codes and name not in self.along and name != self.label]

    def place(self, row, j):
        return f"at_{row} + {j}" if self.key.dense else f"at_{row} + ({j}) * {row}_along"

    def step(self, row):
        return "1" if self.key.dense else f"{row}_along"

    def element(self, row, j):
        """One element of a row, a running sum, or a list's marks."""
        if row in self.runs:
            return f"{row}_run[i * length + {j}]"
        if row not in self.codes:
            return f"real(listed({self.lists}_at, at_{self.lists}, {self.step(self.lists)}, length, {j}))"
        return f"from_{self.codes[row]}({row}_at[{self.place(row, j)}])"

    def listed(self, place):
        """A label of the row's list."""
        return f"label_{self.codes[self.lists]}({self.lists}_at[{place}])"

    def ends(self, name):
        """The closed ends that an input must lie within, None where nothing is looked for."""
        return dict(self.key.domains).get(name)

    def report(self, name, value, index):
        """The statements that report a number outside its input's domain."""
        ends = self.ends(name)
        if not ends:
            return []
        low, high, nan_is_outside = ends
        outside = f"({value} < real({low!r})) | ({value} > real({high!r}))"
        return self.flag(name, f"{outside} | ({value} != {value})" if nan_is_outside else outside, index)

    def flag(self, name, condition, index):
        if not self.ends(name):
            return []
        return [f"if alive and ({condition}):", "    flags[0] = 1", f"    flags[slot_{name}] = {index} + 1"]
