#!/usr/bin/env -S python3
# /// script
# dependencies = ["nox>=2026.4"]
# ///
"""What there is to check: ``nox`` runs it all, ``nox -s tests`` one session."""

from __future__ import annotations

import nox

nox.needs_version = ">=2026.4"
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True

PYPROJECT = nox.project.load_toml("pyproject.toml")

# torch -> torchvision; the floor is what pyproject.toml promises, "newest" what pip chooses.
TORCHES = {
    "newest": ("torch", "torchvision"),
    "floor": ("torch==2.6.0", "torchvision==0.21.0"),
}


def group(name: str) -> list[str]:
    return list(nox.project.dependency_groups(PYPROJECT, name))


@nox.session
def lint(session: nox.Session) -> None:
    """Style: the rules and the format of ruff."""
    session.install(*group("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
@nox.parametrize("torch", [nox.param(name, id=name) for name in TORCHES])
def tests(session: nox.Session, torch: str) -> None:
    """Tests against the built package; with the newest torch also types and coverage."""
    session.install(*TORCHES[torch], ".[all]", *group("types"))
    session.env["OMP_NUM_THREADS"] = "1"
    if torch == "newest":
        session.run("mypy")
        session.run("coverage", "erase")
        options = ["--cov=torchbasics", "--cov-report=term", "--cov-fail-under=95"]
    else:
        options = []
    session.run("python", "-m", "pytest", "-n", "2", *options, *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The site, English and Chinese, in build/docs/html; a warning is an error."""
    session.install(".", "pytest>=9.2", *group("docs"))
    site = "build/docs/html"
    for language, folder in (("en", site), ("zh_CN", f"{site}/zh")):
        options = ("-n", "-W", "--keep-going", "-E", "-b", "html", "-D", f"language={language}")
        session.run("python", "-m", "sphinx", *options, "docs", folder)
    session.run("python", "-m", "pytest", "tests/test_docs_build.py", env={"TORCHBASICS_SITE": site})


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Figures side by side with other libraries; ``nox -s bench -- --quick`` only sees that they can be taken."""
    session.install(*TORCHES["newest"], ".[all]", *group("bench"))
    results = ("--markdown", "benchmarks/RESULTS.md", "--json", "benchmarks/RESULTS.json")
    session.run("python", "-m", "benchmarks", *(session.posargs or results))


if __name__ == "__main__":
    nox.main()
