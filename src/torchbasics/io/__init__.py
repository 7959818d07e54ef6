"""Models and their parameters in files: safetensors, checked when read; no code is ever run from a file.

>>> from pathlib import Path
>>> from tempfile import TemporaryDirectory
>>> from torchbasics import models
>>> model = models.get_model("mlp", hidden=(32,))
>>> with TemporaryDirectory() as folder:
...     path = Path(folder, "mlp.safetensors")
...     save(model, path)
...     same = load(path)
>>> same.hidden
(32,)
"""

from torchbasics._files import CheckpointError as CheckpointError

from ._export import export as export
from ._hub import from_pretrained as from_pretrained
from ._hub import push_to_hub as push_to_hub
from ._inspect import inspect as inspect
from ._model import load as load
from ._model import save as save
from ._state import load_state as load_state
from ._state import save_state as save_state
