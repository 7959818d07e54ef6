"""Small packages that declare models, and what installs them and runs Python with them."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

import torchbasics
from torchbasics._third_party import GROUP

ROOT = Path(__file__).parents[2]
SOURCE = Path(torchbasics.__file__).parents[1]
CLASSIFIER = """
    from torch import nn

    class {name}(nn.Module):
        def __init__(self, num_classes=10):
            super().__init__()
            self.num_classes = num_classes
            self.head = nn.Linear(784, num_classes)

        def forward(self, inputs):
            return self.head(inputs.flatten(1))
"""
# Package -> what it declares, and its code.
GOOD = {
    "tinypkg": (
        "tiny = tinypkg:Tiny",
        """
        from torch import nn
        from torchbasics.models import register

        @register("tiny", defaults={"size": 3})
        class Tiny(nn.Linear):
            def __init__(self, size):
                super().__init__(size, size)
                self.size = size
        """,
    ),
    "plainpkg": (
        "plain = plainpkg:Plain",
        f"import random, torch\nDRAWN = random.random(), torch.rand(1)\n{textwrap.dedent(CLASSIFIER.format(name='Plain'))}",
    ),
    "lentpkg": ("lent = lentpkg:Bilinear", "from torch.nn import Bilinear"),  # a class that is defined elsewhere
}
BAD = {
    "failpkg": ("fails = failpkg:Net", "1 / 0"),
    "gonepkg": ("gone = gonepkg:Net", ""),
    "funpkg": ("function = funpkg:make", "def make(): ..."),
    "wordpkg": (
        "word = wordpkg:Net",
        "from torch import nn\nclass Net(nn.Module):\n    def __init__(self, weights=None): ...",
    ),
    "mixpkg": (
        "mixed = mixpkg:Old",
        """
        from torch import nn
        from torchbasics.models import register
        class Old(nn.Identity): ...
        @register("mixed")
        class New(nn.Identity): ...
        """,
    ),
    "twinpkg": ("twin = twinpkg:A", textwrap.dedent(CLASSIFIER.format(name="A"))),
    "twinpkg2": ("twin = twinpkg2:B", textwrap.dedent(CLASSIFIER.format(name="B"))),
}
ODD = {"ourspkg": ("cnn = ourspkg:Net", "1 / 0"), "dashpkg": ("my-net = dashpkg:Net", "1 / 0")}


def write_wheel(folder: Path, package: str, declares: str, code: str, version: str = "1.0") -> Path:
    """Write a wheel with one module, as a build backend would."""
    info = f"{package}-{version}.dist-info"
    files = {
        f"{package}/__init__.py": textwrap.dedent(code),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: by hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[{GROUP}]\n{declares}\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in (*files, f"{info}/RECORD"))
    path = folder / f"{package}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    return path


def install(folder: Path, packages: dict[str, tuple[str, str]]) -> Path:
    """Install *packages* into a folder of their own."""
    pytest.importorskip("pip", reason="installs packages with pip")
    wheels = [str(write_wheel(folder, name, *parts)) for name, parts in packages.items()]
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--no-compile", "-q")
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(folder / "site"), *wheels]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "site"


def run(site: Path, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own, for which the packages are installed."""
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(SOURCE)])}
    command = [sys.executable, "-W", "error", *arguments]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)


def ours_loaded() -> set[str]:
    return {*GOOD, *BAD, *ODD} & set(sys.modules)
