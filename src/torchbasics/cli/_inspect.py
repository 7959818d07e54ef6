"""``torchbasics inspect``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchbasics import io

if TYPE_CHECKING:
    import argparse


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Print what is in the file.

    Raises:
        ValueError: the file cannot be loaded; it is said why.
    """
    report = io.inspect(args.file)
    intact = {True: "intact", False: "NOT intact: its digest does not match", None: "no digest"}[report["intact"]]
    print(f"{report['path']}: {report['kind']}, {report['bytes']:,} bytes, {intact}")
    if report["refused"]:
        if report["names"]:
            print(f"asks for  {', '.join(report['names'])}")
        raise ValueError(report["refused"])
    if report["model"]:
        config = ", ".join(f"{name}={value!r}" for name, value in report["config"].items())
        print(f"model     {report['model']}({config})")
    if report["history"]:
        last = ", ".join(f"{name} {value:.4g}" for name, value in report["history"][-1].items())
        print(f"history   {len(report['history'])} epochs; last: {last}")
    for name, value in (report["metadata"] or {}).items():
        print(f"metadata  {name}: {value}")
    print(f"tensors   {len(report['tensors'])}, with {report['elements']:,} values")
    for name, tensor in report["tensors"].items():
        print(f"  {name}  {tensor['dtype']}  {tuple(tensor['shape'])}")
    return report
