"""Make what the live page of the docs is served with, in docs/_vendor/live, which git ignores.

    python scripts/make_live.py

The default weights of the cnn and the dcgan as ONNX (the extra "export"), some garments, noise and directions in it as
plain bytes, and onnxruntime-web by ``npm pack``. Without npm or a network it says so and writes nothing: the page then
shows its pictures.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from torchbasics import data, io, models

if TYPE_CHECKING:
    from torch import Tensor

    from torchbasics._weights import Weights

OUT = Path(__file__).resolve().parents[1] / "docs/_vendor/live"

# The build for WebAssembly alone, without WebGPU: 14 MB instead of 28. Each file of the package by its SHA-256.
VERSION = "1.30.0"
RUNTIME = {
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
GARMENTS, DIRECTIONS, PER_CLASS = 256, 8, 2


def runtime() -> dict[str, bytes] | None:
    """Return the files of onnxruntime-web; None where they cannot be had.

    Raises:
        ValueError: a file is not the one that is pinned here.
    """
    contents = {name: (OUT / name).read_bytes() for name in RUNTIME if (OUT / name).is_file()}
    if {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()} == RUNTIME:
        return contents
    npm = shutil.which("npm")
    if npm is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", "--silent", f"onnxruntime-web@{VERSION}"]
        if subprocess.run(command, cwd=folder, check=False).returncode:
            return None
        with tarfile.open(Path(folder) / f"onnxruntime-web-{VERSION}.tgz") as archive:
            for name, digest in RUNTIME.items():
                file = archive.extractfile(f"package/dist/{name}")
                contents[name] = file.read() if file else b""
                if hashlib.sha256(contents[name]).hexdigest() != digest:
                    raise ValueError(f"{name} of onnxruntime-web {VERSION} is not the file with SHA-256 {digest}")
    return contents


def as_onnx(model: torch.nn.Module, inputs: Tensor) -> bytes:
    """Return *model* as ONNX."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        io.export(model, path, inputs=inputs)
        return path.read_bytes()


@torch.no_grad()
def directions(generator: models.DCGAN) -> Tensor:
    """Return the orthonormal directions in the noise that change the first layer's output most, ``(n, latent_dim)``.

    References:
        Y. Shen, B. Zhou, Closed-Form Factorization of Latent Semantics in GANs, 2021.
    """
    layer, norm = generator.generator.formatLayer, generator.generator.main.batchNorm0
    assert isinstance(norm, torch.nn.BatchNorm2d)
    assert norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    weight = layer.weight * scale[:, None, None]  # (latent_dim, channels, 4, 4)
    vectors: Tensor = torch.linalg.svd(weight.flatten(1).double(), full_matrices=False).U[:, :DIRECTIONS].T
    signs = vectors.gather(1, vectors.abs().argmax(1, keepdim=True)).sign()  # svd leaves them open
    return (vectors * signs).float()


def contents() -> dict[str, bytes]:
    """Return what is made from the weights: models, garments to pick, noise, and live.json with the facts."""
    (classifier, *_), (painter, *_) = models.get_weights("cnn"), models.get_weights("dcgan")
    cnn, dcgan = models.get_model("cnn", weights=classifier.name), models.get_model("dcgan", weights=painter.name)
    _, test = data.fashion_mnist_mini()
    first = [(test.targets == label).nonzero()[:PER_CLASS, 0] for label in range(len(classifier.classes))]
    chosen = torch.stack(first, 1).flatten()  # one of each class, then the next
    samples = (classifier.transforms()(test.images[chosen]) * 255).round().to(torch.uint8)
    noise = dcgan.noise(GARMENTS, generator=torch.Generator().manual_seed(0))
    facts = {
        "onnxruntime": VERSION,
        "cnn": {
            **about(classifier),
            "shape": classifier.input_shape,
            "classes": classifier.classes,
            "accuracy": classifier.metrics["accuracy"],
            "tested": classifier.metrics["samples"],
            "samples": test.targets[chosen].tolist(),
        },
        "dcgan": {
            **about(painter),
            "latent": dcgan.latent_dim,
            "side": dcgan.image_size,
            "garments": GARMENTS,
            "directions": DIRECTIONS,
        },
    }
    return {
        "cnn.onnx": as_onnx(cnn, cnn.example_inputs()),
        "dcgan.onnx": as_onnx(dcgan.generator, dcgan.example_inputs()),
        "samples.bin": samples.numpy().tobytes(),  # (samples, H, W) of uint8
        "noise.bin": noise.numpy().astype("<f4").tobytes(),  # (garments, latent)
        "directions.bin": directions(dcgan).numpy().astype("<f4").tobytes(),  # (directions, latent)
        "live.json": json.dumps(facts, indent=1).encode(),
    }


def about(card: Weights) -> dict[str, Any]:
    """Return what the page says of any weights."""
    return {"name": str(card), "sha256": card.sha256, "parameters": card.parameters, "bytes": card.size}


def main() -> int:
    """Write all files, or none."""
    served = runtime()
    if served is None:
        print(f"onnxruntime-web {VERSION} cannot be had by npm; the live page will show its pictures")
        return 0
    OUT.mkdir(parents=True, exist_ok=True)
    for name, content in {**served, **contents()}.items():
        (OUT / name).write_bytes(content)
        print(f"{len(content):>11,} {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
