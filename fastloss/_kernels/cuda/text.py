"""Lines of kernels' text."""


def joined(lines, indent):
    """The lines as one text, those after the first so far to the right."""
    return ("\n" + " " * indent).join(lines)


def indented(lines, levels=1):
    """The lines, further to the right."""
    return ["    " * levels + line for line in lines]


def each(name, what, width):
    return ", ".join(f"{name}_{what}{k}" for k in range(width))


def loaded(name, width):
    return f"vector{width}({name}_at, i)" if width > 1 else f"{name}_at[i]"


def stored(name, width):
    values = each(name, "new", width)
    return f"put{width}({name}_at, i, {values})" if width > 1 else f"{name}_at[i] = {values}"
