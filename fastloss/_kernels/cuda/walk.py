"""Where an element lies in arrays of several dimensions: the text that finds it, and the numbers that it needs."""


def arguments(names, dims):
    """The kernel's arguments for a walk over so many dimensions: their lengths but for the first, and every array's strides."""
    lengths = [f"span{d}" for d in range(1, dims)]
    return dict.fromkeys([*lengths, *(f"{name}_step{d}" for name in names for d in range(dims))], "i64")


def values(shape, strides):
    """What they are for arrays of these strides, which are those of `memory.collapsed`."""
    return [*shape[1:], *(step for steps in strides for step in steps)]


def offsets(names, dims):
    """The statements that make `at_NAME` of the element's number `i`."""
    if dims == 0:
        return [f"at_{name} = 0" for name in names]
    lines, rest = [], "i"
    for d in reversed(range(1, dims)):
        lines += [f"place{d} = {rest} % span{d}", f"rest{d} = {rest} // span{d}"]
        rest = f"rest{d}"
    lines.append(f"place0 = {rest}")
    return lines + [f"at_{name} = " + " + ".join(f"place{d} * {name}_step{d}" for d in range(dims)) for name in names]
