"""Makes tables in a ``table`` directive translatable: Sphinx translates what has a source; their cells have none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from docutils import nodes
from sphinx.transforms import SphinxTransform

if TYPE_CHECKING:
    from typing import Any

    from sphinx.application import Sphinx


class Sources(SphinxTransform):
    """Give each paragraph without a source that of its page."""

    default_priority = 10  # before Sphinx translates

    def apply(self, **_: Any) -> None:
        """Change them."""
        for paragraph in self.document.findall(nodes.paragraph):
            paragraph.source = paragraph.source or self.document["source"]


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the transform."""
    app.add_transform(Sources)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
