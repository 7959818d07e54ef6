"""Write docs/_inv: where the documentation of Python, torch and others has the names that ours refers to.

Sphinx would download these inventories whole; small ones in the repository let the site be built without a network,
and every name that is not in them is an error. ``--check`` only says which are stale.
"""

from __future__ import annotations

import sys
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OWN_PAGE = "generated/{name}.html#{name}"

# Project -> pages, with the names that are described there, as role:name; {name} stands for the name.
PROJECTS: dict[str, dict[str, str]] = {
    "python": {
        "library/exceptions.html#{name}": (
            "exception:ArithmeticError exception:AssertionError exception:FileExistsError exception:FileNotFoundError "
            "exception:ImportError exception:IndexError exception:KeyboardInterrupt exception:KeyError "
            "exception:NotImplementedError exception:OSError exception:PermissionError exception:RuntimeError "
            "exception:SystemExit exception:TypeError exception:UserWarning exception:ValueError"
        ),
        "library/functions.html#{name}": "class:bool class:float class:int class:object",
        "library/stdtypes.html#{name}": "class:dict class:list class:set class:str class:tuple",
        "library/stdtypes.html#bytes": "class:bytes",
        "library/functions.html#type": "class:type",
        "library/constants.html#{name}": "data:None data:True data:False",
        "library/typing.html#{name}": "data:typing.Any data:typing.Literal data:typing.Unpack class:typing.NamedTuple",
        "library/collections.abc.html#{name}": (
            "class:collections.abc.Callable class:collections.abc.Collection class:collections.abc.Iterable "
            "class:collections.abc.Iterator class:collections.abc.Mapping class:collections.abc.Sequence"
        ),
        "library/contextlib.html#{name}": "class:contextlib.AbstractContextManager",
        "library/abc.html#{name}": "class:abc.ABC",
        "library/os.html#{name}": "class:os.PathLike",
        "library/pathlib.html#{name}": "class:pathlib.Path",
    },
    "torch": {
        "tensors.html#{name}": "class:torch.Tensor",
        "tensor_attributes.html#{name}": "class:torch.device class:torch.dtype class:torch.memory_format",
        "optim.html#{name}": "class:torch.optim.Optimizer",
        "data.html#{name}": (
            "class:torch.utils.data.Dataset class:torch.utils.data.DataLoader class:torch.utils.data.TensorDataset"
        ),
        "hub.html#{name}": "function:torch.hub.load function:torch.hub.get_dir function:torch.hub.list",
        "nn.html#torch.nn.utils.rnn.PackedSequence": "class:torch.nn.utils.rnn.PackedSequence",
        OWN_PAGE: (
            "class:torch.Generator class:torch.nn.Module class:torch.nn.RNN class:torch.nn.LSTM class:torch.nn.GRU "
            "class:torch.nn.RNNCell class:torch.nn.Linear class:torch.nn.Conv2d class:torch.nn.Sequential "
            "class:torch.nn.CrossEntropyLoss class:torch.nn.BatchNorm2d class:torch.nn.Dropout "
            "class:torch.optim.lr_scheduler.LRScheduler class:torch.optim.SGD class:torch.optim.AdamW "
            "function:torch.compile function:torch.load function:torch.save function:torch.manual_seed "
            "function:torch.tensor function:torch.equal function:torch.no_grad class:torch.inference_mode"
        ),
        "generated/torch.nn.parameter.Parameter.html#{name}": "class:torch.nn.parameter.Parameter",
    },
    "numpy": {
        "reference/generated/{name}.html#{name}": "class:numpy.ndarray",
        "reference/typing.html#{name}": "data:numpy.typing.NDArray",
    },
    "matplotlib": {"api/figure_api.html#{name}": "class:matplotlib.figure.Figure"},
}


def inventory(project: str, pages: dict[str, str]) -> bytes:
    """Return an inventory in Sphinx's format, version 2."""
    entries = []
    for page, names in pages.items():
        for role, name in (entry.split(":", 1) for entry in names.split()):
            address = page.format(name=name)
            short = f"{address.removesuffix(name)}$" if address.endswith(f"#{name}") else address
            entries.append(f"{name} py:{role} 1 {short} -\n")
    head = f"# Sphinx inventory version 2\n# Project: {project}\n# Version: \n"
    head += "# The remainder of this file is compressed using zlib.\n"
    return head.encode() + zlib.compress("".join(sorted(entries)).encode(), 9)


def content(data: bytes) -> bytes:
    """Return what is in an inventory: compressors differ."""
    return zlib.decompress(data.split(b"\n", 4)[4])


def main(arguments: list[str], root: Path = ROOT) -> int:
    """Write what is stale; with ``--check`` only name it and return 1."""
    stale = []
    for project, pages in PROJECTS.items():
        path, data = root / "docs/_inv" / f"{project}.inv", inventory(project, pages)
        if path.is_file() and content(path.read_bytes()) == content(data):
            continue
        stale.append(path)
        if "--check" not in arguments:
            path.write_bytes(data)
    for path in stale:
        print(f"{'stale' if '--check' in arguments else 'written'}: {path.relative_to(root)}")
    return int(bool(stale) and "--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
