"""What is said about a formula: docstrings, rows of tables."""


def docstring(formula, loss):
    return formula.doc


def optimizer_docstring(rule):
    return rule.doc
