"""What autodoc is to know of this package: short names of types, the values of a recipe, and where sources are."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from docutils import nodes

from torchbasics.training import Recipe
from torchbasics.training._parallel import Strategy

if TYPE_CHECKING:
    from docutils.nodes import Element
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

ROOT = Path(__file__).resolve().parents[2]

# Annotations are imported for type checkers alone, so autodoc sees the names as the sources write them.
SHORT = {
    "Any": "typing.Any",
    "Callable": "collections.abc.Callable",
    "Collection": "collections.abc.Collection",
    "Iterable": "collections.abc.Iterable",
    "Iterator": "collections.abc.Iterator",
    "Literal": "typing.Literal",
    "Mapping": "collections.abc.Mapping",
    "Sequence": "collections.abc.Sequence",
    "Unpack": "typing.Unpack",
    "Path": "pathlib.Path",
    "Figure": "matplotlib.figure.Figure",
    "np.ndarray": "numpy.ndarray",
    "npt.NDArray": "numpy.typing.NDArray",
    "Dataset": "torch.utils.data.Dataset",
    "Optimizer": "torch.optim.Optimizer",
    "torch._C.Generator": "torch.Generator",
    "torch.nn.modules.module.Module": "torch.nn.Module",
    "torch.nn.modules.rnn.RNNCellBase": "torch.nn.RNNCell",
    "torch.optim.optimizer.Optimizer": "torch.optim.Optimizer",
    "Tensor": "torch.Tensor",
    "nn.Module": "torch.nn.Module",
    "Images": "torchbasics.data.Images",
    "History": "torchbasics.training.History",
    "Recipe": "torchbasics.training.Recipe",
    "EarlyStopping": "torchbasics.training.EarlyStopping",
    "State": "torchbasics.training.State",
    "SupportsJSON": "torchbasics.training.History",
    "Weights": "torchbasics.models.Weights",
    "Options": "torchbasics.training.Recipe",
    "Batch": "torchbasics.data._batch.Batch",
    "Summary": "torchbasics.models._summary.Summary",
    "Row": "torchbasics.models._summary.Row",
    "Transforms": "torchbasics._transforms.Transforms",
}

# Names of private types, and what is shown instead.
SPELT_OUT = {
    "Array": "Tensor | ndarray",
    "M": "Module",
    "Reason": "str",
    "Strategy": " | ".join(map(repr, get_args(Strategy))),
    "_checkpoint.Resume": "bool | 'auto' | str | Path",
    "torchbasics.models._freeze.M": "Module",
    "torchbasics._world.World": "World",
}


def short_name(app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: Element) -> Any:
    """Resolve a name of `SHORT`, here or in another project's inventory; spell out a private one."""
    if node.get("refdomain") == "py" and node.get("reftarget") in SPELT_OUT:
        return nodes.Text(SPELT_OUT[node["reftarget"]])
    name = SHORT.get(node.get("reftarget", ""))
    if node.get("refdomain") != "py" or name is None:
        return None
    node["reftarget"], node["reftype"] = name, "obj"
    domain = env.get_domain("py")
    found = domain.resolve_xref(env, node["refdoc"], app.builder, "obj", name, node, contnode)
    return found or app.emit_firstresult("missing-reference", env, node, contnode)


def property_as_text(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Keep napoleon from taking what stands before the colon in "The file: a whole model" for a type."""
    if what in ("attribute", "data", "property"):
        lines[:0] = ["..", ""]


def recipe_values(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Add the values of a `Recipe` to its description: they are told once, for the command line too."""
    if obj is not Recipe:
        return
    told = []
    for field in fields(Recipe):
        default = "" if field.default is MISSING else f"; by default ``{field.default!r}``"
        told += [f":param {field.name}: {field.metadata['help']}{default}"]
    end = next((i for i, line in enumerate(lines) if line.startswith(":raises")), len(lines))
    lines[end:end] = [*told]


def source(repository: str, module: str, fullname: str) -> str | None:
    """Return the address of the lines on GitHub that define an object, None for what has none."""
    found: Any = importlib.import_module(module)
    for part in fullname.split("."):
        found = inspect.unwrap(getattr(found, part, None))  # type: ignore[arg-type]  # None has no wrapper
    found = found.fget if isinstance(found, property) else found
    try:
        path = Path(inspect.getsourcefile(found) or "")
        lines, start = inspect.getsourcelines(found)
    except (TypeError, OSError):
        return None
    if "torchbasics" not in path.parts:
        return None
    name = Path(*path.parts[len(path.parts) - path.parts[::-1].index("torchbasics") - 1 :]).as_posix()
    return f"{repository}/blob/main/src/{name}#L{start}-L{start + len(lines) - 1}"


def setup(app: Sphinx) -> dict[str, bool]:
    """Hook in."""
    app.connect("missing-reference", short_name, priority=100)
    app.connect("autodoc-process-docstring", property_as_text, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", recipe_values, priority=600)  # after napoleon
    return {"parallel_read_safe": True, "parallel_write_safe": True}
