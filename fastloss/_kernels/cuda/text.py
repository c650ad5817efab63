"""Lines of kernels' text."""


def joined(lines, indent):
    """The lines as one text, those after the first so far to the right."""
    return ("\n" + " " * indent).join(lines)


def indented(lines, levels=1):
    """The lines, further to the right."""
    return ["    " * levels + line for line in lines]
