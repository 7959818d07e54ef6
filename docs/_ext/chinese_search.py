"""Full-text search in Chinese: what a reader types is cut into words, as the pages are.

Sphinx cuts the pages with jieba, and takes what is typed for one word. Here the browser cuts it with its own
``Intl.Segmenter``; single characters are left out, since the index has none. Latin words are stemmed as in English.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sphinx.search.zh import SearchChinese

if TYPE_CHECKING:
    from sphinx.application import Sphinx


class Chinese(SearchChinese):
    """Sphinx's Chinese search, with words on both sides."""

    language_name = "English"  # of the stemmer: Sphinx 9.0 asks the browser for a ChineseStemmer, which there is not
    js_splitter_code = """
var splitQuery = (query) => {
    const han = /\\p{Script=Han}/u;
    const words = Array.from(new Intl.Segmenter("zh", {granularity: "word"}).segment(query))
        .filter((part) => part.isWordLike).map((part) => part.segment);
    return words.filter((word) => word.length > 1 || !han.test(word));
};
"""


def setup(app: Sphinx) -> dict[str, bool]:
    """Put it in the place of Sphinx's."""
    app.add_search_language(Chinese)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
