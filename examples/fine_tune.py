"""Fine-tuning: does a network that knows clothes learn digits from fewer labels than one that knows nothing?

The pretrained cnn against the same network from scratch, on the 1,797 handwritten digits that scikit-learn brings
along: 8x8 pixels, no download. With the weights of today hardly, as what helps to tell clothes is of little use for
digits: with 10 labels of a class about one percent fewer are right, with 50 and 200 half a percent more, which at 10
and 50 is about as much as seeds differ. It prints a table and draws it, in a minute or two:

    pip install 'torchbasics[plot]' scikit-learn
    python examples/fine_tune.py --out fine_tune.png

Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, CC BY 4.0.
"""

from __future__ import annotations

import argparse
import statistics
from typing import TYPE_CHECKING

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

from torchbasics import data, models, training

if TYPE_CHECKING:
    from collections.abc import Sequence

TEST = 45  # images of each class that no network is trained on, a quarter
BATCH = 50
WAYS = ("from scratch", "pretrained", "pretrained, convolutions frozen")
Table = dict[int, dict[str, list[float]]]  # labels per class -> way -> accuracy by seed


def digits() -> data.Images:
    """Return the digits as grey images; their 17 shades become 0 to 255."""
    found = load_digits()
    images = torch.from_numpy(found.images * 255 / 16).round().to(torch.uint8)  # (N, 8, 8)
    return data.Images(images, found.target, [str(digit) for digit in range(10)], name="digits")


def choose(images: data.Images, seed: int, start: int, stop: int) -> data.Images:
    """Return, of each class, the images from *start* to *stop* in a random order, or as many as there are."""
    generator = torch.Generator().manual_seed(seed)
    classes = [(images.targets == label).nonzero()[:, 0] for label in range(len(images.classes))]
    found = [index[torch.randperm(len(index), generator=generator)][start:stop] for index in classes]
    return images[torch.cat(found)]


def learn(way: str, train: data.Images, test: data.Images, seed: int, updates: int) -> float:
    """Return the accuracy on *test* after so many updates on *train*, whatever its size."""
    torch.manual_seed(seed)
    model = models.get_model("cnn", weights=None if way == "from scratch" else "DEFAULT", num_classes=10)
    if way != "from scratch":
        model.fc2.reset_parameters()  # there are ten classes again, but other ones
    if way == "pretrained, convolutions frozen":
        models.freeze(model, "conv1", "conv2")
    prepare = models.get_weights("cnn")[0].transforms()  # uint8, 8x8 -> float32, 28x28
    steps = -(-len(train) // BATCH)  # an epoch
    training.fit(
        model, prepare(train.images), train.targets,
        epochs=-(-updates // steps), batch_size=BATCH, seed=seed, progress=False,
    )  # fmt: skip
    return training.evaluate(model, prepare(test.images), test.targets)["accuracy"]


def measure(labels: Sequence[int], seeds: int, updates: int) -> Table:
    """Return the accuracy for each number of labels, way and seed; a seed chooses images and first weights."""
    images = digits()
    test, rest = choose(images, 0, 0, TEST), choose(images, 0, TEST, len(images))
    table: Table = {}
    for number in labels:
        parts = [choose(rest, seed, 0, number) for seed in range(seeds)]
        sizes = parts[0].targets.bincount()
        print(f"{number} labels per class: {len(parts[0])} images, {sizes.min()} to {sizes.max()} of a class")
        table[number] = {way: [learn(way, parts[i], test, i, updates) for i in range(seeds)] for way in WAYS}
    print(f"\nAccuracy on {len(test)} other images, mean ± standard deviation of {seeds} seeds:\n")
    return table


def markdown(table: Table) -> str:
    """Return *table* for a README."""
    lines = ["| labels per class | " + " | ".join(WAYS) + " |", "| ---: |" + " ---: |" * len(WAYS)]
    for number, row in table.items():
        cells = [f"{statistics.mean(row[way]):.3f} ± {spread(row[way]):.3f}" for way in WAYS]
        lines.append(f"| {number} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: list[float]) -> float:
    """Return the sample standard deviation; of one value, 0."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def draw(table: Table, path: str) -> None:
    """Write a picture of *table*."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xscale="log", xlabel="labels per class", ylabel="test accuracy", title="Digits by a cnn")
    for way in WAYS:
        rows = [row[way] for row in table.values()]
        axes.errorbar([*table], [*map(statistics.mean, rows)], [*map(spread, rows)], label=way, marker="o", capsize=3)
    axes.set_xticks([*table], [*map(str, table)], minor=False)
    axes.legend()
    figure.savefig(path, dpi=150)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--labels", nargs="+", type=int, default=[10, 50, 200], help="labels per class")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each kind")
    parser.add_argument("--updates", type=int, default=300, help="of each run")
    parser.add_argument("--out", default="fine_tune.png", help="the picture")
    args = parser.parse_args(arguments)
    print(markdown(table := measure(args.labels, args.seeds, args.updates)))
    draw(table, args.out)


if __name__ == "__main__":
    main()
