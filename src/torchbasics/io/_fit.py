"""Whether what a file holds fits a model, and what may be wrong where it does not."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from torchbasics._files import refuse
from torchbasics._safetensors import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from torchbasics._files import CheckpointError

Kind = tuple[torch.dtype, tuple[int, ...]]
SHOWN = 8  # problems of a kind that a message names; a wrong model has hundreds
PIECE = 2**22  # elements that are made float32 at once
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by size; integers compare many times faster
WRAPPERS = {"module.": "DataParallel", "_orig_mod.": "torch.compile"}


def kinds(tensors: Mapping[str, Tensor]) -> dict[str, Kind]:
    """Return dtype and shape by name."""
    return {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}


def check_kinds(
    path: str, model: str, wanted: Mapping[str, Kind], found: Mapping[str, Kind], *, hint: str = ""
) -> None:
    """Compare names, shapes and dtypes of what the *model* wants with those of what was found.

    Raises:
        CheckpointError: they differ; one message lists all differences, and the likely cure.
    """
    problems = differences(wanted, found)
    if problems:
        raise mismatch(path, model, problems, _cure(list(wanted), list(found)) or hint)


def differences(wanted: Mapping[str, Kind], found: Mapping[str, Kind]) -> list[str]:
    """Return all that is missing, unexpected, misshaped or of another dtype, as parts of a message."""
    missing = [name for name in wanted if name not in found]
    unexpected = [name for name in found if name not in wanted]
    both = [name for name in wanted if name in found]
    shapes = [name for name in both if found[name][1] != wanted[name][1]]
    dtypes = [name for name in both if found[name][0] != wanted[name][0]]
    return [
        *_listed(missing, lambda name: f"missing {shown(name)}{_nearest(name, unexpected)}"),
        *_listed(unexpected, lambda name: f"unexpected {shown(name)}"),
        *_listed(shapes, lambda name: f"{shown(name)} has shape {found[name][1]}, needs {wanted[name][1]}"),
        *_listed(dtypes, lambda name: f"{shown(name)} has dtype {found[name][0]}, needs {wanted[name][0]}"),
    ]


def check_values(
    path: str, model: str, own: Mapping[str, Tensor], found: Mapping[str, Tensor], *, nonfinite: bool
) -> None:
    """See that all values are finite, and equal where the model has one tensor under two names.

    What a buffer has in the model already (*own*) may be in the file too: a mask of -inf. With *nonfinite*, all may.

    Raises:
        CheckpointError: they are not; one message names all tensors.
    """
    masks = {name: tensor for name, tensor in own.items() if not isinstance(tensor, nn.Parameter)}
    bad = [] if nonfinite else [name for name, tensor in found.items() if not _finite(tensor)]
    bad = [name for name in bad if name not in masks or not _same(masks[name], found[name])]
    problems = _listed(bad, lambda name: f"{shown(name)} has values that are not finite")
    first: dict[tuple[int, Kind], str] = {}
    for name, kind in kinds(own).items():
        tensor = own[name]
        other = first.setdefault((tensor.data_ptr(), kind), name) if tensor.numel() else name
        if other != name and not _same(found[name], found[other]):
            problems.append(f"{shown(other)} and {shown(name)} differ, but are one tensor in the model")
    if problems:
        cure = "where such values are meant, give allow_nonfinite=True" if bad else ""
        raise mismatch(path, model, problems, cure)


def check_loaded(path: str, model: str, own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """See that the model has what was found, after it was loaded.

    Raises:
        CheckpointError: it does not: its own code did something else, or tensors that overlap got different values.
    """
    wrong = [name for name in found if name not in own or not _same(own[name], found[name])]
    if wrong:
        problems = _listed(wrong, lambda name: f"{shown(name)} is not as in the file after loading")
        cure = "the model's own code changes what is loaded, or it has tensors that overlap, which the file contradicts"
        raise mismatch(path, model, problems, cure)


def mismatch(path: str, model: str, problems: Iterable[str], cure: str = "") -> CheckpointError:
    """Return the error that names *problems*, and what to do."""
    text = f"does not fit {model}: {'; '.join(problems)}; nothing was loaded"
    return refuse(path, "mismatch", f"{text}; {cure}" if cure else text)


def _listed(names: Sequence[str], tell: Callable[[str], str]) -> list[str]:
    told = [tell(name) for name in names[:SHOWN]]
    if len(names) > SHOWN:
        told[-1] += f" (and {len(names) - SHOWN} more like it)"
    return told


def _nearest(name: str, others: Sequence[str]) -> str:
    # A long list would take long to search, and is no matter of a name.
    near = difflib.get_close_matches(name, [o for o in others if len(o) < 200], 1, 0.8) if len(others) < 100 else []
    return f" ({shown(near[0])}?)" if near else ""


def _cure(wanted: list[str], found: list[str]) -> str:
    """Return what to do where the names of one side are those of the other with something before them."""
    for prefix, writer in WRAPPERS.items():
        if any(prefix in name for name in found) and {name.replace(prefix, "") for name in found} == set(wanted):
            return f"{prefix!r} in the file's names is of {writer}: take it out of them, or save the module inside"
        if any(prefix in name for name in wanted) and {name.replace(prefix, "") for name in wanted} == set(found):
            return f"{prefix!r} in the model's names is of {writer}: load into the module inside"
    first = next(iter(found), "").partition(".")[0] + "."
    if _all_begin(found, first) and {name.removeprefix(first) for name in found} == set(wanted):
        return f"the file's names all begin with {shown(first)}: take it off, or load into the model around this one"
    first = next(iter(wanted), "").partition(".")[0] + "."
    if _all_begin(wanted, first) and {name.removeprefix(first) for name in wanted} == set(found):
        return f"the model's names all begin with {shown(first)}: load into that part of it"
    return ""


def _all_begin(names: list[str], prefix: str) -> bool:
    return bool(names) and all(name.startswith(prefix) for name in names)


def _finite(tensor: Tensor) -> bool:
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.detach().resolve_conj())
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    parts = torch.split(tensor.detach().reshape(-1), PIECE)
    # A sum is many times faster than isfinite; it can also overflow, so it only ever acquits.
    return all(bool(part.sum(dtype=torch.float32).isfinite()) or bool(part.double().isfinite().all()) for part in parts)


def _same(a: Tensor, b: Tensor) -> bool:
    """Tell whether two tensors have the same bytes; a NaN equals itself."""
    return torch.equal(_bits(a), _bits(b))


def _bits(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
    return (torch.view_as_real(tensor) if tensor.is_complex() else tensor).view(BITS[tensor.dtype.to_real().itemsize])
