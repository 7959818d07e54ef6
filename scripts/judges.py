"""Ask the tools that judge Python packages, and print one table: ``python scripts/judges.py [NAME ...]``.

Exits with 1 unless all are perfect. What a judge says in full is printed where it finds something.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Judge(NamedTuple):
    """A command, and how its verdict is read.

    ``{dist}`` in the command are the built packages, ``{tag}`` is the tag of the last release. It is perfect if it
    exits with 0, or, where *flaw* is given, if it did not crash and what it prints does not match that.
    """

    command: str
    score: str = ""
    """A regular expression whose first group is the result to show; all matches are counted where it has no group."""
    flaw: str = ""
    aside: str = ""
    """What it judges by default, and not here; the table tells."""


JUDGES = {
    "sp-repo-review": Judge("repo-review . --format json", r'"result": (?:true|false)'),
    "validate-pyproject": Judge("validate-pyproject pyproject.toml", r"(Valid file)"),
    "check-wheel-contents": Judge("check-wheel-contents {wheel}", r"(OK)"),
    "twine check --strict": Judge("twine check --strict {dist}", r"PASSED"),
    "pydistcheck": Judge(
        "pydistcheck --ignore unexpected-files {dist}", r"(\d+ errors? found)", aside="unexpected-files"
    ),
    "pyroma": Judge("pyroma -n 10 .", r"Final rating: (\d+/10)"),
    "mypy --strict": Judge("mypy", r"(no issues found in \d+ source files)"),
    "basedpyright --verifytypes": Judge(
        "basedpyright --verifytypes torchbasics --ignoreexternal", r"Type completeness score: (\S+)"
    ),
    "ruff check": Judge("ruff check", r"(All checks passed)"),
    "ruff format": Judge("ruff format --check", r"(\d+ files already formatted)"),
    "interrogate": Judge("interrogate -v -f 100 src", r"actual: (\S+%)"),
    "pydoclint": Judge(  # "Args" stand where the type does not say it, so what is missing is no flaw; what is wrong is
        "pydoclint -q src",
        flaw=r"DOC(?!101|103|201|402|404)\d+|in the docstring but not in the function signature",
        aside="DOC101, 103, 201, 203, 402, 404, 5xx, 6xx",
    ),
    "codespell": Judge("codespell"),
    "typos": Judge("typos --format brief"),
    "zizmor": Judge("zizmor --offline --persona=auditor .github", r"(No findings to report)"),
    "check-jsonschema: workflows": Judge(
        "check-jsonschema --builtin-schema vendor.github-workflows {workflows}", r"(ok)"
    ),
    "check-jsonschema: dependabot": Judge(
        "check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml", r"(ok)"
    ),
    "check-jsonschema: readthedocs": Judge(
        "check-jsonschema --builtin-schema vendor.readthedocs .readthedocs.yaml", r"(ok)"
    ),
    "check-jsonschema: citation": Judge(
        "check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff", r"(ok)"
    ),
    "check-jsonschema: issue forms": Judge(
        "check-jsonschema --builtin-schema vendor.github-issue-forms {forms}", r"(ok)"
    ),
    "bandit": Judge("bandit -q -r src"),
    "deptry": Judge("deptry src", r"(No dependency issues found)"),
    "vulture": Judge("vulture src --min-confidence 80", aside="confidence below 80 %"),
    "import layers": Judge(f"{sys.executable} -m pytest -q -k import tests/test_house.py", r"(\d+ passed)"),
    "griffe": Judge("griffe check torchbasics -s src -a {tag}"),
}


def places(dist: Path) -> dict[str, str]:
    """Build the packages in *dist*, and return what the names in the commands stand for."""
    subprocess.run([sys.executable, "-m", "build", "--outdir", dist], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    git = ("git", "describe", "--tags", "--abbrev=0", "--match", "v*")
    tag = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    forms = [str(path) for path in sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")) if path.stem != "config"]
    workflows = map(str, sorted((ROOT / ".github/workflows").glob("*.yml")))
    wheel, both = next(dist.glob("*.whl")), map(str, dist.iterdir())
    found = {"tag": tag, "wheel": str(wheel), "dist": " ".join(both), "forms": " ".join(forms)}
    return found | {"workflows": " ".join(workflows)}


def ask(judge: Judge, where: dict[str, str]) -> tuple[str, bool, str]:
    """Return the result to show, whether it is perfect, and all that the judge said."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = shlex.split(judge.command.format_map(where))
    run = subprocess.run(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    text = re.sub(r"\x1b\[[\d;]*m", "", run.stdout)
    perfect = run.returncode == 0
    if judge.flaw:
        perfect = run.returncode in (0, 1) and not re.search(rf"Traceback|{judge.flaw}", text)
    score = re.compile(judge.score or r"(?!)")
    found = score.findall(text)
    if not found:
        return "no findings" if perfect else "findings", perfect, text
    return found[-1] if score.groups else f"{len(found)} passed", perfect, text


def main(names: list[str]) -> int:
    """Print the table of all judges, or of those named."""
    if unknown := set(names) - set(JUDGES):
        sys.exit(f"no judge {', '.join(sorted(unknown))}; there are {', '.join(JUDGES)}")
    rows, reports = [("judge", "result", "perfect")], []
    with tempfile.TemporaryDirectory() as dist:
        where = places(Path(dist))
        for name in names or JUDGES:
            if "{tag}" in JUDGES[name].command and not where["tag"]:
                rows.append((name, "skipped: there is no release to compare with (no tag v*)", "-"))
                continue
            result, perfect, text = ask(JUDGES[name], where)
            aside = f"; left out: {JUDGES[name].aside}" if JUDGES[name].aside else ""
            rows.append((name, result + aside, "yes" if perfect else "NO"))
            if not perfect:
                reports.append(f"--- {name}\n{text}")
    print(*reports, sep="\n")
    width = [max(len(row[i]) for row in rows) for i in range(3)]
    for row in [rows[0], tuple("-" * w for w in width), *rows[1:]]:
        print("| " + " | ".join(cell.ljust(w) for cell, w in zip(row, width, strict=True)) + " |")
    return int(bool(reports))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
