#!/usr/bin/env -S python3
# /// script
# dependencies = ["nox>=2026.4"]
# ///
"""What there is to check: ``nox`` runs what has to pass, ``nox -s tests`` one session, ``nox -l`` lists them all."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path
from typing import NamedTuple

import nox

nox.needs_version = ">=2026.4"
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True

PYPROJECT = nox.project.load_toml(Path(__file__).with_name("pyproject.toml"))


class Leg(NamedTuple):
    """What the tests run on: a Python (None is the one that runs nox), and the versions of torch and torchvision."""

    python: str | None = None
    torch: str | None = None
    vision: str | None = None

    @property
    def requirements(self) -> list[str]:
        """What pip is asked for."""
        versions = {"torch": self.torch, "torchvision": self.vision}
        return [f"{name}=={version}" if version else name for name, version in versions.items()]


# All that is tested, written once: the jobs on GitHub and the table in docs/versions.md are made of it.
# The floor is what pyproject.toml promises, "newest" what pip chooses; these two are in every run.
MATRIX = {
    "floor": Leg("3.11", "2.6.0", "0.21.0"),
    "2.9": Leg("3.12", "2.9.1", "0.24.1"),
    "2.14": Leg("3.12", "2.14.1", "0.29.1"),
    "2.15": Leg("3.13", "2.15.0", "0.29.2"),
    "newest": Leg(),
}
ALWAYS = ("newest", "floor")
OLDER = ("--ignore=tests/test_benchmarks.py",)  # `bench` measures with the newest alone


def legs(*names: str) -> list[nox.param]:
    return [nox.param(MATRIX[name].python, name, id=name) for name in names]


def group(name: str) -> list[str]:
    return list(nox.project.dependency_groups(PYPROJECT, name))


def pytest(session: nox.Session, *options: str) -> None:
    """Run the tests in three processes, with what stands after ``--`` on nox's command line."""
    # They wait for a third of their time; tests that share what is slow to make stay together.
    processes = ("-n", "3", "--dist", "loadgroup")
    session.run("python", "-m", "pytest", *processes, *options, *session.posargs, env={"OMP_NUM_THREADS": "1"})


@nox.session
def lint(session: nox.Session) -> None:
    """Style: the rules and the format of ruff."""
    session.install(*group("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
@nox.parametrize("python,leg", legs(*ALWAYS))
def tests(session: nox.Session, leg: str) -> None:
    """Tests against the built package; with the newest torch also types."""
    session.install(*MATRIX[leg].requirements, ".[all]", *group("types"))
    if leg == "newest":
        session.run("mypy")
    pytest(session, *(() if leg == "newest" else OLDER))


@nox.session(default=False)
def coverage(session: nox.Session) -> None:
    """Tests with a count of the lines that run, in all processes: at least 95 %. It takes half as long again."""
    session.install(*MATRIX["newest"].requirements, ".[all]", *group("test"))
    session.run("coverage", "erase")
    pytest(session, "--cov=torchbasics", "--cov-report=term", "--cov-fail-under=95")


@nox.session(default=False)
@nox.parametrize("python,leg", legs(*(name for name in MATRIX if name not in ALWAYS)))
def matrix(session: nox.Session, leg: str) -> None:
    """Tests with the other versions of torch and Python."""
    session.install(*MATRIX[leg].requirements, ".[all]", *group("test"))
    pytest(session, *OLDER)


@nox.session(default=False, python=MATRIX["floor"].python)
def lowest(session: nox.Session) -> None:
    """Tests with the oldest version of each dependency that pyproject.toml allows."""
    project = PYPROJECT["project"]
    extras = [r for name, extra in project["optional-dependencies"].items() if name != "all" for r in extra]
    floors = [requirement.replace(">=", "==") for requirement in project["dependencies"] + extras]
    session.install(*floors, ".[all]", *group("test"))
    pytest(session)


@nox.session(default=False)
def bare(session: nox.Session) -> None:
    """Tests without any extra: what needs one is skipped, the rest passes."""
    session.install(".", *group("test"))
    pytest(session, "--ignore=src/torchbasics/plot.py")  # its examples draw


def packages(session: nox.Session) -> tuple[str, Path]:
    """Return the wheel in dist/, and a new folder with the sdist unpacked; both are what `build` or a download left."""
    wheels, archives = list(Path("dist").glob("*.whl")), list(Path("dist").glob("*.tar.gz"))
    if len(wheels) != 1 or len(archives) != 1:
        session.error("dist/ does not hold one wheel and one sdist; put build in front: nox -s build wheel sdist")
    folder = Path(session.create_tmp()).resolve() / "sdist"
    shutil.rmtree(folder, ignore_errors=True)
    with tarfile.open(archives[0]) as tar:
        tar.extractall(folder, filter="data")
    return str(wheels[0].resolve()), folder / archives[0].name.removesuffix(".tar.gz")


@nox.session(default=False)
def build(session: nox.Session) -> None:
    """Sdist and wheel in dist/, the wheel from the sdist."""
    session.install("build")
    shutil.rmtree("dist", ignore_errors=True)
    session.run("python", "-m", "build")


@nox.session(default=False)
def wheel(session: nox.Session) -> None:
    """Tests against the wheel in dist/, its doctests instead of those of the sources."""
    built, tree = packages(session)
    session.install(f"{built}[all]", *group("test"))
    session.install("--force-reinstall", "--no-deps", built)
    session.chdir(tree)
    pytest(session, *(() if session.posargs else ("tests", "--pyargs", "torchbasics")))


@nox.session(default=False)
def sdist(session: nox.Session) -> None:
    """Tests of the sdist in dist/, unpacked and installed from itself."""
    _, tree = packages(session)
    session.chdir(tree)
    session.install(".[all]", *group("test"))
    session.install("--force-reinstall", "--no-deps", ".")
    pytest(session)


@nox.session(default=False)
def judges(session: nox.Session) -> None:
    """What the tools that judge Python packages say, in one table; ``-- NAME ...`` asks some of them."""
    session.install(".[all]", *group("judges"), *group("types"))
    session.run("python", "scripts/judges.py", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The site, English and Chinese, in build/docs/html; a warning is an error."""
    session.install(".[all]", *group("test"), *group("docs"))
    session.run("python", "scripts/make_live.py")
    site = "build/docs/html"
    for language, folder in (("en", site), ("zh_CN", f"{site}/zh")):
        options = ("-n", "-W", "--keep-going", "-E", "-b", "html", "-D", f"language={language}")
        session.run("python", "-m", "sphinx", *options, "docs", folder)
    tests = [f"tests/test_{name}.py" for name in ("docs_build", "chinese", "live", "make_live")]
    session.run("python", "-m", "pytest", *tests, *session.posargs, env={"TORCHBASICS_SITE": site})


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Figures side by side with other libraries; ``nox -s bench -- --quick`` only sees that they can be taken."""
    session.install(*MATRIX["newest"].requirements, ".[all]", *group("bench"))
    results = ("--markdown", "benchmarks/RESULTS.md", "--json", "benchmarks/RESULTS.json")
    session.run("python", "-m", "benchmarks", *(session.posargs or results))


@nox.session(default=False)
def release(session: nox.Session) -> None:
    """Whether this tree and the packages in dist/ can be published: see RELEASING.md. Publishes nothing."""
    session.run("python", "scripts/release_check.py")


if __name__ == "__main__":
    nox.main()
