"""The kernels of row losses: a group of threads goes along each row, pass after pass, and folds what it finds.

What a pass needs of an earlier one's elements is computed again: memory is dearer than arithmetic. Running sums alone are kept. A group
is one thread for short rows, a warp for longer ones, a block for long ones.
"""

from . import folds, walk
from .device import Kernel
from .row_access import RowAccess
from .row_passes import RowPasses
from .text import indented, joined

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
SHARED_ROWS = """
def {name}({arguments}):
    t = cuda.threadIdx.x
    lane = t
    high = real(0)
    low = real(0)
    {scale}
    for block in range(cuda.blockIdx.x, rows * segments, cuda.gridDim.x):
        row = block // segments
        segment = block % segments
        alive = True
        i = row
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


def row_kernel(variant, key, precision):
    """The kernel of a variant for a key."""
    text = _KernelText(variant, key, precision)
    name, arguments = f"{variant.traced.name}_rows", text.arguments()
    written = text.written(name, arguments)
    return Kernel(
        precision, name, written, arguments.values(), **folds.functions(precision, key.lanes), **text.passes.functions
    )


class _KernelText:
    """The text of one kernel: where a row lies, its passes, what is known at its end."""

    def __init__(self, variant, key, precision):
        self.key, self.precision = key, precision
        self.access = RowAccess(variant, key)
        self.passes = RowPasses(self.access, precision)
        self.program, self.codes = self.access.program, self.access.codes
        self.label, self.lists = self.access.label, self.access.lists

    def arguments(self):
        """The kernel's arguments and their types, in order."""
        key, real = self.key, self.precision.name
        names = list(self.codes)
        arguments = {"rows": "i64", "length": "i64"} | walk.arguments(names, key.dims)
        if not key.dense:
            arguments |= dict.fromkeys((f"{name}_along" for name in self.access.along), "i64")
        arguments |= {f"{name}_at": f"{code}*" for name, code in self.codes.items()}
        arguments |= {f"{name}_run": f"{real}*" for here in self.program.passes for name in here.runs}
        if self.lists:
            arguments |= {f"{role}_sum": f"{real}*" for role in self._outputs()}
        if key.stage is not None:
            arguments |= {"segments": "i64"} | {
                f"{fold}_parts": f"{real}*" for here in self.program.passes for fold in here.folds
            }
        arguments |= {"total_weight": f"{real}*"} if key.by_weights else {"scale": real}
        if key.sums:
            arguments["partials"] = f"{real}*"
        if self.label:
            arguments["ignored"] = "i64"
        if any(ends for _, ends in key.domains):
            arguments |= {"flags": "i64*"} | {f"slot_{name}": "i64" for name, ends in key.domains if ends}
        return arguments | dict.fromkeys(self.access.uniforms, real)

    # --- the row ------------------------------------------------------------------------------------------------------------

    def written(self, name, arguments):
        """The kernel's text."""
        scale = ["pass"]
        if self.key.by_weights:
            scale = ["weight_sum = as_one(total_weight[0], total_weight[1])"]
            scale.append("scale = where(weight_sum == real(0), real(0), real(1) / weight_sum)")
        body = self._list() if self.lists else self.passes.text(self._store)
        text = (ROWS if self.key.stage is None else SHARED_ROWS).format(
            name=name,
            arguments=", ".join(arguments),
            scale=joined(scale, 4),
            begin=joined(self._begin(), 8),
            body=joined(body, 8),
            end=joined(self._end() if self.access.is_last() else ["pass"], 8),
        )
        return text + (TAIL if self.key.sums and self.access.is_last() else "")

    def _begin(self):
        """Where the row lies, its weight, label and numbers."""
        lines = self.access.offsets()
        has_weights = self.key.has_weights
        lines.append(f"weight = from_{self.codes['weights']}(weights_at[at_weights])" if has_weights else "weight = real(1)")
        lines += self.access.report("weights", "weight", "row")
        if self.label:
            lines += [
                f"label = label_{self.codes[self.label]}({self.label}_at[at_{self.label}])",
                "counts = label != ignored",
                "inside = (label >= 0) & (label < length)",
                *self.access.flag(self.label, "counts and not inside", "row"),
                # The row of a label outside is not to pass for a result.
                "weight = where(counts, where(inside, weight, real(nan)), real(0))",
                "label = label if counts and inside else int64(0)",
            ]
        lines += [f"{n} = from_{self.codes[n]}({n}_at[at_{n}])" for n in self.access.numbers_given()]
        for n in self.access.numbers_given():
            lines += self.access.report(n, n, "row")
        return lines + ([] if self.lists else self._picks())

    def _picks(self):
        lines = []
        for name, node in self.program.picks.items():
            row = node.args[0].args[0]
            lines.append(f"{name} = {self.access.element(row, 'label')}")
        return lines

    def _list(self):
        """The passes once for each label of the row's list; values and results add up."""
        lines = ["value_sum = real(0)", "several = int64(0)", f"label = {self.access.listed('at_' + self.lists)}"]
        lines += ["for j in range(lane, length, LANES):", "    pass"]
        lines += [f"    {role}_sum[i * length + j] = real(0)" for role in self._outputs()]
        inner = [*self._picks(), *self.passes.text(self._accumulate), "value_sum += value", "several += 1"]
        inner.append(
            f"label = {self.access.listed(self.access.place(self.lists, 'several'))} if several < length else int64(-1)"
        )
        lines += ["while (label >= 0) & (label < length):", *indented(inner), "value = value_sum"]
        lines += [*self.access.flag(self.lists, "label != -1", "row"), "if label != -1:", "    weight = real(nan)"]
        lines += ["factor = weight * scale"]
        stores = [
            f"{role}_at[{self.access.place(role, 'j')}] = to_{self.codes[role]}({self._scaled(f'{role}_sum[i * length + j]')})"
            for role in self._outputs()
        ]
        return [*lines, "if alive:", "    for j in range(lane, length, LANES):", "        pass", *indented(stores, 2)]

    def _outputs(self):
        return [role for role in self.program.passes[-1].writes]

    def _end(self):
        """What is known of the row once it was gone along."""
        lines, codes = [], self.codes
        first = "alive" if self.key.stage is None else "segment == 0"
        if self.key.sums:
            lines += [
                f"if {first} and lane == 0 and not weight == real(0):",
                "    high, low = add_to(high, low, value * weight)",
            ]
        stores = (
            [f"value_at[at_value] = to_{codes['value']}(where(weight == real(0), real(0), value * weight))"]
            if "value" in codes
            else []
        )
        for name in self.access.traced.others:
            if name in codes:
                stores.append(f"{name}_at[at_{name}] = to_{codes[name]}(where(weight == real(0), real(0), {name}))")
        return lines + ([f"if {first} and lane == 0:", *indented(stores)] if stores else []) or ["pass"]

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
                lines.append(f"{role}_at[{self.access.place(role, 'j')}] = {values[0]}")
        return ["if alive:", *indented(lines)]

    def _accumulate(self, names, width):
        lines = [f"{role}_sum[i * length + j] += {self._at_label(role, f'{name}_0', 0)}" for role, name in names.items()]
        return ["if alive:", *indented(lines)]
