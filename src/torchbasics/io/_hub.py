"""Saved models on the Hugging Face hub: the file of `save`, its arguments as JSON, and a card."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from torchbasics import _checks, _zoo
from torchbasics.io._model import load, save

if TYPE_CHECKING:
    from torch import nn

FILE = "model.safetensors"
CARD = """---
library_name: torchbasics
tags:
- torchbasics
- {name}
---

# {repository}

A `{name}` of [torchbasics](https://github.com/org/torchbasics), with {parameters:,} parameters. Its arguments are in
`config.json`; `model.safetensors` holds it whole, and a digest that is checked when it is loaded.

```python
from torchbasics import io

model = io.from_pretrained("{repository}")
```
"""


def push_to_hub(model: nn.Module, repository: str, *, private: bool = False, token: str | None = None) -> str:
    """Put *model* into *repository* on the hub, which is made if it is not there; the commit's URL is returned.

    Args:
        model: What `save` takes.
        repository: "owner/name".
        private: Whether others may not see a repository made by this call.
        token: Who asks; None = who ``hf auth login`` logged in, or the one in ``HF_TOKEN``.

    Raises:
        ImportError: the extra "hub" is not installed.
        TypeError: the model's class is not registered.
        OSError: the hub refuses, or cannot be reached.

    >>> push_to_hub(model, "you/shirts")  # doctest: +SKIP
    'https://huggingface.co/you/shirts/commit/...'
    """
    hub: Any = _checks.require("huggingface_hub", "hub")
    with TemporaryDirectory() as name:
        folder = Path(name)
        save(model, folder / FILE)
        kind = str(_zoo.name_of(model))
        config = json.dumps({"model": kind, "config": _zoo.config_of(model)}, indent=2)
        (folder / "config.json").write_text(config + "\n", encoding="utf-8")
        parameters = sum(p.numel() for p in model.parameters())
        card = CARD.format(repository=repository, name=kind, parameters=parameters)
        (folder / "README.md").write_text(card, encoding="utf-8")
        api = hub.HfApi(token=token)
        api.create_repo(repository, private=private, exist_ok=True)
        message = f"Add {kind} with torchbasics"
        return str(api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message).commit_url)


def from_pretrained(repository: str, *, revision: str | None = None, token: str | None = None) -> nn.Module:
    """Load the model that `push_to_hub` put into *repository*; the file is kept in the hub's cache and checked.

    Args:
        repository: "owner/name".
        revision: A branch, a tag or, so that it can never change, a commit; None = the newest.
        token: As for `push_to_hub`.

    Raises:
        ImportError: the extra "hub" is not installed.
        OSError: the repository or the file is not there, or cannot be reached and is not in the cache.
        CheckpointError: what `load` refuses.

    >>> model = from_pretrained("you/shirts", revision="0123abc")  # doctest: +SKIP
    """
    hub: Any = _checks.require("huggingface_hub", "hub")
    return load(hub.hf_hub_download(repository, FILE, revision=revision, token=token))
