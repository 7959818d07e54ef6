"""Models for other programs: torch.export's .pt2, and ONNX."""

from __future__ import annotations

import io
import itertools
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from torchbasics import _checks, _files
from torchbasics._model import check_module, modes_kept

if TYPE_CHECKING:
    import os


def export(
    model: nn.Module, path: str | os.PathLike[str], *, inputs: Tensor | tuple[Tensor, ...] | None = None
) -> None:
    """Write *model*, as it computes in eval mode, for programs that do not have its code; the batch size stays free.

    The batch is the first dimension of every input, the second where the model says ``batch_first=False``.

    Args:
        model: Any module that ``torch.export`` understands.
        path: Ends in ".pt2" (``torch.export.load`` reads it) or ".onnx" (the extra "export").
        inputs: An example of a batch; None = the model's own ``example_inputs()``.

    Raises:
        ValueError: *path* has another ending, *inputs* are missing, or this torch cannot write the model as ONNX: that
            of 2.6 has no word for batch norm.
        ImportError: the extra is not installed.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     export(nn.Linear(3, 2), Path(folder, "linear.pt2"), inputs=torch.zeros(1, 3))
    ...     program = torch.export.load(Path(folder, "linear.pt2"))
    >>> program.module()(torch.zeros(5, 3)).shape
    torch.Size([5, 2])
    """
    suffix = Path(path).suffix
    if suffix not in (".pt2", ".onnx"):
        raise ValueError(f"path must end in .pt2 or .onnx, got {str(path)!r}")
    check_module(model)
    dim = 1 if getattr(model, "batch_first", True) is False else 0
    example = _example(model, inputs, dim)
    batch = torch.export.Dim("batch")
    free = tuple({dim: batch} for _ in example)
    with modes_kept(model), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch speaks of its own future
        content = (_pt2 if suffix == ".pt2" else _onnx)(model.eval(), example, free)
    with _files.atomic_write(path) as file:
        file.write(content)


def _example(model: nn.Module, inputs: Tensor | tuple[Tensor, ...] | None, dim: int) -> tuple[Tensor, ...]:
    if inputs is None:
        make: Any = getattr(model, "example_inputs", None)
        if make is None:
            raise ValueError(f"{type(model).__name__} has no example_inputs(); give inputs=, an example of a batch")
        inputs = make()
    example: tuple[Tensor, ...] = inputs if isinstance(inputs, tuple) else (inputs,)
    # Two samples: torch.export takes a size of 1 for a fixed one.
    return tuple(t if t.shape[dim] > 1 else torch.cat([t, t], dim) for t in example)


def _pt2(model: nn.Module, example: tuple[Tensor, ...], free: tuple[dict[int, Any], ...]) -> bytes:
    program = torch.export.export(model, example, dynamic_shapes=free)
    graphs = [module.graph for module in program.graph_module.modules() if isinstance(module, torch.fx.GraphModule)]
    for node in itertools.chain.from_iterable(graph.nodes for graph in graphs):
        node.meta.pop("stack_trace", None)  # it tells the folders of this machine
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def _onnx(model: nn.Module, example: tuple[Tensor, ...], free: tuple[dict[int, Any], ...]) -> bytes:
    _checks.require("onnxscript", "export")
    try:
        program: Any = torch.onnx.export(model, example, dynamo=True, dynamic_shapes=free, verbose=False)
    except torch.onnx.OnnxExporterError as e:
        text = f"torch {torch.__version__} cannot write {type(model).__name__} as ONNX"
        raise ValueError(f"{text}; write .pt2, or use a newer torch ({_files.brief(e.__cause__ or e)})") from e
    model_proto = program.model_proto
    _forget(model_proto)
    content: bytes = model_proto.SerializeToString()
    return content


def _forget(message: Any) -> None:
    """Drop the notes, which tell the folders of this machine, of an ONNX *message* and of all that are in it."""
    if "metadata_props" in message.DESCRIPTOR.fields_by_name:
        message.ClearField("metadata_props")
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in (value,) if hasattr(value, "ListFields") else value:
                _forget(inner)
