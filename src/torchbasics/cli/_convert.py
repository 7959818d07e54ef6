"""``torchbasics convert``: a pickled state_dict in, safetensors out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchbasics import _files
from torchbasics._pickles import shown
from torchbasics.io._pickle import SUFFIXES, read_part
from torchbasics.io._state import write_state

if TYPE_CHECKING:
    import argparse


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Read the state_dict without running anything in it, and write it as `torchbasics.io.save_state` does.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: there is no tensor in it that could be written.
    """
    _files.check_file(args.file)
    if Path(args.file).suffix not in SUFFIXES:
        raise ValueError(f"IN must end in {', '.join(SUFFIXES)}, got {args.file!r}; io.load_state reads .safetensors")
    tensors, left_out = read_part(args.file, args.key)
    if not tensors:
        raise ValueError(
            f"{args.file!r} holds no tensors, but {', '.join(dict.fromkeys(left_out.values())) or 'an empty dict'}"
        )
    write_state(tensors, args.out)
    elements = sum(tensor.numel() for tensor in tensors.values())
    print(f"{args.file} -> {args.out}: {len(tensors)} tensors with {elements:,} values, for io.load_state")
    for name, kind in left_out.items():
        print(f"left out: {shown(name)} is {kind}")
    report = {"file": args.file, "out": args.out, "tensors": list(tensors), "elements": elements}
    return {**report, "left_out": {str(name): kind for name, kind in left_out.items()}}
