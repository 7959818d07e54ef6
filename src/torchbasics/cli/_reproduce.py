"""``torchbasics reproduce``: train the weights of the package again, from their card."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from torchbasics import _env, _safetensors, _weights, _world, _zoo, data, io
from torchbasics._files import CheckpointError
from torchbasics._recipe import Recipe
from torchbasics.cli import _frechet
from torchbasics.cli._feature_gan import FeatureAdversarial, FeatureDiscriminators
from torchbasics.cli._train import Ended
from torchbasics.data import Images
from torchbasics.models import get_model
from torchbasics.training import evaluate, fit, predict

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping

TAUGHT = ".taught.safetensors"  # what the teacher said, for a run that is interrupted
LONG = 4  # times the epochs of the card
SPARE = 0.003  # of accuracy, where another processor or torch rounds differently
FURTHER = 1.5  # times the distance of the card, for the same reason: a GAN ends elsewhere after another rounding


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Train as the card says, and compare what comes out with it.

    Raises:
        ValueError: there are no such weights, or what comes out is worse than the card says.
        FileNotFoundError: the data is not there.
    """
    if _world.join().size > 1:
        raise ValueError("weights are reproduced by one process, to its bits; leave out torchrun")
    card = _weights.find_named(args.name)
    own = card.training["recipe"]["seed"]
    seed = own if args.seed is None else args.seed
    recipe = card.training["recipe"]
    training = {**card.training, "recipe": {**recipe, "epochs": recipe["epochs"] * (LONG if args.long else 1)}}
    suffix = ("" if seed == own else f"-seed-{seed}") + "-long" * args.long
    folder = Path(args.out or f"runs/reproduce-{card.model}-{card.name}{suffix}")
    checkpoint = folder / "checkpoint"  # for a run that is interrupted; the next one begins anew
    train, test = data.fashion_mnist(args.root)
    model = retrain(card.model, card.config, training, train, seed=seed, checkpoint=checkpoint)
    path = folder / "model.safetensors"
    save(model, path, train)
    shutil.rmtree(checkpoint)
    checkpoint.with_name(TAUGHT).unlink(missing_ok=True)
    report = {"weights": str(card), "seed": seed, "file": str(path), "sha256": _weights.sha256_of(path)}
    report["same_bits"] = report["sha256"] == card.sha256
    print(f"saved {path}: {'the same bits as' if report['same_bits'] else 'other bits than'} {card}")
    compare = _accuracy if "accuracy" in card.metrics else _distance
    return report | compare(card, model, train, test, held=not suffix)


def _accuracy(card: _weights.Weights, model: nn.Module, train: Images, test: Images, *, held: bool) -> dict[str, Any]:
    """Measure a classifier, and compare."""
    result, expected = evaluate(model, test), card.metrics["accuracy"]
    print(f"test accuracy {result['accuracy']:.4f}, the card says {expected:.4f}")
    if held and abs(result["accuracy"] - expected) > SPARE:
        raise ValueError(f"{card}: accuracy {result['accuracy']:.4f} is not within {SPARE} of the card's {expected}")
    return {"accuracy": result["accuracy"], "loss": result["loss"]}


def _distance(card: _weights.Weights, model: nn.Module, train: Images, test: Images, *, held: bool) -> dict[str, Any]:
    """Measure what a model draws, and compare."""
    result, expected = _frechet.measured(model, train, test), card.metrics["frechet_distance"]
    print(f"{_frechet.told(result)}; the card says {expected:.4f}")
    if held and result["frechet_distance"] > FURTHER * expected:
        found = f"Fréchet distance {result['frechet_distance']:.4f}"
        raise ValueError(f"{card}: {found} is more than {FURTHER} times the card's {expected}")
    return result


def retrain(
    name: str,
    config: Mapping[str, Any],
    training: Mapping[str, Any],
    train: Images,
    *,
    seed: int,
    taught: Tensor | None = None,
    checkpoint: Path | None = None,
) -> nn.Module:
    """Train a model as the "training" of a card says: in its number of threads, by its recipe, from its teacher.

    With its "batch_norm" the network has one after each convolution while it learns, which is then made a part of the
    convolution. A teacher is a larger model of the package; what it takes an image for is learned in the place of the
    label (Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, 2015, arXiv:1503.02531). A "classifier"
    is one of the package through which the discriminators of a GAN look: see `FeatureAdversarial`.

    Args:
        name: The model.
        config: Its arguments.
        training: That part of the card.
        train: The images.
        seed: Of the weights it starts from, and of the run.
        taught: The teacher's `probabilities`, where they are known already.
        checkpoint: As for `fit`.

    Raises:
        SystemExit: a signal ended it: 130 after Ctrl-C, 143 after SIGTERM.
    """
    threads, ended = torch.get_num_threads(), Ended()
    torch.set_num_threads(training["threads"])
    try:
        recipe = Recipe(**training["recipe"]).replace(seed=seed)
        if taught is None and training["teacher"] is not None:
            taught = _kept(training["teacher"], train, checkpoint and checkpoint.with_name(TAUGHT))
        torch.manual_seed(seed)
        model = _zoo.build(name, **{**config, "batch_norm": True} if training["batch_norm"] else config)
        images = train if taught is None else (train.inputs, taught)
        with _seen_through(training.get("classifier"), model, train) as step:
            fit(model, images, recipe=recipe.replace(**step), checkpoint=checkpoint, callbacks=[ended])
    finally:
        torch.set_num_threads(threads)
    if ended.signal is not None:
        print("ended by a signal; the same command goes on", file=sys.stderr)
        raise SystemExit(128 + ended.signal)
    return without_batch_norm(model, _zoo.build(name, **config)) if training["batch_norm"] else model


@contextmanager
def _seen_through(classifier: Mapping[str, Any] | None, gan: Any, train: Images) -> Iterator[dict[str, Any]]:
    """Put discriminators that look through a classifier beside that of *gan*, and yield what its recipe needs then."""
    if classifier is None:
        yield {}
        return
    card = _taking_part(classifier)
    network = _zoo.build(card.model, **{**card.config, "batch_norm": False})
    without_batch_norm(get_model(card.model, weights=card.name), network)
    plain = gan.discriminator
    gan.discriminator = FeatureDiscriminators(plain, network, card.input_shape[-1])
    try:
        yield {"step": FeatureAdversarial(gan.discriminator.features(gan, train))}
    finally:
        gan.discriminator = plain


def _taking_part(other: Mapping[str, Any]) -> _weights.Weights:
    """Return the card of the weights that a training is told to look at.

    Raises:
        ValueError: they are not those that it looked at then.
    """
    card = _weights.find_named(other["weights"])
    if other["sha256"] != card.sha256:
        raise ValueError(
            f"{card} has SHA-256 {card.sha256}, and the training was with {other['sha256']}: "
            "install the torchbasics that has it"
        )
    return card


def without_batch_norm(trained: nn.Module, plain: nn.Module) -> nn.Module:
    """Return *plain* with the function of *trained*, whose "conv1" has a batch norm "bn1" after it, and so on."""
    layers = dict(trained.eval().named_children())
    for name, layer in layers.items():
        norm = layers.get(name.replace("conv", "bn"))
        normed = isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        if not isinstance(layer, nn.BatchNorm2d):
            made = fuse_conv_bn_eval(layer, norm) if normed else layer  # type: ignore[type-var,arg-type]  # as *normed* says
            plain.get_submodule(name).load_state_dict(made.state_dict())
    return plain


def _kept(teacher: Mapping[str, Any], train: Images, path: Path | None) -> Tensor:
    """Return the `probabilities` of *teacher*, from the file *path* where a run that was interrupted has left them."""
    about = json.dumps([dict(teacher), torch.__version__, _env.instructions(), torch.get_num_threads()])
    if path is not None and path.is_file():
        with suppress(CheckpointError), _safetensors.opened(path) as file:  # a damaged one is made again
            if file.fields and file.fields["metadata"] == about:
                return file.read()["probabilities"]
    found = probabilities(teacher, train)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        fields = {"kind": "state", "model": "", "config": "{}", "history": "null", "metadata": about}
        _safetensors.write(path, {"probabilities": found}, fields)
    return found


def probabilities(teacher: Mapping[str, Any], train: Images) -> Tensor:
    """Return the probabilities (N, classes) that a teacher gives to *train*, each the mean over views of the image.

    The views are the image at all shifts of up to ``teacher["shift"]`` pixels, and mirrored.
    """
    card = _taking_part(teacher)
    model = get_model(card.model, weights=card.name)
    _, _, height, width = train.images.shape
    padded = functional.pad(train.images, (teacher["shift"],) * 4)
    starts = range(2 * teacher["shift"] + 1)
    mean = torch.zeros(len(train), len(card.classes))
    for i, (top, left) in enumerate(itertools.product(starts, starts), 1):
        print(f"{card} looks at the training images: {i} of {len(starts) ** 2} shifts", flush=True)
        moved = padded[:, :, top : top + height, left : left + width]
        for view in (moved, moved.flip(3)):
            logits = predict(model, Images(view, train.targets), precision=teacher["precision"])
            mean += logits.float().softmax(1)
    return mean / (2 * len(starts) ** 2)


def save(model: nn.Module, path: Path, train: Images) -> None:
    """Write *model* with what the command line wants to know of its images, and nothing that differs between runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"classes": train.classes, "shape": _shape(train), "data": "fashion_mnist"}
    io.save(model, path, metadata=metadata if not hasattr(model, "sample") else None)


def _shape(images: Images) -> tuple[int, int, int]:
    channels, height, width = images.images.shape[1:]
    return channels, height, width
