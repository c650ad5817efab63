"""How a group of threads goes along a row: the text of a row formula's passes and of the steps between them."""

from ...formula.graph import INT, walk
from ...formula.python import scalar_text
from .device import THREADS, machine
from .text import indented


class RowPasses:
    """The passes of a kernel over the rows that `access` describes.

    Each is a walk along the row around a scalar function of its elements, and folds what the function gives. These functions are in
    `functions`, for the kernel to call.
    """

    def __init__(self, access, precision):
        self.access, self.precision, self.own = access, precision, machine(precision)
        self.key, self.program, self.uniforms = access.key, access.program, access.uniforms
        self.functions, self.checked = {}, set()

    def text(self, store):
        """The statements of all passes; `store(names, width)` gives those for the results of the last."""
        lines, merged, stage = [], False, self.key.stage
        for k, (step, here) in enumerate(zip(self.program.steps, self.program.passes, strict=True)):
            lines += self._call(f"step{k}", step.reads, step.writes)
            if merged:  # with the pass before
                merged = False
            elif here.runs:
                lines += self._runs(k, here)
            elif here.loop:
                number, following = here.loop
                once = [*self._folding(k, here), *self._call(f"again{k}", here.again.reads, here.again.writes)]
                once += [f"rises = {following} > {number}", f"{number} = {following} if rises else {number}"]
                lines += ["rises = True", "while rises:", *indented(once)]
            elif here.folds:
                merged = self.key.lanes == THREADS and shares_a_walk(self.program, k)
                if stage is None or k == stage:
                    lines += self._exponentials(k) if merged else self._folding(k, here)
                else:
                    lines += self._gathered(k, merged)
                if k == stage:
                    return lines
            else:
                lines += [] if self.access.lists else ["factor = weight * scale"]
                lines += self._walk(k, here.writes, store)
        return lines

    def _exponentials(self, k):
        """The largest element and the sums of exponentials below it, which are made smaller whenever a larger one comes."""
        ((peak, element),) = self.program.passes[k].folds.items()
        folds = self.program.passes[k + 1].folds
        rows = self.program.rows
        self._define_share(k)

        def share(x, most, to):
            return f"{', '.join(f'{fold}_{to}' for fold in folds)} = share{k}({', '.join([x, most, *self.uniforms])})"

        def shrink():
            return [f"{fold}_{part} *= {fold}_less" for fold in folds for part in ("high", "low")]

        def use(names, width):
            terms = [f"{names[element]}_{e}" for e in range(width)]
            lines = [f"top = {_in_pairs('maximum({}, {})', terms)}", f"if not top <= {peak}_most:"]
            lines += indented([share(f"{peak}_most", "top", "less"), *shrink(), f"{peak}_most = maximum({peak}_most, top)"])
            lines += [share(term, f"{peak}_most", e) for e, term in enumerate(terms)]
            for fold in folds:
                sum_of = _in_pairs("({} + {})", [f"{fold}_{e}" for e in range(width)])
                lines.append(f"{fold}_high, {fold}_low = add_to({fold}_high, {fold}_low, {sum_of})")
            return lines

        lines = [f"{peak}_most = real(-inf)", *(f"{fold}_high = {fold}_low = real(0)" for fold in folds)]
        lines += [*self._walk(k, {element: rows[element]}, use), f"{peak} = fold_largest({peak}_most)"]
        lines += [share(f"{peak}_most", peak, "less"), *shrink()]
        return lines + self._closed([peak, *folds])

    def _define_share(self, k):
        """The function of an element and the largest one that gives the exponentials."""
        ((peak, element),) = self.program.passes[k].folds.items()
        rows = self.program.rows
        exponentials = [rows[name] for name in self.program.passes[k + 1].folds.values()]
        self._define(f"share{k}", {"x": rows[element], "peak": self.program.numbers[peak]}, exponentials)

    def _call(self, name, reads, writes):
        """The statement that computes numbers of the row from others."""
        if not writes:
            return []
        self._define(name, reads, writes.values())
        return [f"{', '.join(writes)} = {name}({', '.join([*reads, *self.uniforms])})"]

    def _folding(self, k, here):
        wanted = {element: self.program.rows[element] for element in here.folds.values()}
        walked = self._walk(k, wanted, lambda names, width: self._fold(here, names, width))
        return [*self._empty(here), *walked, *self._closed(here.folds)]

    def _fold(self, here, names, width):
        """Add elements that were computed together to their folds."""
        lines = []
        for fold, element in here.folds.items():
            terms = [f"{names[element]}_{e}" for e in range(width)]
            if is_sum(self.program, fold):
                lines.append(f"{fold}_high, {fold}_low = add_to({fold}_high, {fold}_low, {_in_pairs('({} + {})', terms)})")
            else:
                lines.append(f"{fold}_most = maximum({fold}_most, {_in_pairs('maximum({}, {})', terms)})")
        return lines

    def _empty(self, here):
        """What folds are of nothing."""
        return [f"{f}_high = {f}_low = real(0)" if is_sum(self.program, f) else f"{f}_most = real(-inf)" for f in here.folds]

    def _closed(self, folds):
        """The folds of the threads' folds: of the row, or of this block's part of it, left for a later kernel."""
        if self.key.stage is None:
            return [
                f"{f} = fold_total({f}_high, {f}_low)" if is_sum(self.program, f) else f"{f} = fold_largest({f}_most)"
                for f in folds
            ]
        lines, stores = [], []
        for f in folds:
            if is_sum(self.program, f):
                lines.append(f"{f}_high, {f}_low = fold_pair({f}_high, {f}_low)")
                stores += [f"{f}_parts[2 * block] = {f}_high", f"{f}_parts[2 * block + 1] = {f}_low"]
            else:
                lines.append(f"{f}_most = fold_largest({f}_most)")
                stores.append(f"{f}_parts[2 * block] = {f}_most")
        return [*lines, "if lane == 0:", *indented(stores)]

    def _gathered(self, k, merged):
        """The folds of a row of what its blocks have left."""
        sums = {f for here in self.program.passes[k : k + 1 + merged] for f in here.folds if is_sum(self.program, f)}
        most = [f for f in self.program.passes[k].folds if f not in sums]
        lines = [f"{f} = real(-inf)" for f in most]
        lines += [f"{f}_high = {f}_low = real(0)" for f in sorted(sums)]
        if most:
            look = [f"{f} = maximum({f}, {f}_parts[2 * part])" for f in most]
            lines += ["for part in range(row * segments, (row + 1) * segments):", *indented(look)]
        add = []
        if merged:
            (peak,), folds = most, self.program.passes[k + 1].folds
            self._define_share(k)
            shares = ", ".join(f"{f}_less" for f in folds)
            add.append(f"{shares} = share{k}({', '.join([f'{peak}_parts[2 * part]', peak, *self.uniforms])})")
        for f in sorted(sums):
            less = f" * {f}_less" if merged else ""
            add.append(f"{f}_high, {f}_low = add_to({f}_high, {f}_low, {f}_parts[2 * part]{less})")
            add.append(f"{f}_low += {f}_parts[2 * part + 1]{less}")
        if add:
            lines += ["for part in range(row * segments, (row + 1) * segments):", *indented(add)]
        return lines + [f"{f} = as_one({f}_high, {f}_low)" for f in sorted(sums)]

    def _walk(self, k, wanted, use):
        """Go along the row and compute the elements wanted, by name and node; `use(names, width)` gives what is done with them."""
        if not wanted:
            return []
        rows, numbers = self._needed(k, wanted.values())
        name, key = f"pass{k}", self.key
        direct = not numbers and list(map(id, wanted.values())) == list(map(id, rows.values()))
        if not direct:
            self._define(name, rows | numbers, wanted.values())
        names = dict(zip(wanted, rows if direct else (f"{one}_{name}" for one in wanted), strict=True))

        def element(e, load):
            lines = [f"{row}_{e} = {load(row, e)}" for row in rows]
            for row in rows:
                if row not in self.checked and self.access.is_last():
                    lines += self.access.report(row, f"{row}_{e}", f"(i * length + j + {e})")
            if not direct:
                given = ", ".join([*(f"{row}_{e}" for row in rows), *numbers, *self.uniforms])
                lines.append(f"{', '.join(f'{one}_{e}' for one in names.values())} = {name}({given})")
            return lines

        lines = []
        if key.width > 1 and set(rows) <= set(self.access.codes):
            loads = []
            for row in rows:
                raws = ", ".join(f"{row}_raw{e}" for e in range(key.width))
                loads.append(f"{raws} = vector{key.width}({row}_at, at_{row} + j)")
            inner = [f"j = vector * {key.width}", *loads]
            for e in range(key.width):
                inner += element(e, lambda row, e: f"from_{self.access.codes[row]}({row}_raw{e})")
            inner += use(names, key.width)
            lines += [f"for vector in range({self._stretch(f'length // {key.width}')}, LANES):", *indented(inner)]
            rest = f"length // {key.width} * {key.width} + lane, length"
            if key.stage is not None:
                rest += " if segment == segments - 1 else 0"
        else:
            rest = self._stretch("length")
        inner = element(0, lambda row, e: self.access.element(row, "j"))
        lines += [f"for j in range({rest}, LANES):", *indented([*inner, *use(names, 1)])]
        self.checked |= set(rows)
        return lines

    def _stretch(self, length):
        """The bounds of what a thread goes over: the row, or this block's part of it."""
        if self.key.stage is None:
            return f"lane, {length}"
        return f"{length} * segment // segments + lane, {length} * (segment + 1) // segments"

    def _needed(self, k, nodes):
        """The rows and numbers that these elements of pass `k` are computed of, by name."""
        runs = self.access.runs
        rows = {n: node for n, node in self.program.rows.items() if n in self.access.codes or n in runs or n == "members"}
        later = {name for step in self.program.steps[k + 1 :] for name in step.writes}
        later |= {name for here in self.program.passes[k:] for name in [*here.folds, *here.again.writes]}
        numbers = {name: node for name, node in self.program.numbers.items() if name not in later}
        used = {id(node) for node in walk(list(nodes), stop=[*rows.values(), *numbers.values(), *self.access.uniform_nodes])}
        return (
            {n: node for n, node in rows.items() if id(node) in used},
            {n: node for n, node in numbers.items() if id(node) in used and node.kind != INT},
        )

    def _runs(self, k, here):
        """Sums of what comes before or after each element; every thread of the group takes a stretch of the row."""
        elements = {name: here.writes[name] for name in here.runs} | {e: self.program.rows[e] for e in here.folds.values()}
        rows, numbers = self._needed(k, elements.values())
        self._define(f"pass{k}", rows | numbers, elements.values())
        here_0 = [f"{row}_0 = {self.access.element(row, 'j')}" for row in rows]
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
        return [*lines, *self._closed(here.folds), "cuda.syncthreads()"]

    def _define(self, name, inputs, outputs):
        """A function of what a pass or a step computes, for the kernel to call."""
        text = scalar_text(
            name, inputs, list(outputs), self.access.uniform_nodes, self.access.formula.source, self.program.rows.values()
        )
        self.functions[name] = self.own.compiled(self.own.define(text, name))


def is_sum(program, fold):
    return program.numbers[fold].op == "total"


def stages(program):
    """The passes that have a kernel of their own where several blocks share a row; () where they cannot."""
    if any(here.runs or here.loop for here in program.passes):
        return ()
    merged, found = False, []
    for k, here in enumerate(program.passes):
        if not merged:
            found.append(k)
        merged = not merged and bool(here.folds) and shares_a_walk(program, k)
    return tuple(found)


def shares_a_walk(program, k):
    """Whether the next pass adds up exponentials of what this one finds the largest of, and nothing else: then one walk will do."""
    here, following = program.passes[k : k + 2]
    numbers, rows = program.numbers, program.rows
    if [is_sum(program, f) for f in here.folds] != [False] or program.steps[k + 1].writes or following.loop or following.runs:
        return False
    ((peak, element),) = here.folds.items()
    return bool(following.folds) and all(
        is_sum(program, fold) and _is_exponential(rows[name], rows[element], numbers[peak])
        for fold, name in following.folds.items()
    )


def _is_exponential(node, element, peak):
    """Whether it is exp(scale * (element - peak)), the scale the same for all rows."""
    below = node.args[0] if node.op == "exp_nonpositive" else node
    if below.op == "mul" and below.args[0].uniform:
        below = below.args[1]
    if node.op != "exp_nonpositive" or below.op != "where":
        return False
    condition, gap, nothing = below.args
    return (
        (gap.op, condition.op) == ("sub", "lt")
        and (gap.args[0] is element and gap.args[1] is peak and condition.args[0] is gap)
        and (condition.args[1].is_literal(0) and nothing.is_literal(0))
    )


def _in_pairs(combine, terms):
    """The terms combined in pairs, those in pairs, and so on."""
    while len(terms) > 1:
        terms = [combine.format(a, b) for a, b in zip(terms[::2], terms[1::2], strict=True)]
    return terms[0]
