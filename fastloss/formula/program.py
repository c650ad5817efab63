"""A row formula as a program: passes over a row's elements, and between them steps on the row's numbers.

A pass walks along the row and fills those folds that can be filled together; the last one writes what varies along the row. A
step computes from folds, picked elements and the row's other numbers what the next pass is to know. Passes and steps are tile
kernels over named arrays, so the engine that runs them needs to know nothing of the formula. Each pass has two kernels: one goes
along a row and reads its numbers once; the other goes across many rows, side by side, and adds an element of each to its fold.
A loop (`iterate`) is one pass that is repeated: after each time a step of its own says what the loop's number is to be next.
"""

from dataclasses import dataclass, field

from .c import loop_text
from .emit import cost, uniforms
from .graph import BOOL, ELEMENT, FOLDS, REAL, ROW, RUNS, FormulaError, combine, walk
from .primitives import maximum
from .rows import ALONG

NUMBERS, OUTPUTS = 100, 200  # see `Program.layout`
_MORE_REPEATS = 4  # that a loop usually takes


@dataclass
class Step:
    """Numbers of the row from other numbers of it, by name."""

    reads: dict = field(default_factory=dict)
    writes: dict = field(default_factory=dict)


@dataclass
class Pass:
    """Elements from elements and numbers of the row, by name.

    `folds` names for each fold the elements that go into it, `runs` what becomes of the elements of that name: a running sum.
    """

    rows: dict = field(default_factory=dict)
    numbers: dict = field(default_factory=dict)
    writes: dict = field(default_factory=dict)
    folds: dict = field(default_factory=dict)
    runs: dict = field(default_factory=dict)
    again: Step = field(default_factory=Step)
    loop: tuple = ()  # of a pass that is repeated, two numbers: what rises, and by `again` what it rises to


class Program:
    """What computes some of a variant's outputs: `steps[k]` comes before `passes[k]`, the last step after the last pass that folds.

    `rows` and `numbers` hold every array by name: inputs, then what passes and steps write. `picks` names the numbers that are
    elements of a row input, where the label points.
    """

    def __init__(self, traced, roles):
        self.traced = traced
        # Where a label's element has nothing besides there is nothing to add.
        outputs = {
            role: traced.outputs[role]
            for role in roles
            if not (role.startswith("label_") and traced.outputs[role].is_literal(0))
        }
        self.uniforms = uniforms(traced, list(traced.outputs.values()))
        inputs = traced.inputs | (traced.directions if any(role.startswith("hvp_") for role in roles) else {})
        self.rows = {name: node for name, node in inputs.items() if node.level == ELEMENT}
        self.numbers = {name: node for name, node in traced.inputs.items() if node.level == ROW and node.kind == REAL}
        self.picks = {f"picked_{n.args[0].args[0]}": n for n in walk(outputs.values()) if n.op == "pick"}
        self.numbers |= self.picks
        self._names = {id(node): name for name, node in (self.rows | self.numbers).items()}
        self.steps, self.passes = [], []
        for stage, loop in _stages(outputs.values()):
            folds, runs = [n for n in stage if n.op in FOLDS], [n for n in stage if n.op in RUNS]
            self._step([node.args[0] for node in stage], loop=loop)
            self._pass([*((None, fold.args[0]) for fold in folds), *((None, run) for run in runs)])
            self.passes[-1].runs = {self._names[id(run)]: run.op for run in runs}
            self.passes[-1].folds = {self._name(self.numbers, fold, fold.op): self._names[id(fold.args[0])] for fold in folds}
            if loop is not None:
                self._repeat(loop)
        along = {role: node for role, node in outputs.items() if role.startswith(ALONG)}
        self._step(along.values(), {role: node for role, node in outputs.items() if role not in along})
        self._pass(along.items())

    def _name(self, table, node, stem):
        """The node's name in the table, a new one if it has none."""
        if id(node) not in self._names:
            self._names[id(node)] = f"{stem}_{len(table)}"
            table[self._names[id(node)]] = node
        return self._names[id(node)]

    def _step(self, elements, outputs=None, loop=None):
        """Compute what these elements use of the row, and the outputs that are numbers.

        What is made of a loop's number is left to the pass, which is repeated.
        """
        step, there = Step(), dict(self.numbers)
        for role, node in (outputs or {}).items():
            self._names.setdefault(id(node), role)
        for node in _numbers_of(elements, [*self.rows.values(), *there.values(), *self.uniforms], loop):
            is_loop = node.op == "iterate"
            step.writes[self._name(self.numbers, node, node.op if is_loop else "number")] = node.args[0] if is_loop else node
        step.writes |= outputs or {}
        step.reads = self._used(there, step.writes.values())
        self.numbers |= outputs or {}
        self.steps.append(step)

    def _pass(self, elements):
        """Compute these elements, (the name of an output or None, node), from rows that are there and from numbers."""
        here, there = Pass(), dict(self.rows)
        for role, node in elements:
            if role:
                here.writes[role] = node
            elif id(node) not in self._names:
                is_run = node.op in RUNS
                here.writes[self._name(self.rows, node, node.op if is_run else "element")] = node.args[0] if is_run else node
        used = self._used(there | self.numbers, here.writes.values())
        here.rows = {name: node for name, node in used.items() if name in there}
        here.numbers = {name: node for name, node in used.items() if name not in there}
        self.passes.append(here)

    def _repeat(self, loop):
        """Let the last pass be repeated for as long as the loop's number rises."""
        here, there, following = self.passes[-1], dict(self.numbers), loop.graph.loops[id(loop)]
        here.again.writes[self._name(self.numbers, following, "number")] = following
        here.again.reads = self._used(there, [following])
        here.loop = (self._names[id(loop)], self._names[id(following)])

    def _used(self, table, nodes):
        """What of the table is read to compute these nodes."""
        used = {id(node) for node in walk(nodes, stop=[*table.values(), *self.uniforms])}
        return {n: node for n, node in table.items() if id(node) in used and not node.uniform and self._names[id(node)] == n}

    def kept(self, name):
        """Whether a later pass reads these elements again."""
        return any(name in later.rows for later in self.passes)

    def kernels(self, suffix, precision, source, write=loop_text):
        """The kernels of each step and of each pass, along a row and across rows: (name, what `write` makes of it)."""
        for kind, k, reads, writes, numbers in self._loops():
            if writes:
                name = f"{self.traced.name}_{suffix}_{kind}{k}_{precision.name}"
                # Across as along: an element is rounded before it goes into its fold.
                apart = self.rows.values()
                yield name, write(name, reads, writes, self.uniforms, precision, source, numbers, apart=apart)

    def cost(self):
        """What all passes together cost per element, in additions."""
        repeated = [node for here in self.passes if here.loop for node in here.writes.values()]
        return cost([node for here in self.passes for node in here.writes.values()]) + _MORE_REPEATS * cost(repeated)

    def layout(self):
        """What the engine is told: every array by number, and for each kernel those it takes, in order.

        Rows are counted from 0, numbers of the row from `NUMBERS`, outputs along the row from `OUTPUTS`.
        """
        code = {name: k for k, name in enumerate(self.rows)}
        code |= {name: NUMBERS + k for k, name in enumerate(self.numbers)}
        code |= {name: OUTPUTS + k for k, name in enumerate(self.passes[-1].writes)}
        loops = {"step": [], "along": [], "across": [], "again": []}
        for kind, _, reads, writes, _ in self._loops():
            loops[kind].append([code[name] for name in dict.fromkeys([*reads, *writes])] if writes else [])
        found = {
            "rows": [(name, self.kept(name)) for name in self.rows],
            "numbers": list(self.numbers),
            "picks": [(code[name], code[node.args[0].args[0]]) for name, node in self.picks.items()],
            "folds": [[(self.numbers[f].op == "total", code[f], code[e]) for f, e in p.folds.items()] for p in self.passes],
            "runs": [[(code[name], op == "following") for name, op in here.runs.items()] for here in self.passes],
            "loops": [tuple(code[name] for name in here.loop) for here in self.passes],
            "outputs": list(self.passes[-1].writes),
            "others": {name: list(self.numbers).index(name) for name in self.traced.others if name in self.numbers},
            "cost": self.cost(),
            **loops,
        }
        return found

    def check_room(self, layout):
        """FormulaError if the program is more than the engine's fixed tables (_kernels/rows.pxi) hold."""
        loops = [*layout["step"], *layout["along"], *layout["across"], *layout["again"]]
        for what, count, most in (
            ("inputs", len(self.traced.inputs) + len(self.traced.directions), 8),
            ("rows", len(layout["rows"]), 40),
            ("numbers of a row", len(layout["numbers"]), 64),
            ("passes", len(layout["step"]), 8),
            ("folds in a pass", max(map(len, layout["folds"])), 24),
            ("running sums in a pass", max(map(len, layout["runs"])), 8),
            ("outputs", len(layout["outputs"]), 8),
            ("arrays of a kernel", max(map(len, loops)), 64),
            ("hyperparameters", len(self.traced.parameters), 31),
            ("uniform numbers", len(self.uniforms), 31),
        ):
            if count > most:
                raise FormulaError(f"{self.traced.name}: a row formula must need at most {most} {what}, got {count}")

    def _loops(self):
        """Every kernel: its kind and place, what it reads and writes, and which of that are numbers of the whole tile."""
        for k, (step, here) in enumerate(zip(self.steps, self.passes, strict=True)):
            yield "step", k, step.reads, step.writes, ()
            yield "along", k, here.rows | here.numbers, here.writes, here.numbers
            yield "across", k, *self._across(here), ()
            yield "again", k, here.again.reads, here.again.writes, ()

    def _across(self, here):
        """A pass over one element of many rows: the folds are numbers that it reads and writes."""
        graph = self.traced.graph
        reads, writes = here.rows | here.numbers, {n: node for n, node in here.writes.items() if not here.folds or self.kept(n)}
        for fold, name in here.folds.items():
            element, so_far = self.rows[name], graph.node("input", f"{fold} so far")
            if name not in here.writes:
                reads[name] = element
            reads[fold] = so_far
            is_sum = self.numbers[fold].op == "total"
            writes[fold] = combine("add", so_far, element) if is_sum else maximum(so_far, element)
        return reads, writes


def _stages(outputs):
    """The folds and running sums that the outputs need, those together that can share one pass over the row, and its loop or None.

    `pick` takes no pass, a loop has one of its own.
    """
    outputs = list(outputs)
    loops = {id(node): node for node in walk(outputs) if node.op == "iterate"}
    inside = {id(fold): loop for loop in loops.values() for fold in _inside_loop(loop)[0]}
    depth, stages = {}, {}

    def measure(nodes):
        for node in walk(nodes):  # arguments first
            if id(node) in depth:
                continue
            before = node.operands
            if node.op == "iterate":
                before = [*before, *_inside_loop(node)[1]]
                measure(before)
            is_pass = node.op in RUNS or (node.op in FOLDS and node.op != "pick")
            depth[id(node)] = max((depth[id(a)] for a in before), default=0) + (is_pass and id(node) not in inside)
            if is_pass and node.op != "iterate":
                loop = inside.get(id(node))
                key = depth[id(node)], -1 if loop is None else list(loops).index(id(loop))
                stages.setdefault(key, ([], loop))[0].append(node)

    measure([*outputs, *(node.graph.loops[id(node)] for node in loops.values())])
    return [stages[key] for key in sorted(stages)]


def _inside_loop(loop):
    """The folds that a loop fills anew for each repeat, and what it uses that stays the same."""
    moving, folds, still = {id(loop)}, [], []
    for node in walk([loop.graph.loops[id(loop)]], stop=[loop]):
        if any(id(a) in moving for a in node.operands):
            moving.add(id(node))
            if node.op in FOLDS or node.op in RUNS:
                folds.append(node)
        elif node is not loop:
            still.append(node)
    elements, again = [fold.args[0] for fold in folds], {id(fold) for fold in folds}
    nested = any(fold.op in ("iterate", *RUNS) for fold in folds) or any(id(node) in again for node in walk(elements))
    if nested:
        raise FormulaError("the step of iterate must fold elements made of its number, of no fold made of that")
    return folds, still


def _numbers_of(elements, leaves, loop=None):
    """The numbers of the row that elements use directly, that are not there yet and not made of the loop's."""
    found, stack, seen = [], list(elements), {id(node) for node in leaves}
    moving = set() if loop is None else _made_of(loop, elements)
    while stack:
        node = stack.pop()
        if id(node) in seen or node.uniform:
            continue
        seen.add(id(node))
        if node.level == ROW and node.kind != BOOL and id(node) not in moving:
            found.append(node)
        elif node is not loop:
            stack.extend(node.operands)
    return [*found, *([] if loop is None else [loop])]


def _made_of(loop, nodes):
    """What among the nodes and their arguments is made of the loop's number, by id; not that itself."""
    moving = {id(loop)}
    for node in walk(nodes, stop=[loop]):
        if any(id(a) in moving for a in node.operands):
            moving.add(id(node))
    return moving - {id(loop)}
