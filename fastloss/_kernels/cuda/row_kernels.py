"""The kernels of row losses: a group of threads goes along each row, pass after pass, and folds what it finds.

What a pass needs of an earlier one's elements is computed again: memory is dearer than arithmetic. Running sums alone are kept. A group
is one thread for short rows, a warp for longer ones, a block for long ones.
"""

from dataclasses import dataclass

from ...formula.emit import uniform_names, uniforms
from ...formula.graph import INT, walk
from ...formula.program import Program
from ...formula.python import scalar_text
from . import folds
from . import walk as places
from .device import Kernel, machine

ROWS = """
def {name}({arguments}):
    t = cuda.threadIdx.x
    lane = t % LANES
    group = t // LANES
    high = real(0)
    low = real(0)
    {scale}
    for first in range(cuda.blockIdx.x * GROUPS, rows, cuda.gridDim.x * GROUPS):
        row = first + group
        alive = row < rows
        i = row if alive else rows - 1
        {begin}
        {body}
        {end}
"""
TAIL = """
    high, low = fold_block(high, low)
    if t == 0:
        partials[2 * cuda.blockIdx.x] = high
        partials[2 * cuda.blockIdx.x + 1] = low
"""


@dataclass(frozen=True)
class RowForm:
    """What a kernel is written for.

    `arrays` holds (name, code, has rows) of everything that a row has in memory: rows of inputs and outputs, numbers of rows. Rows whose
    elements lie one after the other, all of them (`dense`), are read `width` at a time. So many threads as `lanes` go along a row, whose
    place is found over `dims` dimensions.
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

    def kernel(self, variant, precision):
        return RowWriter(self, variant, precision).kernel()


class RowWriter:
    """The text of one kernel."""

    def __init__(self, form, variant, precision):
        self.form, self.precision, self.own = form, precision, machine(precision)
        self.formula, self.traced = variant.formula, variant.traced
        self.program = Program(self.traced, form.roles)
        nodes = uniforms(self.traced, list(self.traced.outputs.values()))
        self.uniforms, self.uniform_nodes = [f"{name}_given" for name in uniform_names(nodes).values()], nodes
        self.codes = {name: code for name, code, _ in form.arrays}
        self.along = [name for name, _, has_rows in form.arrays if has_rows]
        self.inputs = [name for name in self.program.rows if name in self.codes]
        self.label = self.formula.label if self.formula.label in self.codes and self.formula.label not in self.along else None
        self.lists = self.formula.label if self.formula.has_lists else None
        self.functions, self.checked = {}, set()

    def kernel(self):
        name = f"{self.traced.name}_rows"
        arguments = self._arguments()
        text = self._text(name, arguments)
        more = folds.functions(self.precision, self.form.lanes) | self.functions
        return Kernel(self.precision, name, text, arguments.values(), **more)

    def _arguments(self):
        form, real = self.form, self.precision.name
        names = list(self.codes)
        arguments = {"rows": "i64", "length": "i64"} | places.arguments(names, form.dims)
        if not form.dense:
            arguments |= dict.fromkeys((f"{name}_along" for name in self.along), "i64")
        arguments |= {f"{name}_at": f"{code}*" for name, code in self.codes.items()}
        arguments |= {f"{name}_run": f"{real}*" for here in self.program.passes for name in here.runs}
        if self.lists:
            arguments |= {f"{role}_sum": f"{real}*" for role in self._outputs()}
        arguments |= {"total_weight": f"{real}*"} if form.by_weights else {"scale": real}
        if form.sums:
            arguments["partials"] = f"{real}*"
        if self.label:
            arguments["ignored"] = "i64"
        if any(ends for _, ends in form.domains):
            arguments |= {"flags": "i64*"} | {f"slot_{name}": "i64" for name, ends in form.domains if ends}
        return arguments | dict.fromkeys(self.uniforms, real)

    # --- the row ------------------------------------------------------------------------------------------------------------

    def _text(self, name, arguments):
        scale = ["pass"]
        if self.form.by_weights:
            scale = ["weight_sum = as_one(total_weight[0], total_weight[1])"]
            scale.append("scale = where(weight_sum == real(0), real(0), real(1) / weight_sum)")
        body = self._list() if self.lists else self._passes(self._store)
        text = ROWS.format(
            name=name,
            arguments=", ".join(arguments),
            scale=joined(scale, 4),
            begin=joined(self._begin(), 8),
            body=joined(body, 8),
            end=joined(self._end(), 8),
        )
        return text + (TAIL if self.form.sums else "")

    def _begin(self):
        """Where the row lies, its weight, label and numbers."""
        form = self.form
        lines = places.offsets(list(self.codes), form.dims)
        lines.append(
            f"weight = from_{self.codes['weights']}(weights_at[at_weights])" if form.has_weights else "weight = real(1)"
        )
        ends = dict(form.domains).get("weights")
        if ends:
            lines += self._report("weights", "weight", ends, "row")
        if self.label:
            lines += [
                f"label = int64({self.label}_at[at_{self.label}])",
                "counts = label != ignored",
                "inside = (label >= 0) & (label < length)",
                *self._flag(self.label, "counts and not inside", "row"),
                # The row of a label outside is not to pass for a result.
                "weight = where(counts, where(inside, weight, real(nan)), real(0))",
                "label = label if counts and inside else int64(0)",
            ]
        lines += [f"{n} = from_{self.codes[n]}({n}_at[at_{n}])" for n in self._numbers_given()]
        for n in self._numbers_given():
            if dict(form.domains).get(n):
                lines += self._report(n, n, dict(form.domains)[n], "row")
        return lines + ([] if self.lists else self._picks())

    def _numbers_given(self):
        return [name for name in self.traced.inputs if name in self.codes and name not in self.along and name != self.label]

    def _picks(self):
        lines = []
        for name, node in self.program.picks.items():
            row = node.args[0].args[0]
            lines.append(f"{name} = {self._element_of(row, 'label')}")
        return lines

    def _element_of(self, row, j):
        if row not in self.codes:  # the marks of a list
            return f"real(listed({self.lists}_at, at_{self.lists}, {self._step(self.lists)}, length, {j}))"
        return f"from_{self.codes[row]}({row}_at[{self._place(row, j)}])"

    def _place(self, row, j):
        return f"at_{row} + {j}" if self.form.dense else f"at_{row} + ({j}) * {row}_along"

    def _step(self, row):
        return "1" if self.form.dense else f"{row}_along"

    def _report(self, name, value, ends, index):
        low, high, nan_is_outside = ends
        outside = f"({value} < real({low!r})) | ({value} > real({high!r}))"
        return self._flag(name, f"{outside} | ({value} != {value})" if nan_is_outside else outside, index)

    def _flag(self, name, condition, index):
        if not dict(self.form.domains).get(name):
            return []
        return [f"if alive and ({condition}):", "    flags[0] = 1", f"    flags[slot_{name}] = {index} + 1"]

    def _list(self):
        """The passes once for each label of the row's list; values and results add up."""
        lines = ["value_sum = real(0)", "several = int64(0)", f"label = int64({self.lists}_at[at_{self.lists}])"]
        lines += ["for j in range(lane, length, LANES):", "    pass"]
        lines += [f"    {role}_sum[i * length + j] = real(0)" for role in self._outputs()]
        inner = [*self._picks(), *self._passes(self._accumulate), "value_sum += value", "several += 1"]
        inner.append(f"label = int64({self.lists}_at[{self._place(self.lists, 'several')}]) if several < length else int64(-1)")
        lines += ["while (label >= 0) & (label < length):", *indented(inner), "value = value_sum"]
        lines += [*self._flag(self.lists, "label != -1", "row"), "if label != -1:", "    weight = real(nan)"]
        lines += ["factor = weight * scale"]
        stores = [
            f"{role}_at[{self._place(role, 'j')}] = to_{self.codes[role]}({self._scaled(f'{role}_sum[i * length + j]')})"
            for role in self._outputs()
        ]
        return [*lines, "if alive:", "    for j in range(lane, length, LANES):", "        pass", *indented(stores, 2)]

    def _outputs(self):
        return [role for role in self.program.passes[-1].writes]

    def _end(self):
        """What is known of the row once it was gone along."""
        lines, codes = [], self.codes
        if self.form.sums:
            lines += ["if alive and lane == 0 and not weight == real(0):", "    high, low = add_to(high, low, value * weight)"]
        stores = (
            [f"value_at[at_value] = to_{codes['value']}(where(weight == real(0), real(0), value * weight))"]
            if "value" in codes
            else []
        )
        for name in self.traced.others:
            if name in codes:
                stores.append(f"{name}_at[at_{name}] = to_{codes[name]}(where(weight == real(0), real(0), {name}))")
        return lines + (["if alive and lane == 0:", *indented(stores)] if stores else []) or ["pass"]

    # --- passes -------------------------------------------------------------------------------------------------------------

    def _passes(self, store):
        lines = []
        for k, (step, here) in enumerate(zip(self.program.steps, self.program.passes, strict=True)):
            lines += self._call(f"step{k}", step.reads, step.writes)
            if here.runs:
                lines += self._runs(k, here)
            elif here.loop:
                number, following = here.loop
                once = [*self._folding(k, here), *self._call(f"again{k}", here.again.reads, here.again.writes)]
                once += [f"rises = {following} > {number}", f"{number} = {following} if rises else {number}"]
                lines += ["rises = True", "while rises:", *indented(once)]
            elif here.folds:
                lines += self._folding(k, here)
            else:
                lines += [] if self.lists else ["factor = weight * scale"]
                lines += self._walk(k, here.writes, store)
        return lines

    def _call(self, name, reads, writes):
        """The statement that computes numbers of the row from others."""
        if not writes:
            return []
        self._define(name, reads, writes.values())
        return [f"{', '.join(writes)} = {name}({', '.join([*reads, *self.uniforms])})"]

    def _folding(self, k, here):
        wanted = {element: self.program.rows[element] for element in here.folds.values()}
        walked = self._walk(k, wanted, lambda names, width: self._fold(here, names, width))
        return [*self._empty(here), *walked, *self._full(here)]

    def _is_sum(self, fold):
        return self.program.numbers[fold].op == "total"

    def _fold(self, here, names, width):
        """Add elements that were computed together to their folds."""
        lines = []
        for fold, element in here.folds.items():
            terms = [f"{names[element]}_{e}" for e in range(width)]
            combine = "({} + {})" if self._is_sum(fold) else "maximum({}, {})"
            while len(terms) > 1:
                terms = [combine.format(a, b) for a, b in zip(terms[::2], terms[1::2], strict=True)]
            if self._is_sum(fold):
                lines.append(f"{fold}_high, {fold}_low = add_to({fold}_high, {fold}_low, {terms[0]})")
            else:
                lines.append(f"{fold}_most = maximum({fold}_most, {terms[0]})")
        return lines

    def _empty(self, here):
        """What folds are of nothing."""
        return [f"{f}_high = {f}_low = real(0)" if self._is_sum(f) else f"{f}_most = real(-inf)" for f in here.folds]

    def _full(self, here):
        """The folds of the threads' folds."""
        return [
            f"{f} = fold_total({f}_high, {f}_low)" if self._is_sum(f) else f"{f} = fold_largest({f}_most)" for f in here.folds
        ]

    def _walk(self, k, wanted, use):
        """Go along the row and compute the elements wanted, by name and node; `use(names, width)` gives what is done with them."""
        if not wanted:
            return []
        rows, numbers = self._needed(wanted.values())
        name, form = f"pass{k}", self.form
        direct = not numbers and list(map(id, wanted.values())) == list(map(id, rows.values()))
        if not direct:
            self._define(name, rows | numbers, wanted.values())
        names = dict(zip(wanted, rows if direct else (f"{one}_{name}" for one in wanted), strict=True))

        def element(e, load):
            lines = [f"{row}_{e} = {load(row, e)}" for row in rows]
            for row in rows:
                ends = dict(form.domains).get(row)
                if ends and row not in self.checked:
                    lines += self._report(row, f"{row}_{e}", ends, f"(i * length + j + {e})")
            if not direct:
                given = ", ".join([*(f"{row}_{e}" for row in rows), *numbers, *self.uniforms])
                lines.append(f"{', '.join(f'{one}_{e}' for one in names.values())} = {name}({given})")
            return lines

        lines = []
        if form.width > 1 and set(rows) <= set(self.codes):
            loads = []
            for row in rows:
                raws = ", ".join(f"{row}_raw{e}" for e in range(form.width))
                loads.append(f"{raws} = vector{form.width}({row}_at, at_{row} + j)")
            inner = [f"j = vector * {form.width}", *loads]
            for e in range(form.width):
                inner += element(e, lambda row, e: f"from_{self.codes[row]}({row}_raw{e})")
            inner += use(names, form.width)
            lines += [f"for vector in range(lane, length // {form.width}, LANES):", *indented(inner)]
            rest = f"length // {form.width} * {form.width} + lane"
        else:
            rest = "lane"
        inner = element(0, lambda row, e: self._single(row))
        lines += [f"for j in range({rest}, length, LANES):", *indented([*inner, *use(names, 1)])]
        self.checked |= set(rows)
        return lines

    def _run_names(self):
        return {name for here in self.program.passes for name in here.runs}

    def _needed(self, nodes):
        """The rows and numbers that these elements are computed of, by name."""
        runs = self._run_names()
        rows = {n: node for n, node in self.program.rows.items() if n in self.codes or n in runs or n == "members"}
        numbers = self.program.numbers
        used = {id(node) for node in walk(list(nodes), stop=[*rows.values(), *numbers.values(), *self.uniform_nodes])}
        return (
            {n: node for n, node in rows.items() if id(node) in used},
            {n: node for n, node in numbers.items() if id(node) in used and node.kind != INT},
        )

    def _runs(self, k, here):
        """Sums of what comes before or after each element; every thread of the group takes a stretch of the row."""
        elements = {name: here.writes[name] for name in here.runs} | {e: self.program.rows[e] for e in here.folds.values()}
        rows, numbers = self._needed(elements.values())
        self._define(f"pass{k}", rows | numbers, elements.values())
        here_0 = [f"{row}_0 = {self._single(row)}" for row in rows]
        given = ", ".join([*(f"{row}_0" for row in rows), *numbers, *self.uniforms])
        here_0.append(f"{', '.join(f'{e}_here_0' for e in elements)} = pass{k}({given})")
        names = {e: f"{e}_here" for e in elements}
        lines = [*self._empty(here), "stretch = (length + LANES - 1) // LANES"]
        lines += ["begin = min(lane * stretch, length)", "stop = min(begin + stretch, length)"]
        lines += [f"{run}_high = {run}_low = real(0)" for run in here.runs]
        add = {run: f"{run}_high, {run}_low = add_to({run}_high, {run}_low, {run}_here_0)" for run in here.runs}
        lines += ["for j in range(begin, stop):", *indented([*here_0, *add.values(), *self._fold(here, names, 1)])]
        for run, op in here.runs.items():
            side, order = ("before", "begin, stop") if op == "preceding" else ("after", "stop - 1, begin - 1, -1")
            lines.append(f"{run}_high, {run}_low = sums_{side}({run}_high, {run}_low)")
            write = ["if alive:", f"    {run}_run[i * length + j] = as_one({run}_high, {run}_low)"]
            lines += [f"for j in range({order}):", *indented([*here_0, *write, add[run]])]
        # The next pass reads what other threads have written.
        return [*lines, *self._full(here), "cuda.syncthreads()"]

    def _define(self, name, inputs, outputs):
        """A function of what a pass or a step computes, for the kernel to call."""
        text = scalar_text(name, inputs, list(outputs), self.uniform_nodes, self.formula.source, self.program.rows.values())
        self.functions[name] = self.own.compiled(self.own.define(text, name))

    def _single(self, row):
        """One element of a row, a running sum, or a list's marks."""
        return f"{row}_run[i * length + j]" if row in self._run_names() else self._element_of(row, "j")

    # --- results ------------------------------------------------------------------------------------------------------------

    def _at_label(self, role, value, e):
        extra = f"label_{role}"
        if extra not in self.program.numbers:
            return value
        return f"where(j + {e} == label, {value} + {extra}, {value})"

    def _scaled(self, value):
        return f"where(weight == real(0), real(0), {value} * factor)"

    def _store(self, names, width):
        lines = []
        for role, name in names.items():
            values = [f"to_{self.codes[role]}({self._scaled(self._at_label(role, f'{name}_{e}', e))})" for e in range(width)]
            if width > 1:
                lines.append(f"put{width}({role}_at, at_{role} + j, {', '.join(values)})")
            else:
                lines.append(f"{role}_at[{self._place(role, 'j')}] = {values[0]}")
        return ["if alive:", *indented(lines)]

    def _accumulate(self, names, width):
        lines = [f"{role}_sum[i * length + j] += {self._at_label(role, f'{name}_0', 0)}" for role, name in names.items()]
        return ["if alive:", *indented(lines)]


def joined(lines, indent):
    return ("\n" + " " * indent).join(lines)


def indented(lines, levels=1):
    return ["    " * levels + line for line in lines]
