"""What there is to compute with: devices, versions, threads, extras."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from operator import attrgetter
from typing import Any

import torch

import torchbasics

_OF_BFLOAT16 = {"BF16": "_is_avx512_bf16_supported", "AMX": "_is_amx_tile_supported"}  # in torch.cpu: not public in 2.6
_OF_FLOAT32 = {  # in torch.backends, by device
    "cpu": ("mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn"),
    "cuda": ("cuda.matmul", "cudnn.conv", "cudnn.rnn"),
}
# The packages of each extra, as in pyproject.toml.
_EXTRAS = {
    "vision": ("torchvision",),
    "tensorboard": ("tensorboard",),
    "plot": ("matplotlib",),
    "export": ("onnx", "onnxscript"),
    "hub": ("huggingface_hub",),
}


def device(name: str | torch.device = "auto") -> torch.device:
    """Return the device *name*, if this machine has it.

    Args:
        name: "cpu", "cuda", "cuda:1", "mps", ...; "auto" = "cuda" if there is one, else "mps", else "cpu".

    Raises:
        ValueError: there is no such device; the message lists those there are.

    >>> device("cpu")
    device(type='cpu')
    """
    if str(name) == "cpu":  # asks no driver
        return torch.device("cpu")
    there = ["cpu", *(str(d["device"]) for d in _accelerators())]
    if name == "auto":
        return torch.device(there[min(1, len(there) - 1)].partition(":")[0])
    # "cuda" and "cuda:0" are one device
    if str(name).removesuffix(":0") not in {d.removesuffix(":0") for d in there}:
        raise ValueError(f"no device {str(name)!r} here; choose from {', '.join(map(repr, ['auto', *there]))}")
    return torch.device(name)


def instructions() -> str:
    """Return the processor's instructions on which last bits depend, such as "AVX2" or "AVX512 BF16 AMX".

    The last two sum products of bfloat16 in other orders.
    """
    found = [torch.backends.cpu.get_cpu_capability()]
    for name, of_torch in _OF_BFLOAT16.items():
        if getattr(torch.cpu, of_torch, bool)():  # False where torch has it no longer
            found.append(name)
    return " ".join(found)


def of_float32(device: str) -> str:
    """Return which products of float32 are computed in less on *device*, such as "matmul tf32, conv tf32", or "none".

    ``torch.set_float32_matmul_precision`` sets it, and ``torch.backends``.
    """
    if hasattr(torch.backends, "fp32_precision"):  # torch >= 2.9, whose older settings raise where the newer are used
        asked = {name.partition(".")[2]: f"{name}.fp32_precision" for name in _OF_FLOAT32.get(device, ())}
        found = {name: attrgetter(setting)(torch.backends) for name, setting in asked.items()}
    elif device in _OF_FLOAT32:
        found = {"matmul": torch.get_float32_matmul_precision().replace("highest", "ieee")}
        if device == "cuda":
            found["conv"] = "tf32" if torch.backends.cudnn.allow_tf32 else "ieee"
    else:
        found = {}
    return ", ".join(f"{name} {kind}" for name, kind in found.items() if kind not in ("none", "ieee")) or "none"


def info() -> dict[str, Any]:
    """Return what a report of a problem needs, as plain JSON data; no extra is imported for it.

    >>> sorted(info())
    ['cpu', 'cuda', 'devices', 'extras', 'numpy', 'platform', 'python', 'safetensors', 'torch', 'torchbasics',
     'torchvision']
    """
    return {
        "torchbasics": torchbasics.__version__,
        "torch": torch.__version__,
        "torchvision": _version("torchvision"),
        "numpy": _version("numpy"),
        "safetensors": _version("safetensors"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": {
            "capability": instructions(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "interop_threads": torch.get_num_interop_threads(),
        },
        "cuda": torch.version.cuda,  # what this torch was built for, None = no CUDA
        "devices": _accelerators(),
        "extras": {extra: {name: _version(name) for name in names} for extra, names in _EXTRAS.items()},
    }


def format_info(info: dict[str, Any]) -> str:
    """Return *info* as lines for people.

    >>> print(format_info(info()))
    torchbasics  ...
    torch        ...
    """
    names = ("torchbasics", "torch", "torchvision", "numpy", "safetensors", "python", "platform")
    lines = [(name, info[name] or "not installed") for name in names]
    cpu = info["cpu"]
    threads = f"threads: {cpu['threads']} and {cpu['interop_threads']} between operations"
    lines.append(("cpu", f"{cpu['cores']} cores, {cpu['capability']}, {threads}"))
    for d in info["devices"]:
        lines.append((d["device"], f"{d['name']}, {d['memory'] / 2**30:.1f} GiB"))  # noqa: PERF401  # reads better
    if not info["devices"]:
        lines.append(("gpu", f"none (this torch is built for {'CUDA ' + info['cuda'] if info['cuda'] else 'no CUDA'})"))
    for extra, packages in info["extras"].items():
        if all(packages.values()):
            lines.append((f"[{extra}]", ", ".join(f"{name} {version}" for name, version in packages.items())))
        else:
            lines.append((f"[{extra}]", f"not installed; pip install 'torchbasics[{extra}]'"))
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:{width}}  {value}" for name, value in lines)


def _accelerators() -> list[dict[str, Any]]:
    """Name and memory (in bytes) of each CUDA and MPS device."""
    found = []
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(i)
        found.append({"device": f"cuda:{i}", "name": properties.name, "memory": properties.total_memory})
    if torch.backends.mps.is_available():
        memory = torch.mps.recommended_max_memory()
        found.append({"device": "mps", "name": f"Apple GPU ({platform.machine()})", "memory": memory})
    return found


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
