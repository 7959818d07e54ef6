"""``torchbasics check``: common mistakes in model and data, found before training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from torchbasics import _env
from torchbasics.cli._data import load_data, make_model, read_config
from torchbasics.training import check

if TYPE_CHECKING:
    import argparse


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Print what `torchbasics.training.check` finds."""
    source = args.data or "mini"
    config = read_config(args.model, args.set)
    train, _ = load_data(args, source)
    torch.manual_seed(0)
    model = make_model(args.model, config, train).to(_env.device(args.device))
    findings = check(model, train)
    for finding in findings:
        print(finding)
    if not findings:
        print(f"nothing found in {args.model} on {len(train):,} images of {source}")
    return {"model": args.model, "data": source, "findings": [vars(finding) for finding in findings]}
