"""Make the files in tests/fixtures/torch16: what torch 1.6.0 wrote, with the tutorial's model and its two ways to save.

    python3.8 -m venv old
    old/bin/python -m pip install torch==1.6.0 "numpy<1.20"
    old/bin/python scripts/make_torch16_files.py

torch 1.6.0 has wheels for Python 3.6 to 3.8, and this script runs on them. The numbers come out the same each time;
the files do not, byte by byte, since torch 1.6 names storages by their address.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn

HERE = Path(__file__).parents[1] / "tests" / "fixtures" / "torch16"


class MyModel(nn.Module):
    """The tutorial's first model."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(2, 2)
        nn.init.xavier_normal_(self.fc1.weight)
        nn.init.xavier_normal_(self.fc1.bias.view((1, -1)))
        self.f1 = nn.Sigmoid()
        self.fc2 = nn.Linear(2, 3)
        nn.init.xavier_normal_(self.fc2.weight)
        nn.init.xavier_normal_(self.fc2.bias.view((1, -1)))
        self.f2 = nn.Softmax(-1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the shares of three classes."""
        x: Tensor = self.fc1(inputs)  # (N, 2)
        x = self.f1(x)
        x = self.fc2(x)  # (N, 3)
        x = self.f2(x)
        return x  # noqa: RET504  # as the tutorial has it


def main() -> None:
    """Write the model's parameters and the model, both in both formats, and what the model computes."""
    if not torch.__version__.startswith("1.6.0"):
        raise SystemExit("this is torch " + torch.__version__ + "; run it with torch 1.6.0 on Python 3.8")
    torch.manual_seed(16)
    model = MyModel()
    HERE.mkdir(parents=True, exist_ok=True)
    for folder, is_zip in (("zip", True), ("legacy", False)):
        (HERE / folder).mkdir(exist_ok=True)
        torch.save(model.state_dict(), str(HERE / folder / "parameter.pkl"), _use_new_zipfile_serialization=is_zip)
        torch.save(model, str(HERE / folder / "my_model.pkl"), _use_new_zipfile_serialization=is_zip)
    inputs = torch.tensor([[1.0, 1.0], [0.0, -2.0], [0.5, 3.0], [-1.5, 0.25]])
    expected = {
        "torch": torch.__version__,
        "parameters": {name: value.tolist() for name, value in model.state_dict().items()},
        "inputs": inputs.tolist(),
        "outputs": model(inputs).tolist(),
    }
    (HERE / "expected.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
