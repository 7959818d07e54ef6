"""Train the weights of the package, measure them once on the test images, and write files and cards.

``python scripts/make_weights.py cnn/fashion_mnist --root FOLDER`` trains the seeds that are not in ``runs/weights``
yet, which takes minutes each, and writes ``src/torchbasics/weights``. What is shipped is the first seed, whatever the
others gave; of models that draw, the seed whose images are nearest to training images, the first in its card. The test
images choose nothing. Hyper-parameters were chosen on 10,000 of the training images.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchbasics import _env, _safetensors, _weights, _zoo, data, io, models
from torchbasics._recipe import Recipe
from torchbasics.cli import _frechet
from torchbasics.cli._reproduce import probabilities, retrain, save
from torchbasics.training import evaluate, frechet_distance, predict

SEEDS = (0, 1, 2)
THREADS = 1  # of training: a number of them is a part of what bits come out
BINS = 15  # of the calibration error

LIMITS = (  # of classifiers
    "Grey pictures of 28x28 of one piece of clothing, bright on black, centred, as in Fashion-MNIST; of anything else "
    "it says one of the ten classes all the same. Not for decisions about people."
)

TEACHER = {"weights": "cnn/fashion_mnist_wide", "shift": 1, "precision": "bfloat16"}
DEEP_TEACHER = {**TEACHER, "weights": "cnn/fashion_mnist_deep"}

LARGER = {"channels": (32, 64, 128), "kernel_size": 3, "hidden": 128, "batch_norm": True, "dropout": 0.3}
OF_LARGER = Recipe(
    epochs=20,
    batch_size=250,
    loss="cross_entropy",
    optimizer=("adamw", {"weight_decay": 0.05}),
    lr=5e-3,
    schedule="onecycle",
    augment=("flip", "shift"),
    ema=0.999,
    precision="bfloat16",
    memory_format="channels_last",
    fused=True,
)

SPECS: dict[str, dict[str, Any]] = {
    "cnn/fashion_mnist_wide": {
        "default": False,
        "description": "A larger network of the same kind, the teacher of mlp and rnn_classifier.",
        "config": LARGER,
        "batch_norm": False,
        "teacher": None,
        "recipe": OF_LARGER,
    },
    "cnn/fashion_mnist_deep": {
        "default": False,
        "description": (
            "One convolution more, trained for longer: the most accurate, the teacher of the smallest, and what dcgan "
            "learned by."
        ),
        "config": {**LARGER, "channels": (32, 64, 128, 96)},
        "batch_norm": False,
        "teacher": None,
        "recipe": OF_LARGER.replace(epochs=36, lr=8e-3),
    },
    "cnn/fashion_mnist": {
        "default": True,
        "description": "The tutorial's network, unchanged, on Fashion-MNIST.",
        "config": {},
        "batch_norm": True,
        "teacher": DEEP_TEACHER,
        "recipe": Recipe(
            epochs=75,
            batch_size=125,
            loss="cross_entropy",
            optimizer=("adamw", {"weight_decay": 0.01}),
            lr=1e-2,
            schedule="onecycle",
            augment="shift1",
            ema=0.999,
            precision="bfloat16",
            memory_format="channels_last",
            fused=True,
        ),
    },
    "mlp/fashion_mnist": {
        "default": True,
        "description": "Two hidden layers with batch norm, on Fashion-MNIST.",
        "config": {"in_features": 784, "hidden": (256, 128), "out_features": 10, "batch_norm": True},
        "batch_norm": False,
        "teacher": TEACHER,
        "recipe": Recipe(
            epochs=80,
            batch_size=125,
            loss="cross_entropy",
            optimizer=("adamw", {"weight_decay": 0.01}),
            lr=5e-3,
            schedule="onecycle",
            augment="shift1",
            ema=0.999,
            fused=True,
        ),
    },
    "rnn_classifier/fashion_mnist": {
        "default": True,
        "description": "Two GRUs, one on the other, that read an image row by row, from the top, on Fashion-MNIST.",
        "config": {"input_size": 28, "hidden_size": 160, "num_layers": 2, "num_classes": 10, "cell": "gru"},
        "batch_norm": False,
        "teacher": TEACHER,
        "recipe": Recipe(
            epochs=30,
            batch_size=125,
            loss="cross_entropy",
            optimizer=("adamw", {"weight_decay": 0.01}),
            lr=5e-3,
            schedule="onecycle",
            augment="shift1",
            clip_norm=1.0,
            ema=0.999,
            precision="bfloat16",
            fused=True,
        ),
    },
    "dcgan/fashion_mnist": {
        "default": True,
        "description": "It draws pieces of clothing like those of Fashion-MNIST.",
        "config": {"latent_dim": 64, "width": 48},  # 3.8 MB; a wider one learns more from as many images
        "batch_norm": False,
        "teacher": None,
        "classifier": {"weights": "cnn/fashion_mnist_deep"},
        "limits": (
            "Draws grey pictures of 28x28 in a black border of 2 pixels that look like those of Fashion-MNIST; some "
            "show no piece of clothing. The Fréchet distance is that of the features of a small network: it compares "
            "with distances by the same weights alone. And it flatters this model beside others: while it learned, "
            "mean and covariance of such features were matched, in the network that taught the one that measures. "
            "Not for decisions about people."
        ),
        "recipe": Recipe(
            epochs=14,
            batch_size=50,
            optimizer=("adam", {"betas": (0.0, 0.99)}),  # a momentum lets the discriminator win
            lr=8e-3,
            schedule="linear",
            ema=0.998,
            memory_format="channels_last",
            fused=True,
        ),
    },
}


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", default=list(SPECS), metavar="MODEL/WEIGHTS")
    parser.add_argument("--root", help="where the files of Fashion-MNIST are")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--train-only", action="store_true", help="leave files and cards as they are")
    args = parser.parse_args()
    train, test = data.fashion_mnist(args.root)
    for name in args.names:
        runs = {seed: trained(name, seed, train) for seed in args.seeds}
        if args.train_only:
            continue
        seeds = list(runs)
        if hasattr(runs[seeds[0]][0], "sample"):
            real = _frechet.seen(train[-len(test) :])
            seeds.sort(key=lambda seed: from_training_images(runs[seed][0], real))
        write(name, [runs[seed] for seed in seeds], seeds, train, test)


def trained(name: str, seed: int, train: data.Images) -> tuple[nn.Module, float]:
    """Return the model of one seed and the seconds of its training, from ``runs/weights`` where it is there.

    They are without those of a teacher's pass over the images.
    """
    folder = Path("runs/weights") / name.replace("/", "-") / str(seed)
    path, note = folder / "model.safetensors", folder / "made.json"
    spec = SPECS[name]
    training = {"recipe": spec["recipe"].as_dict(), **how(spec), "threads": THREADS}
    wanted = json.dumps([spec["config"], training])
    if not note.is_file() or json.loads(note.read_text(encoding="utf-8"))["wanted"] != wanted:
        taught = None if spec["teacher"] is None else known(training["teacher"], train)
        began = time.process_time()
        model = retrain(name.partition("/")[0], spec["config"], training, train, seed=seed, taught=taught)
        note.parent.mkdir(parents=True, exist_ok=True)
        save(model, path, train)
        made = {"wanted": wanted, "seconds": time.process_time() - began}
        note.write_text(json.dumps(made), encoding="utf-8")
    return io.load(path).eval(), json.loads(note.read_text(encoding="utf-8"))["seconds"]


def how(spec: dict[str, Any]) -> dict[str, Any]:
    """Return what decides the result beside config and recipe."""
    found: dict[str, Any] = {key: spec[key] for key in ("batch_norm", "teacher", "classifier") if key in spec}
    for key in ("teacher", "classifier"):
        if found.get(key) is not None:
            found[key] = {**found[key], "sha256": _weights.find_named(found[key]["weights"]).sha256}
    return found


def known(teacher: dict[str, Any], train: data.Images) -> Tensor:
    """Return the probabilities of a teacher for the images, from ``runs/weights`` where they are there."""
    card = _weights.find_named(teacher["weights"])
    path = Path("runs/weights") / f"{card.sha256[:16]}-{teacher['shift']}-{len(train)}.pt"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        threads = torch.get_num_threads()
        torch.set_num_threads(THREADS)
        torch.save(probabilities(teacher, train), path)
        torch.set_num_threads(threads)
    found: Tensor = torch.load(path, weights_only=True)
    return found


def write(
    name: str, runs: list[tuple[nn.Module, float]], seeds: list[int], train: data.Images, test: data.Images
) -> None:
    """Write the files and the card of the first of *runs*."""
    spec, seconds = SPECS[name], runs[0][1]
    model: Any = runs[0][0]
    draws = hasattr(model, "sample")
    kind, _, weights = name.partition("/")
    path = _weights.FOLDER / f"{kind}-{weights}.safetensors"
    path.parent.mkdir(exist_ok=True)
    save(model, path, test)
    golden = path.with_suffix(".golden.safetensors")
    _write_golden(model, golden)
    shape = tuple((model.example_inputs() if draws else test.images).shape[1:])
    card = {
        "model": kind,
        "name": weights,
        "default": spec["default"],
        "description": spec["description"],
        "sha256": _weights.sha256_of(path),
        "size": path.stat().st_size,
        "config": _zoo.config_of(model),
        "parameters": sum(p.numel() for p in model.parameters()),
        "multiply_adds": models.summary(model, (1, *shape)).multiply_adds,
        "classes": () if draws else test.classes,
        "input_shape": shape,
        "data": {
            "name": "fashion_mnist",
            "licence": "MIT, copyright 2017 Zalando SE",
            "source": "https://github.com/zalandoresearch/fashion-mnist",
            "train_images": 60_000,
            "test_images": len(test),
        },
        "metrics": {
            **(distances if draws else accuracies)([one for one, _ in runs], seeds, train, test),
            "command": f"torchbasics evaluate {name} --data fashion_mnist",
        },
        "training": {
            "recipe": spec["recipe"].replace(seed=seeds[0]).as_dict(),
            **how(spec),
            "threads": THREADS,
            "seconds": round(seconds, 1),
            **({} if spec["teacher"] is None else {"without_teacher": True}),
            "command": f"torchbasics reproduce {name}",
            "torch": torch.__version__,
            "cpu": f"{platform.machine()} {_env.instructions()}",
        },
        "latency": latency(model, shape),
        "limits": spec.get("limits", LIMITS),
        "torch": ">=2.6",
        "golden": {"sha256": _weights.sha256_of(golden), "size": golden.stat().st_size},
    }
    path.with_suffix(".json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    print(f"{name}: {card['metrics']['seeds']}, {card['size']:,} bytes")


def from_training_images(model: nn.Module, real: Tensor) -> float:
    """Return the mean Fréchet distance of what *model* draws to images of which *real* are the features."""
    draws = (_frechet.drawn(model, len(real), seed=seed) for seed in range(_frechet.DRAWS))
    return statistics.mean(frechet_distance(_frechet.seen(images), real) for images in draws)


def distances(runs: list[nn.Module], seeds: list[int], train: data.Images, test: data.Images) -> dict[str, Any]:
    """Return how far what the models draw is from *test*."""
    found = [_frechet.measured(model, train, test) for model in runs]
    return {**found[0], "seeds": over_seeds([one["frechet_distance"] for one in found], seeds)}


def accuracies(runs: list[nn.Module], seeds: list[int], train: data.Images, test: data.Images) -> dict[str, Any]:
    """Return what there is to know of the first of *runs*, and the accuracies of all."""
    found = [float(evaluate(model, test)["accuracy"]) for model in runs]
    return {**measured(runs[0], test), "seeds": over_seeds(found, seeds)}


def measured(model: nn.Module, test: data.Images) -> dict[str, Any]:
    """Return what there is to know of a classifier on *test*."""
    result = evaluate(model, test)
    probabilities = predict(model, test).softmax(1)
    sure, said = probabilities.max(1)
    right = said == test.targets
    confusion = torch.zeros(len(test.classes), len(test.classes), dtype=torch.int64)
    confusion.index_put_((test.targets, said), torch.ones_like(said), accumulate=True)
    per_class = confusion.diag() / confusion.sum(1)
    _, mini = data.fashion_mnist_mini()
    return {
        "accuracy": result["accuracy"],
        "loss": round(result["loss"], 6),
        "samples": int(result["samples"]),
        "per_class": {name: round(float(value), 4) for name, value in zip(test.classes, per_class, strict=True)},
        "confusion": confusion.tolist(),
        "calibration": {"error": round(calibration_error(sure, right), 4), "bins": BINS},
        "mini_accuracy": evaluate(model, mini)["accuracy"],
    }


def calibration_error(sure: Tensor, right: Tensor) -> float:
    """Return the expected calibration error: how far confidence is from accuracy, over bins of equal width.

    References: Guo et al., On Calibration of Modern Neural Networks, 2017, arXiv:1706.04599.
    """
    place = (sure * BINS).long().clamp(max=BINS - 1)
    gap = torch.zeros(BINS).index_add_(0, place, sure - right.float())
    return float(gap.abs().sum() / len(sure))


def over_seeds(values: list[float], seeds: list[int]) -> dict[str, Any]:
    """Return values, mean and sample standard deviation."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"seeds": seeds, "values": values, "mean": round(statistics.mean(values), 5), "sd": round(spread, 5)}


@torch.no_grad()
def latency(model: nn.Module, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return milliseconds of one thread for batches of 1 and of 100, the median of many."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for size in (1, 100):
        inputs, times = torch.rand(size, *shape), []
        for _ in range(60):
            began = time.perf_counter()
            model(inputs)
            times.append(time.perf_counter() - began)
        found[f"batch_of_{size}_ms"] = round(1000 * statistics.median(times[10:]), 3)
    torch.set_num_threads(threads)
    return {**found, "threads": 1, "cpu": f"{platform.machine()} {_env.instructions()}"}


@torch.no_grad()
def _write_golden(model: Any, path: Path) -> None:
    """Write inputs and the outputs of *model* for them: the first image of each class, or noise."""
    if hasattr(model, "sample"):
        inputs = model.noise(10, generator=torch.Generator().manual_seed(0))
        outputs = model(inputs)
    else:
        _, mini = data.fashion_mnist_mini()
        index = torch.stack([(mini.targets == label).nonzero()[0, 0] for label in range(len(mini.classes))])
        inputs, outputs = mini.images[index], model(mini.batch(index)[0])
    fields = {"kind": "state", "model": "", "config": "{}", "history": "null", "metadata": "{}"}
    _safetensors.write(path, {"inputs": inputs, "outputs": outputs.contiguous()}, fields)


if __name__ == "__main__":
    main()
