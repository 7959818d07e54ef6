"""The command: ``python -m benchmarks [--only PART ...] [--quick]``."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks._measure import Settings
from benchmarks._report import as_data, document, machine, now, parts_of, table

if TYPE_CHECKING:
    from benchmarks._measure import Part

PARTS = {  # name -> module:function, in the order of the table
    "step": "steps:step",
    "mlp": "steps:mlp_epoch",
    "cnn": "steps:cnn_epoch",
    "cnn_peers": "steps:cnn_peers",
    "rnn": "networks:rnn",
    "dcgan": "networks:dcgan",
    "evaluate": "networks:evaluation",
    "accuracy": "accuracy:accuracy",
    "import": "processes:imports",
    "command": "processes:command",
    "files": "processes:files",
    "memory": "processes:memory",
    "growth": "growth:growth",
    "scaling": "scaling:scaling",
}


def main() -> None:
    """Measure, print the tables, and write them."""
    options = _options()
    warnings.simplefilter("ignore")  # of the peers
    settings = Settings(
        options.quick, options.rounds, not options.without_peers, options.recipe, options.share, options.busy
    )
    if options.profile:
        importlib.import_module("benchmarks.profiling").show(options.profile, settings)
        return
    print(f"{machine()}\n", flush=True)
    parts: dict[str, Part] = {}
    if options.only and options.json and options.json.is_file():
        parts = parts_of(json.loads(options.json.read_text(encoding="utf-8")))
    for name in options.only or PARTS:
        module, _, function = PARTS[name].partition(":")
        parts[name] = getattr(importlib.import_module(f"benchmarks.{module}"), function)(settings)
        parts[name].judged, parts[name].taken = not options.quick, f"({now()})"
        if options.busy:
            parts[name].notes.insert(0, "`--busy`: processor time of one thread instead of the wall's with two")
        if options.share < 1:
            parts[name].notes.insert(0, f"`--share {options.share:g}` of the 60,000 images")
        print(table(name, parts[name]), flush=True)
        parts = {known: parts[known] for known in PARTS if known in parts}
        if options.json:  # after each part, so that what was measured is not lost
            options.json.write_text(json.dumps(as_data(parts), indent=1) + "\n", encoding="utf-8")
        if options.markdown:
            options.markdown.write_text(document(parts), encoding="utf-8")
    sys.stdout.flush()
    os._exit(0)  # some peers leave threads behind


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="little work: only whether it runs")
    parser.add_argument("--rounds", type=int, help="at most so many rounds; each part has its own number")
    parser.add_argument("--share", type=float, default=1.0, help="of the training images, for less time")
    parser.add_argument("--busy", action="store_true", help="others use this machine: no times on the wall, one thread")
    parser.add_argument("--without-peers", action="store_true", help="leave out other libraries")
    parser.add_argument("--recipe", help="of the part accuracy, as JSON")
    parser.add_argument("--profile", choices=("mlp", "cnn", "bfloat16", "dcgan"), help="a step, op by op, instead")
    parser.add_argument("--json", type=Path, help="a file for all figures; with --only those of other parts stay in it")
    parser.add_argument("--markdown", type=Path, help="a file for the tables")
    return parser.parse_args()


if __name__ == "__main__":
    main()
