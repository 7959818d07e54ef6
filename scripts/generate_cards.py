"""Write what the README and the docs say of the pretrained weights from their cards; --check only says what is stale.

The table in README.md and README.zh-CN.md stands between the lines ``<!-- weights -->`` and ``<!-- /weights -->``; each
card has its page in docs/weights, and the folder an index.
"""

from __future__ import annotations

import functools
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchbasics import _weights

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

ROOT = Path(__file__).resolve().parents[1]
START, END = "<!-- weights -->\n", "<!-- /weights -->"
CHINESE = {  # the table's English, and what stands for it
    "weights [|] on the test images [|] over seeds": "权重 | 测试图像上 | 多个随机种子",
    "parameters [|] file": "参数量 | 文件",
    r"accuracy (?=\d)": "准确率 ",
    r"Fréchet distance (?=\d)": "Fréchet 距离 ",
    r" \(train against test: ([\d.]+)\)": r"（训练集与测试集之间：\1）",
    r", (\d+) seeds": r"，\1 个种子",
}


def table(cards: Sequence[_weights.Weights], *, links: str) -> str:
    """Return the table of all weights; *links* is the folder of their pages."""
    head = ("weights", "on the test images", "over seeds", "parameters", "file")
    rows = [
        (f"[`{card}`]({links}{slug(card)}.md)", figure(card), spread(card), f"{card.parameters:,}", size(card.size))
        for card in cards
    ]
    return lines(head, rows)


def page(card: _weights.Weights) -> str:
    """Return the model card of *card*, as a page."""
    metrics, training = card.metrics, card.training
    load = f'torchbasics.models.get_model("{card.model}", weights="{card.name}")'
    facts = [
        ("model", f"`{card.model}`" + (f", its default weights: `{load}`" if card.default else f": `{load}`")),
        ("parameters", f"{card.parameters:,}"),
        ("multiply-adds of an image", f"{card.multiply_adds:,}"),
        ("file", f"{size(card.size)}, SHA-256 `{card.sha256}`"),
        ("input", takes(card)),
        ("config", f"`{json.dumps(dict(card.config))}`"),
        ("data", f"{card.data['name']}, {card.data['source']}; licence: {card.data['licence']}"),
        ("torch", f"`{card.torch}`"),
        ("latency", latency(card)),
    ]
    parts = [
        f"# {card}\n",
        f"{card.description}\n",
        lines(("", ""), facts),
        f"## Measured\n\n`{metrics['command']}` on {metrics['samples']:,} test images:\n",
        lines(("", ""), measured(card)),
    ]
    if "per_class" in metrics:
        parts += ["## Class by class\n", confusion(card)]
    how = [("command", f"`{training['command']}`")]
    if training["teacher"] is not None:
        teacher = training["teacher"]
        how += [("teacher", f"{learned_from(teacher)}, shifts of {teacher['shift']} pixel")]
    if "classifier" in training:
        seen = "discriminators look at the images and at the outputs of all its layers but the last (arXiv:2111.01007)"
        matched = "in the second half of the updates, mean and covariance of these are matched, too (arXiv:2009.14075)"
        how += [("classifier", f"{learned_from(training['classifier'])}: {seen}; {matched}")]
    if training["batch_norm"]:
        how += [("batch norm", "one after each convolution while it learned, then made a part of the convolution")]
    how += [
        (
            "processor time",
            f"{training['seconds']:,.0f} s in {training['threads']} thread ({training['cpu']})"
            + (", not counting the teacher's pass over the images" if training.get("without_teacher") else ""),
        ),
        ("torch", f"`{training['torch']}`"),
        *((key, f"`{json.dumps(value)}`") for key, value in training["recipe"].items() if value is not None),
    ]
    parts += ["## Trained\n", lines(("", ""), how), f"## Limits\n\n{card.limits}\n"]
    return "\n".join(parts)


def learned_from(other: Mapping[str, Any]) -> str:
    """Return which weights had a part in a training."""
    return f"`{other['weights']}` (SHA-256 `{other['sha256'][:12]}`)"


def measured(card: _weights.Weights) -> list[tuple[str, str]]:
    """Return the figures of *card*."""
    metrics = card.metrics
    values = ", ".join(f"{v:.4f}" for v in metrics["seeds"]["values"])
    if "frechet_distance" in metrics:
        draws, sees = metrics["draws"], metrics["features"]
        return [
            ("Fréchet distance", f"{distance(card)} ± {draws['sd']:.4f} over {len(draws['values'])} draws of noise"),
            ("of as many training images", f"{metrics['train_test']:.4f}"),
            ("Fréchet distance over seeds", f"{spread(card)}: {values}; the first is nearest to training images"),
            ("features", f"what the last layer of `{sees['weights']}` gets, SHA-256 `{sees['sha256']}`"),
        ]
    calibration = metrics["calibration"]
    return [
        ("accuracy", accuracy(card)),
        ("accuracy over seeds", f"{spread(card)}: {values}"),
        ("loss", f"{metrics['loss']:.4f}"),
        ("expected calibration error", f"{calibration['error']:.4f} ({calibration['bins']} bins)"),
        ("accuracy on the packaged test images", f"{metrics['mini_accuracy']:.4f}"),
    ]


def confusion(card: _weights.Weights) -> str:
    """Return the table of classes: how many of each (row) were taken for which (column)."""
    metrics = card.metrics
    rows = [
        (name, *map(str, counts), f"{metrics['per_class'][name]:.3f}")
        for name, counts in zip(card.classes, metrics["confusion"], strict=True)
    ]
    return lines(("true, taken for", *card.classes, "accuracy"), rows)


def latency(card: _weights.Weights) -> str:
    """Return the milliseconds of a batch."""
    one, many = card.latency["batch_of_1_ms"], card.latency["batch_of_100_ms"]
    return f"{one:g} ms for 1 image, {many:g} ms for 100, one thread ({card.latency['cpu']})"


def takes(card: _weights.Weights) -> str:
    """Return what goes into the model."""
    if len(card.input_shape) == 1:
        return f"`{card.input_shape[0]}` numbers of standard normal noise; `model.sample(n)` draws them"
    return f"`{'x'.join(map(str, card.input_shape))}`; `card.transforms()` makes it of uint8 images"


def figure(card: _weights.Weights) -> str:
    """Return what was measured of what is shipped, in a few words."""
    if "frechet_distance" in card.metrics:
        return f"Fréchet distance {distance(card)} (train against test: {card.metrics['train_test']:.4f})"
    return f"accuracy {accuracy(card)}"


def distance(card: _weights.Weights) -> str:
    """Return the Fréchet distance of what is shipped."""
    return f"{card.metrics['frechet_distance']:.4f}"


def accuracy(card: _weights.Weights) -> str:
    """Return the accuracy of what is shipped."""
    return f"{card.metrics['accuracy']:.4f}"


def spread(card: _weights.Weights) -> str:
    """Return mean and deviation over seeds."""
    seeds = card.metrics["seeds"]
    return f"{seeds['mean']:.4f} ± {seeds['sd']:.4f}, {len(seeds['values'])} seeds"


def size(n: int) -> str:
    """Return a number of bytes for people."""
    return f"{n / 1e6:.2f} MB"


def slug(card: _weights.Weights) -> str:
    """Return the name of the page."""
    return f"{card.model}-{card.name}"


def lines(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    ruled = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in ruled)


def wanted(root: Path = ROOT) -> dict[Path, str]:
    """Return what each file is to contain."""
    cards = _weights.all_cards()
    ours = table(cards, links="docs/weights/")
    chinese = functools.reduce(lambda text, pair: re.sub(pair[0], pair[1], text), CHINESE.items(), ours)
    index = f"# Pretrained weights\n\n{table(cards, links='')}"
    pages = {root / "docs/weights" / f"{slug(card)}.md": page(card) for card in cards}
    return {
        root / "README.md": between(root / "README.md", ours),
        root / "README.zh-CN.md": between(root / "README.zh-CN.md", chinese),
        root / "docs/weights/index.md": index,
        **pages,
    }


def between(readme: Path, table: str) -> str:
    """Return the text of *readme* with *table* in it."""
    before, start, rest = readme.read_text(encoding="utf-8").partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ValueError(f"{readme} needs the lines {START.strip()} and {END} around its table of weights")
    return f"{before}{START}{table}{END}{after}"


def main(arguments: list[str], root: Path = ROOT) -> int:
    """Write what is stale; with ``--check`` only name it and return 1."""
    contents = wanted(root)
    left_over = set((root / "docs/weights").glob("*.md")) - contents.keys()
    stale = [path for path, text in contents.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    if "--check" not in arguments:
        (root / "docs/weights").mkdir(exist_ok=True)
        for path in stale:
            path.write_text(contents[path], encoding="utf-8")
        for path in left_over:
            path.unlink()
    for path in [*stale, *left_over]:
        print(f"{'stale' if '--check' in arguments else 'written'}: {path.relative_to(root)}")
    return int(bool(stale or left_over) and "--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
