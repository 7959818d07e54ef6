"""The pages of the documentation say what happens."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from tests import pages
from tests.helpers import needs

DOCS = Path(__file__).parents[1] / "docs"
ELSEWHERE = ("weights", "hub", "locale")  # made from the cards; run by test_hubconf; translated
PAGES = [
    page
    for page in sorted(DOCS.rglob("*.md"))
    if page.relative_to(DOCS).parts[0] not in ELSEWHERE and pages.snippets(page.read_text(encoding="utf-8"))
]

GOOD = """# Page

```python
x = 1
print(x + 1, 0.5)
```

```text
2 0.501
```

<!-- not run: needs a network -->
```python
raise OSError
```

```python
class Net:
    pass
print(x)
```
<!-- numbers vary -->
```text
27
```
"""


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(DOCS)) for page in PAGES])
@needs("torchvision", "tensorboard", "matplotlib", "onnx", "onnxscript")
def test_a_page_prints_what_it_shows(page: Path, tmp_path: Path) -> None:
    """Its snippets, run from top to bottom in an empty folder."""
    pages.check(page, tmp_path)


def test_a_page_without_blocks_has_no_snippets() -> None:
    """Such pages are left out."""
    assert not pages.snippets("# Page\n\nWords.\n")


def written(folder: Path, text: str) -> Path:
    page = folder / "page.md"
    page.write_text(text, encoding="utf-8")
    return page


def test_what_is_shown_may_differ_in_a_float_by_a_hundredth(tmp_path: Path) -> None:
    """And in every number where the page says that they vary; a block that is not to run does not."""
    pages.check(written(tmp_path, GOOD), tmp_path)


@pytest.mark.parametrize(
    ("right", "wrong", "line"),
    [
        ("2 0.501", "2 0.52", 9),
        ("2 0.501", "3 0.501", 9),
        ("2 0.501", "2 0.501 more", 9),
        ("2 0.501", "2\n0.501", 9),
        ("```text\n2 0.501\n```", "", 4),
        ("27", "twenty-seven", 24),
        ("x + 1", "x + y", 5),
    ],
    ids=["float", "integer", "words", "lines", "nothing shown", "words where numbers vary", "error"],
)
def test_a_wrong_page_is_told_with_its_line(right: str, wrong: str, line: int, tmp_path: Path) -> None:
    """The positive control of the tests above."""
    page = written(tmp_path, GOOD.replace(right, wrong, 1))

    with pytest.raises(AssertionError, match=rf"page\.md:{line}: "):
        pages.check(page, tmp_path)


def test_a_page_is_brought_up_to_date(tmp_path: Path) -> None:
    """Wrong output is replaced, missing output added, and what fits stays as it is."""
    bare = GOOD.replace("\n```text\n2 0.501\n```\n", "").replace("27", "twenty-seven")
    page = written(tmp_path, bare)

    assert pages.refresh(page, tmp_path)
    assert page.read_text(encoding="utf-8") == GOOD.replace("2 0.501", "2 0.5").replace("27", "1")
    assert not pages.refresh(page, tmp_path)


def test_a_command_is_run_where_all_lines_are_torchbasics(tmp_path: Path) -> None:
    """Others are left alone; what it prints need not be shown, but a command that fails is an error."""
    text = "```bash\ntorchbasics list  # all\n```\n\n```bash\ntorchbasics list\nrm page.md\n```\n"
    assert [printed.startswith("cnn ") for _, printed in pages.run(written(tmp_path, text), tmp_path)] == [True]
    pages.check(tmp_path / "page.md", tmp_path)
    with pytest.raises(AssertionError, match=r"page\.md:2: AssertionError: torchbasics inspect: .*nothing.pt"):
        pages.check(written(tmp_path, text.replace("list ", "inspect nothing.pt ")), tmp_path)


def test_a_page_leaves_the_process_as_it_was(tmp_path: Path) -> None:
    """The main module, the folder, the threads."""
    main, here, threads = sys.modules["__main__"], Path.cwd(), torch.get_num_threads()

    pages.check(written(tmp_path, GOOD), tmp_path)

    assert (sys.modules["__main__"], Path.cwd(), torch.get_num_threads()) == (main, here, threads)


def test_a_page_of_words_has_nothing_to_run() -> None:
    """No block, no snippet; neither has one of another language."""
    assert not pages.snippets("# Page\n")
    assert not pages.snippets("```text\n1\n```\n\n```toml\na = 1\n```\n")
