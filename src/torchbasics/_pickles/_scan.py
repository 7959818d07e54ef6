"""What a file of ``torch.save`` holds, told without running it, and then read by torch."""

from __future__ import annotations

import contextlib
import io
import os
import pickletools  # nosec B403  # it looks through pickles and runs nothing
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from torchbasics import _files

from ._archive import MAGIC, check_legacy_storages, read_zip
from ._machine import KNOWN, Machine, Odd, Wrong, dotted, plain, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

FILE_LIMIT = 2**36  # bytes; of a whole file where nothing tells how many it should have
PICKLE_LIMIT = 32_000_000  # bytes; of the pickle alone, which tells of tensors in some hundred bytes each
REMEMBERED = 10_000  # names and texts of a pickle; more would only fill memory
MODULE_MARKS = {"_parameters", "_buffers", "_modules"}  # attributes of every module; no state_dict has them
# Where programs lie that no model needs: a pickle that asks for one is no model, whatever else it holds.
RUNNERS = {
    "__builtin__", "asyncio", "builtins", "code", "ctypes", "importlib", "marshal", "multiprocessing", "nt", "os",
    "pickle", "posix", "pty", "runpy", "shutil", "socket", "subprocess", "sys", "types", "urllib", "webbrowser",
}  # fmt: skip
HARMLESS = {f"{module}.{name}" for module in ("__builtin__", "builtins") for name in ("set", "slice", "object")}


@dataclass
class Survey:
    """What a pickle speaks of, whether or not all of it is understood."""

    marks: set[str] = field(default_factory=set)
    ended: bool = False
    _names: dict[str, None] = field(default_factory=dict)
    _texts: list[str] = field(default_factory=list)
    _memo: dict[int, str] = field(default_factory=dict)

    def note(self, code: str, arg: Any) -> None:
        """Take down the names and marks of one opcode."""
        if code in ("GLOBAL", "INST"):
            self._add(dotted(arg))
        elif code == "STACK_GLOBAL":  # takes the last two texts
            self._add(".".join(["?", "?", *self._texts][-2:]))
        elif code == "STOP":
            self.ended = True
        elif code in ("BINGET", "LONG_BINGET"):
            self._texts = [*self._texts[-1:], self._memo.get(arg, "?")]
        elif code in ("MEMOIZE", "BINPUT", "LONG_BINPUT") and len(self._memo) < REMEMBERED:
            self._memo[len(self._memo) if arg is None else arg] = self._texts[-1] if self._texts else "?"
        elif isinstance(arg, str):
            self._texts = [*self._texts[-1:], arg]
            self.marks |= {arg} & MODULE_MARKS

    def _add(self, name: str) -> None:
        if len(self._names) < REMEMBERED:
            self._names[plain(name)] = None

    @property
    def names(self) -> list[str]:
        """The classes and functions, in the order of their first appearance."""
        return list(self._names)

    @property
    def is_model(self) -> bool:
        """Whether a whole module is in it, and nothing that no module needs."""
        return self.marks == MODULE_MARKS and not any(
            name.partition(".")[0] in RUNNERS for name in self.names if name not in HARMLESS
        )


@dataclass
class Scan:
    """A file that was looked through.

    Attributes:
        content: Its bytes, as torch will read them.
        names: The classes and functions that it asks for, in order.
        model: The class of the whole pickled model that it is; None if it is none.
        root: What it holds, as dicts, lists, numbers, text and `Dense`; None if it is refused.
        refusal: Why it is refused; None if it is not.
    """

    path: str
    content: bytes
    names: list[str] = field(default_factory=list)
    model: str | None = None
    root: Any = None
    refusal: _files.CheckpointError | None = None

    def load(self, safe_globals: Sequence[tuple[type, str]] = ()) -> Any:
        """Return what the file holds, on the CPU, read by ``torch.load(weights_only=True)``.

        Raises:
            CheckpointError: the file is refused, here or by torch.
        """
        if self.refusal is not None:
            raise self.refusal
        try:
            with warnings.catch_warnings(), torch.serialization.safe_globals(list(safe_globals)):
                warnings.simplefilter("ignore")  # torch speaks of its own future
                return torch.load(io.BytesIO(self.content), map_location="cpu", weights_only=True, mmap=False)
        except Exception as e:  # torch raises many kinds: EOFError, KeyError, RuntimeError, UnpicklingError, ...
            text = f"is no state_dict that torch can read ({type(e).__name__})"
            raise _files.refuse(self.path, "not-a-checkpoint", text) from e


def read_object(
    path: str | os.PathLike[str], *, safe_globals: Sequence[tuple[type, str]] = (), content: bytes | None = None
) -> Any:
    """Return what ``torch.save`` wrote to *path*, on the CPU, after a look through the whole file.

    Args:
        path: A file in the zip format of torch 1.6 and later, or in the one before.
        safe_globals: Classes that it may hold objects of, each with the full name it has in the file.
        content: What is in the file, where it was read already; *path* then only names it.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it holds anything but dicts, lists, numbers, text, dense tensors and those objects.
    """
    return scan(path, trusted=frozenset(name for _, name in safe_globals), content=content).load(safe_globals)


def read_content(path: str | os.PathLike[str], limit: int = FILE_LIMIT) -> bytes:
    """Return what is in *path*; of a file that torch.save did not write, the beginning, by which it can be told apart.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is no regular file, has more bytes than *limit*, or than there is memory.
    """
    _files.check_file(path)
    with Path(path).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise _files.refuse(path, "too-large", f"has {size:,} bytes; at most {limit:,} are read here")
        begin = file.read(len(MAGIC))
        most = size if begin.startswith((b"PK\3\4", MAGIC)) else min(size, PICKLE_LIMIT)
        try:
            return begin + file.read(most - len(begin))
        except MemoryError as e:
            raise _files.refuse(path, "too-large", f"has {size:,} bytes; there is no memory for them") from e


def scan(
    path: str | os.PathLike[str],
    *,
    trusted: frozenset[str] = frozenset(),
    content: bytes | None = None,
    limit: int = FILE_LIMIT,
) -> Scan:
    """Look through *path* without running anything in it, and without calling torch.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is no regular file, or has more bytes than *limit*.
    """
    content = read_content(path, limit) if content is None else content
    found = Scan(str(path), content)  # once: what is looked at is what is read
    survey = Survey()
    try:
        scan_format = _scan_zip if found.content[:4] == b"PK\3\4" else _scan_legacy
        found.root, found.content = scan_format(found.content, survey, trusted)
    except MemoryError:
        found.refusal = _files.refuse(path, "too-large", "takes more memory than there is")
    except Wrong as e:
        wrong = e
        foreign = [name for name in survey.names if name not in KNOWN | trusted]
        if foreign and survey.ended and survey.is_model:
            found.model = foreign[0]
            wrong = Wrong("whole-model-pickle", _whole(found.path, found.model, foreign[1:]))
        elif foreign and survey.ended:
            wrong = Wrong("unsafe", f"asks to run {_listed(foreign)}, which no state_dict does; it was not run")
        found.refusal = _files.refuse(path, wrong.reason, str(wrong))
    found.names = survey.names
    return found


def _scan_zip(content: bytes, survey: Survey, trusted: frozenset[str]) -> tuple[Any, bytes]:
    archive = read_zip(content)
    stream = io.BytesIO(archive.pickle)
    machine = _follow(stream, survey, trusted)
    if stream.read(1):
        raise Wrong("damaged", "is damaged: something follows its pickle")
    if archive.sizes != {storage.key: storage.nbytes for storage in machine.storages.values()}:
        raise Wrong("damaged", "is damaged: its storages are not those of its tensors")
    return machine.stack[0], archive.content


def _scan_legacy(content: bytes, survey: Survey, trusted: frozenset[str]) -> tuple[Any, bytes]:
    if not content:
        raise Wrong("truncated", "is empty")
    is_torch = content.startswith(MAGIC)
    if not is_torch and MAGIC.startswith(content):
        raise Wrong("truncated", f"is truncated: it has {len(content)} bytes")
    stream = io.BytesIO(content)
    if not is_torch:
        with contextlib.suppress(Wrong):
            _follow(stream, survey, trusted)  # for the names in it
        raise Wrong("not-a-checkpoint", "is no state_dict that torch can read: torch.save did not write it")
    stream.seek(len(MAGIC))
    protocol, system = (_follow(stream, Survey(), frozenset()).stack[0] for _ in range(2))
    if protocol != 1001 or type(system) is not dict or system.get("little_endian") is not True:
        text = f"has the format {shown(protocol)} of {shown(system)}; 1001 of a little-endian machine is read"
        raise Wrong("unsupported", text)
    machine = _follow(stream, survey, trusted)
    keys = _follow(stream, Survey(), frozenset()).stack[0]
    sizes = {storage.key: (storage.numel, storage.nbytes) for storage in machine.storages.values()}
    check_legacy_storages(content, stream.tell(), keys, sizes)
    return machine.stack[0], content


def _follow(stream: io.BytesIO, survey: Survey, trusted: frozenset[str]) -> Machine:
    """Follow the pickle at the stream's position to its end, past what is refused, so that *survey* has all names."""
    length = min(len(stream.getbuffer()) - stream.tell(), PICKLE_LIMIT)
    machine = Machine(trusted, length)
    begin, wrong = stream.tell(), None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's, about backslashes in names
            for code, arg, position in pickletools.genops(stream):
                if (position or 0) - begin > PICKLE_LIMIT:
                    raise Wrong("too-large", f"has a pickle of more than {PICKLE_LIMIT:,} bytes")
                survey.note(code.name, arg)
                if wrong is None:
                    wrong = _stepped(machine, code.name, arg)
    except (ValueError, IndexError, OverflowError, EOFError) as e:
        raise Wrong("truncated" if _at_end(stream) else "damaged", _unreadable(e)) from e
    if wrong is not None:
        raise wrong
    odd = _odd(machine.stack[0])
    if odd is not None:
        raise Wrong("unsafe", f"holds {shown(odd[0])}, which is no plain dense tensor but {odd[1].why}")
    return machine


def _stepped(machine: Machine, code: str, arg: Any) -> Wrong | None:
    try:
        machine.step(code, arg)
    except Wrong as e:
        return e
    except (ValueError, TypeError, IndexError, KeyError, AttributeError) as e:
        return Wrong("damaged", _unreadable(e))
    return None


def _unreadable(error: Exception) -> str:
    return f"is no state_dict that torch can read: its pickle is damaged ({' '.join(str(error).split())[:200]})"


def _at_end(stream: io.BytesIO) -> bool:
    return stream.tell() >= len(stream.getbuffer())


def _odd(root: Any) -> tuple[Any, Odd] | None:
    """Return the first tensor that is not dense, with its name."""
    waiting, seen = [("", root)], set()
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, Odd):
            return name, value
        if isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            waiting += value.items() if isinstance(value, dict) else [(name, item) for item in value]
    return None


def _whole(path: str, model: str, others: list[str]) -> str:
    others = [name for name in others if name not in HARMLESS and not name.startswith("torch.nn.")]
    also = f" (it also asks for {_listed(others)})" if others else ""
    name, model = Path(path).name, model[:100]
    return (
        f"holds a whole pickled model of the class {model}, which only runs with its code{also}; where it came from, "
        f"if you trust it, write `model = torch.load({name!r}, weights_only=False)` (before torch 1.13 without "
        f"weights_only) and `torch.save(model.state_dict(), {'state-' + name!r})`, and use that file"
    )


def _listed(names: list[str]) -> str:
    return ", ".join(name[:100] for name in names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
