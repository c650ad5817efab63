"""The tasks of development: `nox -l` lists them, `nox -s test -- tests/test_losses.py -k huber` hands arguments on."""

import nox

nox.options.sessions = ["lint", "test"]
nox.options.reuse_existing_virtualenvs = True
nox.options.default_venv_backend = "venv"


@nox.session
def build(session):
    """Build the wheel and the source distribution into dist/."""
    session.install("build")
    session.run("python", "-m", "build", *session.posargs)


@nox.session
def test(session):
    """Install the package with its test extra, and run the tests on all cores."""
    session.install(".[test]")
    session.run("pytest", *(session.posargs or ["-n", "auto"]))


@nox.session
def lint(session):
    """Run the checks that run before every commit, over the whole tree."""
    session.install("pre-commit")
    session.run("pre-commit", "run", "--all-files", "--show-diff-on-failure", *session.posargs)


@nox.session
def docs(session):
    """Check what the documentation says: README's examples and tables, docstrings, links."""
    session.install(".[test]")
    session.run("pytest", "tests/test_docs.py", "tests/test_package.py", "tests/test_fault_table.py", *session.posargs)


@nox.session
def regenerate(session):
    """Write anew what is generated and kept in the repository: README's tables, the golden texts, the ABI.

    With the argument `references` also the numbers of other libraries, which are installed for it.
    """
    session.install(".[test]")
    for script in ("test_docs.py", "test_emit.py", "test_cimport.py"):
        session.run("python", f"tests/{script}", "--update")
    if "references" in session.posargs:
        session.install("torch", "optax")
        session.run("python", "tests/references.py")
