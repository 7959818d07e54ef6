"""The examples run, and do what they say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers import module_at

ROOT = Path(__file__).parents[1]

pytest.importorskip("sklearn", reason="the example's data comes with scikit-learn")
pytest.importorskip("matplotlib", reason="the example draws with matplotlib")


@pytest.fixture(name="example")
def load_example() -> Any:
    """The module examples/fine_tune.py."""
    return module_at("examples/fine_tune.py")


def test_the_digits_are_all_there_as_images(example: Any) -> None:
    """1,797 of 8x8, whose darkest is 0 and whose brightest is 255."""
    images = example.digits()

    assert images.images.shape == (1797, 1, 8, 8)
    assert (int(images.images.min()), int(images.images.max())) == (0, 255)


def test_no_test_image_is_trained_on(example: Any) -> None:
    """The parts are apart and are all there is; where a class has too few images, all of them are used."""
    targets = example.digits().targets
    number = torch.arange(len(targets))
    pixels = torch.stack([number // 256, number % 256], 1).to(torch.uint8)  # each image says which it is
    images = example.data.Images(pixels[:, None, None], targets, [str(digit) for digit in range(10)])
    test, rest = example.choose(images, 0, 0, example.TEST), example.choose(images, 0, example.TEST, len(images))

    both = torch.cat([test.images, rest.images]).flatten(1).long() @ torch.tensor([256, 1])
    assert torch.equal(both.sort().values, number)
    assert test.targets.bincount().tolist() == [45] * 10
    assert example.choose(images, 0, 0, 180).targets.bincount().tolist() == [178, 180, 177, *[180] * 4, 179, 174, 180]


def test_fine_tuning_prints_a_table_and_draws_it(
    example: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row for each number of labels, a column for each way, and a PNG."""
    path = tmp_path / "picture.png"
    example.main(["--labels", "2", "200", "--seeds", "1", "--updates", "3", "--out", str(path)])
    lines = capsys.readouterr().out.splitlines()

    assert lines[:2] == [
        "2 labels per class: 20 images, 2 to 2 of a class",
        "200 labels per class: 1347 images, 129 to 138 of a class",
    ]
    assert lines[3] == "Accuracy on 450 other images, mean ± standard deviation of 1 seeds:"
    assert lines[5] == "| labels per class | from scratch | pretrained | pretrained, convolutions frozen |"
    assert all(
        re.fullmatch(rf"\| {number} \|( 0\.\d{{3}} ± 0\.000 \|){{3}}", line)
        for number, line in zip((2, 200), lines[7:], strict=True)
    )
    assert path.read_bytes().startswith(b"\x89PNG")
