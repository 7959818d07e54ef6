"""The cards of the weights inside the package, and the verified way to their files. Free of torch until one is used."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchbasics import _checks, _zoo
from torchbasics._recipe import tuples

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torchbasics._transforms import Transforms

FOLDER = Path(__file__).with_name("weights")
DEFAULT = "DEFAULT"


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Trained parameters of a model, and what is known of them: their card.

    ``get_model(card.model, weights=card.name)`` makes the model; ``torchbasics verify`` checks that the files are what
    the card says, ``torchbasics reproduce`` trains them again.

    Attributes:
        model: The model's name in ``list_models()``.
        name: The weights' name, such as "fashion_mnist".
        default: Whether ``weights="DEFAULT"`` means these.
        description: What they are, in a sentence.
        sha256: Of the file; checked at every load.
        size: Bytes of the file.
        config: The model's arguments.
        parameters: How many numbers were trained.
        multiply_adds: Of one image, as `torchbasics.models.summary` counts them.
        classes: What the logits stand for, in their order; empty where there are none.
        input_shape: (C, H, W) of the images that go in, or (latent_dim,) of noise.
        data: What they were trained on: "name", "licence", "source".
        metrics: Measured once, on the test images: "accuracy", "loss", "per_class", "confusion", "calibration",
            "mini_accuracy" on the images in the package, "seeds"; and "command", which measures them again. Of what
            draws images: "frechet_distance" to the test images, its "draws", "train_test", the distance of training
            images, "features", the weights that see them.
        training: How they were made: "recipe", as `torchbasics.training.fit` takes it, "batch_norm", whether one was
            made a part of each convolution afterwards, "teacher", and "classifier", through which the discriminators of
            a GAN looked, where there was one, each with its "sha256", "threads", "seconds" of processor time, which are
            "without_teacher" where its pass over the images is not among them, "torch", "cpu"; and "command", which
            does it again.
        latency: Milliseconds of one thread, for batches of one and of many.
        limits: What they are not for.
        torch: The range of versions that they work with.
        golden: SHA-256 and size of the file of golden inputs and outputs.

    >>> card = get_weights("cnn")[0]
    >>> str(card), card.parameters, card.metrics["accuracy"], card.data["licence"]
    ('cnn/fashion_mnist', 54840, 0.9324, 'MIT, copyright 2017 Zalando SE')
    """

    model: str
    name: str
    default: bool
    description: str
    sha256: str
    size: int
    config: Mapping[str, Any]
    parameters: int
    multiply_adds: int
    classes: tuple[str, ...]
    input_shape: tuple[int, ...]
    data: Mapping[str, Any]
    metrics: Mapping[str, Any]
    training: Mapping[str, Any]
    latency: Mapping[str, Any]
    limits: str
    torch: str
    golden: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.model}/{self.name}"

    def __hash__(self) -> int:
        return hash(self.sha256)

    @property
    def path(self) -> Path:
        """The file: a whole model, as `torchbasics.io.save` writes it."""
        return FOLDER / f"{self.model}-{self.name}.safetensors"

    @property
    def golden_path(self) -> Path:
        """The file of golden "inputs", and the "outputs" that the model gives for them."""
        return FOLDER / f"{self.model}-{self.name}.golden.safetensors"

    def transforms(self) -> Transforms:
        """Return what turns uint8 images ``(N, C, H, W)`` of any size into the model's inputs: a module.

        Raises:
            TypeError: the model takes no images, but noise.

        >>> get_weights("cnn")[0].transforms()
        Transforms(uint8 (N, 1, H, W) -> float32 in [0, 1], 1x28x28)
        """
        from torchbasics._transforms import Transforms

        if len(self.input_shape) != 3:
            raise TypeError(f"{self.model!r} takes no images but noise; call model.sample(n)")
        channels, height, width = self.input_shape
        return Transforms((channels, height, width))

    def as_dict(self) -> dict[str, Any]:
        """Return the card as JSON data."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def get_weights(name: str) -> tuple[Weights, ...]:
    """Return the cards of the weights for the model *name*, the default first; a model may have none.

    Raises:
        ValueError: no model has this name.

    >>> [card.name for card in get_weights("cnn")]
    ['fashion_mnist', 'fashion_mnist_deep', 'fashion_mnist_wide']
    >>> get_weights("cnn")[0].classes[:2]
    ('T-shirt/top', 'Trouser')
    """
    model, slash, _ = str(name).partition("/")
    if slash and model in _zoo.list_models():
        raise ValueError(f"unknown model {name!r}; get_weights({model!r}) returns the cards of all its weights")
    _checks.choice("model", name, _zoo.list_models())
    cards = [read_card(path) for path in sorted(FOLDER.glob(f"{name}-*.json"))]
    return tuple(sorted(cards, key=lambda card: not card.default))


def find(model: str, weights: str = DEFAULT) -> Weights:
    """Return the card of the *weights* of *model*.

    Raises:
        TypeError: *weights* is no name.
        ValueError: no model has this name, or it has no such weights.
    """
    if not isinstance(weights, str):
        raise TypeError(f"weights must be a name, got {type(weights).__name__}; of a card, give card.name")
    cards = get_weights(model)
    if not cards:
        raise ValueError(f"{model!r} has no weights, got weights={weights!r}; leave it out for an untrained model")
    if weights == DEFAULT:
        return cards[0]
    names = [card.name for card in cards]
    return cards[names.index(_checks.choice(f"weights of {model!r}", weights, [*names, DEFAULT]))]


def find_named(name: str) -> Weights:
    """Return the card of the weights *name*: "MODEL" for its default, or "MODEL/WEIGHTS".

    Raises:
        ValueError: no model has this name, or it has no such weights.
    """
    model, _, weights = name.partition("/")
    if not get_weights(model):
        raise ValueError(f"{model!r} has no weights; `torchbasics list` shows which have")
    return find(model, weights or DEFAULT)


def all_cards() -> tuple[Weights, ...]:
    """Return all cards, by the names of the models."""
    return tuple(card for name in _zoo.list_models() for card in get_weights(name))


def read_card(path: Path) -> Weights:
    """Return the card in a JSON file.

    Raises:
        ValueError: the file holds no card.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        made = {key: tuples(content[key]) for key in ("config", "classes", "input_shape")}
        return Weights(**{**content, **made})
    except (ValueError, TypeError, KeyError) as e:
        reason = f"it has no {e}" if isinstance(e, KeyError) else e
        raise ValueError(f"{str(path)!r} is no card of weights ({reason}); reinstall torchbasics") from e


def verified(path: Path, sha256: str) -> Path:
    """Return *path*, the file being the one that the card is about.

    Raises:
        CheckpointError: the file is another one, or is gone.
    """
    from torchbasics._files import refuse  # with torch

    found = sha256_of(path) if path.is_file() else "none, the file is gone"
    if found != sha256:
        text = f"is not the file that its card describes: its SHA-256 is {found}, expected {sha256}"
        raise refuse(path, "damaged", f"{text}; reinstall torchbasics")
    return path


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of the file, as ``sha256sum`` prints it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
