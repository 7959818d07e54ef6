"""The GAN zoo's DCGAN checkpoints, and the same content as safetensors, read into what a model is made of."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from torchbasics import _files, _pickles, _safetensors
from torchbasics._pickles import shown
from torchbasics.io import _fit
from torchbasics.io._pickle import listed
from torchbasics.models._dcgan import Generator

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CONFIG_CLASS = "models.utils.config.BaseConfig"
LINEAR = {"MSE": False, "DCGAN": False, "WGANGP": True, "Logistic": True}  # whether a loss leaves tanh out
PRECISIONS = (torch.float16, torch.bfloat16, torch.float64)  # that a model may have besides the zoo's own
KEY = "gan_zoo"  # in the metadata of a safetensors file
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # of batch norm; no image depends on them


class Checkpoint(NamedTuple):
    """What an image follows from.

    Attributes:
        network: The generator, upstream's netG.
        average: The one with the running mean of the weights in training, upstream's avgG.
        noise_dim: Values of noise per image.
        loss: The name of the loss it was trained with, which says whether images are bounded.
        attributes: The labels it is conditioned on, in order: each one's name and values.
    """

    network: Generator
    average: Generator
    noise_dim: int
    loss: str
    attributes: dict[str, list[Any]]


class _Config:
    """Stands in for upstream's bag of attributes."""


def from_pickle(where: str, content: bytes) -> Checkpoint:
    """Return what is in a file of upstream; *where* names it in messages.

    Raises:
        CheckpointError: the file is no such checkpoint, is damaged, or asks to run code.
    """
    state = _pickles.read_object(where, safe_globals=[(_Config, CONFIG_CLASS)], content=content)
    if not isinstance(state, dict) or not {"config", "netG"} <= state.keys():
        found = listed(state) if isinstance(state, dict) else type(state).__name__
        raise _files.refuse(where, "unsupported", f"is no GAN-zoo checkpoint: it has {found}, not 'config' and 'netG'")
    config = state["config"]
    values = config if isinstance(config, dict) else getattr(config, "__dict__", {})
    given = values.get("attribKeysOrder") or {}
    tables = list(given.values()) if isinstance(given, dict) else [None]
    if not all(isinstance(t, dict) and type(t.get("order")) is int and "values" in t for t in tables):
        raise _files.refuse(where, "unsupported", f"has attribKeysOrder={shown(given)}, which is no table of labels")
    ordered = sorted(given, key=lambda name: given[name]["order"])
    orders = [given[name]["order"] for name in ordered]
    if orders != list(range(len(orders))):
        raise _files.refuse(where, "unsupported", f"numbers its attributes {listed(orders)}, not from 0 on")
    attributes = {name: given[name]["values"] for name in ordered}
    return _made(
        where, values.get("noiseVectorDim"), values.get("lossCriterion"), attributes,
        state["netG"], state.get("avgG", state["netG"]),  # without an average, upstream takes the network itself
    )  # fmt: skip


def from_safetensors(path: Path) -> Checkpoint:
    """Return what `write` put into *path*.

    Raises:
        CheckpointError: the file cannot be trusted, or is another one.
    """
    with _safetensors.opened(path) as file:
        try:
            described = json.loads((file.fields or {})["metadata"])[KEY]
            values = [described[name] for name in ("noise_dim", "loss", "attributes")]
        except (KeyError, TypeError, ValueError, RecursionError) as e:
            raise _files.refuse(path, "unsupported", "is no file of hub.save_dcgan; give one, or a GAN-zoo .pth") from e
        tensors = file.read()
    return _made(str(path), *values, *_nets(tensors))


def write(path: Path, tensors: Mapping[str, Tensor], noise_dim: int, loss: str, attributes: dict[str, Any]) -> None:
    """Write a checkpoint as safetensors, atomically; `from_safetensors` reads it.

    Raises:
        ValueError: it could not; nothing was written.
    """
    try:
        _made(str(path), noise_dim, loss, attributes, *_nets(tensors))
    except _files.CheckpointError as e:
        raise ValueError(f"load_dcgan could not read what would be saved: {e}") from e
    described = {KEY: {"noise_dim": noise_dim, "loss": loss, "attributes": attributes}}
    fields = {"kind": "state", "model": "", "config": "{}", "history": "null", "metadata": json.dumps(described)}
    _safetensors.write(path, tensors, fields)


def _nets(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    return [
        {name.removeprefix(f"{net}."): value for name, value in tensors.items() if name.startswith(f"{net}.")}
        for net in ("netG", "avgG")
    ]


def _made(where: str, noise_dim: Any, loss: Any, attributes: Any, net: Any, average: Any) -> Checkpoint:
    """Check the configuration, and build both networks by it."""
    if type(noise_dim) is not int or noise_dim < 1 or not isinstance(loss, str) or loss not in LINEAR:
        found = f"noiseVectorDim={shown(noise_dim)}, lossCriterion={shown(loss)}"
        text = f"has the configuration {found}; needed: a number, one of {[*LINEAR]}"
        raise _files.refuse(where, "unsupported", text)
    for name, values in attributes.items() if isinstance(attributes, dict) else [(attributes, None)]:
        plain = isinstance(values, (list, tuple)) and all(isinstance(v, (str, int, float)) for v in values)
        if not isinstance(name, str) or not plain or not values:
            text = f"gives its label {shown(name)} the values {shown(values)}, which are no list of texts and numbers"
            raise _files.refuse(where, "unsupported", text)
    attributes = {name: list(values) for name, values in attributes.items()}
    inputs = noise_dim + sum(map(len, attributes.values()))
    network = _generator(where, net, inputs)
    other = _generator(where, average, inputs, network.formatLayer.weight.dtype)
    return Checkpoint(network, other, noise_dim, loss, attributes)


def _generator(where: str, state: Any, inputs: int, dtype: torch.dtype | None = None) -> Generator:
    """Build the generator that the shapes in *state* tell of, and fill it; without a *dtype*, it is of the state's."""
    tensors: dict[str, Tensor] = {}
    for name, value in state.items() if isinstance(state, dict) else ():
        if not isinstance(name, str) or not _is_plain(value):
            raise _files.refuse(where, "unsafe", f"holds {shown(name)}, which is no plain dense tensor")
        if not name.endswith(STATISTICS):
            tensors[name] = value.detach().clone(memory_format=torch.contiguous_format)
    first, last = tensors.get("formatLayer.weight"), tensors.get("main.outlayer.weight")
    depth = sum(re.fullmatch(r"main\.convTranspose\d+\.weight", name) is not None for name in tensors)
    if first is None or last is None or not first.ndim == last.ndim == 4 or not first.numel() * last.numel():
        raise _files.refuse(where, "unsupported", "holds no generator of the GAN zoo's DCGAN")
    if first.shape[1] != last.shape[0] << depth:
        text = f"holds no generator of the GAN zoo's DCGAN: its widths are {first.shape[1]} and {last.shape[0]}"
        raise _files.refuse(where, "unsupported", text)
    if first.shape[0] != inputs:
        text = f"has a generator of {first.shape[0]} inputs, but its configuration tells of {shown(inputs)}"
        raise _files.refuse(where, "mismatch", text)
    with torch.device("meta"):  # takes neither memory nor random numbers: the shapes may be anything
        net = _with_batch_statistics(Generator(inputs, last.shape[1], last.shape[0], depth))
        net = net.to(dtype or (first.dtype if first.dtype in PRECISIONS else torch.float32))
    _fit.check_kinds(where, "Generator", _fit.kinds(net.state_dict()), _fit.kinds(tensors))
    bad = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if bad:
        raise _fit.mismatch(where, "Generator", [f"values that are not finite in {listed(bad)}"])
    net.load_state_dict(tensors, assign=True)
    return net


def _is_plain(value: Any) -> bool:
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def _with_batch_statistics(net: Generator) -> Generator:
    """Make batch norm use the batch at hand in every mode, and keep nothing of it."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
    return net
