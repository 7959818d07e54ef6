"""Bring the Chinese of the guide up to date with the English pages: ``python scripts/translate.py``.

New strings come in empty, changed ones with their old translation and marked fuzzy, those that are gone go. It prints
what is left to do in ``docs/locale/zh_CN/LC_MESSAGES``. Of the other pages, which are in English in both languages, the
files there translate what the navigation shows.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po, write_po

DOCS = Path(__file__).resolve().parents[1] / "docs"
LOCALE = DOCS / "locale/zh_CN/LC_MESSAGES"
GUIDE = ("basics", "start.md", "index.md", "live.md")
HEADER = 'msgid ""\nmsgstr ""\n"Language: zh_CN\\n"\n"Content-Type: text/plain; charset=UTF-8\\n"\n\n'
NO_WORD = re.compile(r"(`[^`]+`|\]\([^)]*\)|[\W\d_])+")  # code, links of it, numbers


def catalogs(folder: Path) -> dict[str, Catalog]:
    """Return the messages in *folder*, by page."""
    files = sorted(path for path in folder.rglob("*.po*") if path.suffix in (".po", ".pot"))
    return {
        path.relative_to(folder).with_suffix("").as_posix(): read_po(io.BytesIO(path.read_bytes())) for path in files
    }


def english(folder: Path) -> dict[str, Catalog]:
    """Return what there is to translate, by page; Sphinx writes it into *folder*."""
    others = ",".join(path.name for path in DOCS.iterdir() if path.name not in GUIDE)
    options = ("-Q", "-b", "gettext", "-d", folder / "trees", "-D", f"exclude_patterns={others}")
    subprocess.run([sys.executable, "-m", "sphinx", *options, DOCS, folder / "pot"], check=True)
    return catalogs(folder / "pot")


def main() -> None:
    """Write the files anew."""
    with tempfile.TemporaryDirectory() as folder:
        pages = english(Path(folder))
    before = catalogs(LOCALE)
    for page, template in pages.items():
        catalog = before.get(page, Catalog())
        catalog.update(template)
        for message in catalog:
            message.flags &= {"fuzzy"}
            if not message.string and NO_WORD.fullmatch(str(message.id)):
                message.string = message.id
            if message.id and (message.fuzzy or not message.string):
                print(f"{page}: {'changed' if message.fuzzy else 'new'}: {message.id}")
        path = LOCALE / f"{page}.po"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(HEADER.encode())
            write_po(file, catalog, width=0, omit_header=True, no_location=True, ignore_obsolete=True)
    for page in before:
        if page != "sphinx" and not any(DOCS.glob(f"{page}.*")):
            LOCALE.joinpath(f"{page}.po").unlink()


if __name__ == "__main__":
    main()
