"""Tests for training code of one's own: kill it at any moment, and see that it ends on the same bits.

`kill_test` runs a training function in processes of their own, ends them with SIGKILL at named points and at random
times, starts them again until they finish, and compares what comes out with a run that nobody killed.

References:
    Pillai et al., All File Systems Are Not Created Equal, 2014, OSDI: crashes belong between any two operations.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import wraps
from itertools import count
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from torchbasics import _checks, _files

POINTS = ("mkdir", "save", "fsync", "rename", "unlink", "update", "evaluation")
"""Where a process can be killed: at making a folder, at ``torch.save`` ("after" is with half of the bytes written), at
``os.fsync``, at a rename, at deleting, at an update ("before" is with half of the parameters changed), and after a
module's forward pass in eval mode."""

Train = Callable[[Path], Any]


@dataclass(frozen=True)
class Kill:
    """One SIGKILL.

    Args:
        point: One of `POINTS`; or "time".
        when: "before" or "after" the call.
        at: Which call, counted from 1; for "time", seconds from the start.

    >>> print(Kill("save", "after", 2))
    after save 2
    """

    point: str
    when: str = "before"
    at: float = 1

    def __str__(self) -> str:
        return f"after {self.at:.3f} s" if self.point == "time" else f"{self.when} {self.point} {self.at:g}"


@dataclass(frozen=True)
class Outcome:
    """A run that was killed, once or more, and brought to its end: whether its result is that of the whole run."""

    kills: tuple[Kill, ...]
    equal: bool
    error: str | None = None

    def __str__(self) -> str:
        end = "equal" if self.equal else f"failed: {self.error}" if self.error else "not equal"
        return f"{', '.join(map(str, self.kills)) or 'not killed'}: {end}"


@dataclass
class Report:
    """What a kill test found.

    Attributes:
        seconds: How long the run took that nobody killed.
        outcomes: One of each run that was killed.
    """

    seconds: float
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def kills(self) -> int:
        """How many processes were killed."""
        return sum(len(outcome.kills) for outcome in self.outcomes)

    @property
    def passed(self) -> bool:
        """Whether processes were killed, and each run ended on the result of the one that nobody killed."""
        return self.kills > 0 and all(outcome.equal for outcome in self.outcomes)

    def __str__(self) -> str:
        killed = [outcome for outcome in self.outcomes if outcome.kills]  # a kill at a time can come too late
        equal = sum(outcome.equal for outcome in killed)
        lines = [f"{self.kills} kills in {len(killed)} runs; {equal} of {len(killed)} ended equal"]
        return "\n".join([*lines, *(f"  {outcome}" for outcome in self.outcomes if not outcome.equal)])


def kill_test(
    train: Train,
    *,
    points: Sequence[str] = POINTS,
    kills: Sequence[Kill] = (),
    times: int = 10,
    seed: int = 0,
    timeout: float = 300,
) -> Report:
    """Kill *train* at named points and at random times, and compare what it ends on with a run that nobody killed.

    *train* is called with an empty folder, in a process of its own. It is to keep its checkpoints there, to go on from
    them when it is called again with the same folder, and to return what must be equal in the end: models, optimizers,
    tensors, histories, plain data, in lists and dicts at will. The state of the global random generators, which every
    process starts with seed 0, counts too; a warning or an exception after a kill is a failure.

    Args:
        train: A function at the top of a module, so that other processes can import it; in a script, keep the call of
            `kill_test` under ``if __name__ == "__main__":``.
        points: At which of `POINTS` to kill: before and after the first, the middle and the last such call.
        kills: More kills, a run for each.
        times: How many runs to kill at random times, each up to three times.
        seed: Of the random times.
        timeout: Seconds after which a process that does not end counts as failed.

    Raises:
        ValueError: a point is unknown.
        RuntimeError: the run that nobody kills fails by itself, or is another each time, or there is no SIGKILL here.
    """
    for point in points:
        _checks.choice("point", point, POINTS)
    if not hasattr(signal, "SIGKILL"):  # pragma: no cover  # Windows
        raise RuntimeError("kill_test needs SIGKILL, which this system does not have")
    with tempfile.TemporaryDirectory(prefix="kill_test_") as scratch:
        whole, again = (run_child(train, Path(scratch) / name, timeout=timeout) for name in ("whole", "again"))
        if whole.digest is None:
            raise RuntimeError(f"the run that nobody kills did not end: {whole.error}")
        if again.digest != whole.digest:
            raise RuntimeError("two runs that nobody kills end differently; set seeds, and return no times or paths")
        report = Report(whole.seconds)
        folders = (Path(scratch) / str(number) for number in count())

        def killed(plan: Sequence[Kill]) -> bool:
            folder = next(folders)
            report.outcomes.append(_outcome(train, folder, plan, whole.digest, timeout))  # type: ignore[arg-type]  # there is one
            shutil.rmtree(folder)
            return bool(report.outcomes[-1].kills) or not report.outcomes[-1].equal

        for kill in (*_at_points(points, whole.calls), *kills):
            killed((kill,))
        chance = random.Random(seed)  # nosec B311  # of test times
        seconds = min(whole.seconds, again.seconds)
        for _ in range(times):
            while not killed(_at_times(chance, seconds)) and seconds > whole.seconds / 100:
                seconds *= 0.8  # it came too late: the machine is faster now
    return report


def digest(value: Any) -> str:
    """Return a SHA-256 of nested data with tensors, arrays, modules and optimizers in it; "seconds" do not count.

    Raises:
        TypeError: something is no such data.

    >>> digest({"loss": 1.5, "seconds": 3.0}) == digest({"loss": 1.5, "seconds": 4.0})
    True
    """
    sha256 = hashlib.sha256()
    for part in _parts(value):
        sha256.update(part.encode() + b"\n")
    return sha256.hexdigest()


@dataclass(frozen=True)
class Child:
    """How a process ended.

    Attributes:
        exitcode: 0, or -9 where it was killed.
        seconds: How long *train* ran.
        digest: Of what it returned and of the random generators, None where it did not return.
        calls: How often each of `POINTS` was passed.
        error: What went wrong in it.
    """

    exitcode: int | None
    seconds: float
    digest: str | None = None
    calls: Mapping[str, int] = field(default_factory=dict)
    error: str | None = None


def run_child(train: Train, folder: Path, kill: Kill | None = None, *, timeout: float = 300) -> Child:
    """Run ``train(folder)`` in a process of its own session, which is killed at *kill*, and tell how it ended."""
    folder.mkdir(parents=True, exist_ok=True)
    # A fork of a fresh process that has imported torch and done nothing else: a process of its own, started quickly.
    context = multiprocessing.get_context("forkserver")
    # (torch.optim loads torch._dynamo on use, which takes longer than a small training.)
    context.set_forkserver_preload(["torchbasics.testing", "torchbasics.training", "torch._dynamo"])
    receiver, sender = context.Pipe(duplex=False)
    method = multiprocessing.get_start_method()  # which the process itself is to use for its own
    process = context.Process(target=_main, args=(train, folder, kill, sender, method))
    process.start()
    sender.close()
    deadline = time.monotonic() + timeout

    def told(until: float) -> dict[str, Any] | None:
        """Return what the child says next, None where it says nothing."""
        wait([receiver, process.sentinel], max(0, until - time.monotonic()))
        with suppress(EOFError):
            if receiver.poll():
                return receiver.recv()  # type: ignore[no-any-return]  # what _main sends
        return None

    said = told(deadline)
    if said == {} and kill is not None and kill.point == "time":  # it has begun
        said = told(time.monotonic() + kill.at)
        if said is None:
            process.kill()
    if said == {}:
        said = told(deadline)
    process.join(max(0, deadline - time.monotonic()))
    if said is None:
        said = told(0)  # it ended by itself as it was to be killed
    if process.exitcode is None:
        said = {"error": f"still running after {timeout:g} s"}
        process.kill()
        process.join()
    with suppress(ProcessLookupError):  # loader workers that outlived it
        os.killpg(process.pid, signal.SIGKILL)  # type: ignore[arg-type]  # it was started
    return Child(process.exitcode, **{"seconds": 0.0, **(said or {})})


def _outcome(train: Train, folder: Path, plan: Sequence[Kill], expected: str, timeout: float) -> Outcome:
    done: list[Kill] = []
    for kill in plan:
        child = run_child(train, folder, kill, timeout=timeout)
        if child.exitcode != -signal.SIGKILL:
            break
        done.append(kill)
    else:
        child = run_child(train, folder, timeout=timeout)
    return Outcome(tuple(done), child.digest == expected, child.error)


def _at_points(points: Sequence[str], calls: Mapping[str, int]) -> Iterator[Kill]:
    for point in points:
        for when in ("before", "after"):
            total = calls.get(f"{when} {point}", 0)
            yield from (Kill(point, when, at) for at in sorted({1, (total + 1) // 2, total} - {0}) if total)


def _at_times(chance: random.Random, seconds: float) -> tuple[Kill, ...]:
    return tuple(Kill("time", at=chance.uniform(0, seconds)) for _ in range(chance.randint(1, 3)))


def _main(train: Train, folder: Path, kill: Kill | None, sender: Any, method: str) -> None:
    """Be the child."""
    os.setsid()
    multiprocessing.set_start_method(method, force=True)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  # the global one
    torch.manual_seed(0)
    warnings.simplefilter("error")
    calls: Counter[str] = Counter()
    mine = os.getpid()

    def passed(point: str, when: str = "before") -> bool:
        """Count, and tell whether this is the moment; loader workers are forks, and count for nothing."""
        if os.getpid() != mine:
            return False
        calls[f"{when} {point}"] += 1
        return kill is not None and (point, when, calls[f"{when} {point}"]) == (kill.point, kill.when, kill.at)

    sender.send({})  # it has begun
    started = time.perf_counter()
    try:
        with _watched(passed):
            made = train(folder)
        state = [random.getstate(), np.random.get_state(), torch.get_rng_state()]  # noqa: NPY002  # the global one
        told = {"digest": digest([made, state]), "calls": dict(calls)}
    except BaseException as e:
        told = {"error": f"{type(e).__name__}: {e}"}
    sender.send({**told, "seconds": time.perf_counter() - started})


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def _watched(passed: Callable[..., bool]) -> Iterator[None]:
    """Wrap what the points stand for, for as long as *train* runs."""
    wrapped = {
        "mkdir": [(os, "mkdir")],
        "fsync": [(os, "fsync")],
        "rename": [(os, "rename"), (os, "replace")],
        "unlink": [(os, "unlink"), (os, "remove"), (os, "rmdir")],
    }
    kept = [(owner, name, getattr(owner, name)) for places in wrapped.values() for owner, name in places]
    kept.append((torch, "save", torch.save))
    for point, places in wrapped.items():
        for owner, name in places:
            setattr(owner, name, _around(getattr(owner, name), point, passed))
    torch.save = _torn(torch.save, passed)
    hooks = [
        register_optimizer_step_pre_hook(lambda optimizer, *_: _half(optimizer) if passed("update") else None),
        register_optimizer_step_post_hook(lambda *_: _die() if passed("update", "after") else None),
        register_module_forward_hook(
            lambda module, *_: _die() if not module.training and passed("evaluation", "after") else None
        ),
    ]
    try:
        yield
    finally:
        for owner, name, function in kept:
            setattr(owner, name, function)
        for hook in hooks:
            hook.remove()


def _around(function: Callable[..., Any], point: str, passed: Callable[..., bool]) -> Callable[..., Any]:
    @wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        if passed(point):
            _die()
        made = function(*args, **options)
        if passed(point, "after"):
            _die()
        return made

    return call


def _torn(save: Callable[..., Any], passed: Callable[..., bool]) -> Callable[..., Any]:
    """Return ``torch.save`` that dies before it begins, or with half of the bytes on the disk."""

    @wraps(save)
    def call(value: Any, file: Any, *args: Any, **options: Any) -> Any:
        if passed("save"):
            _die()
        if not passed("save", "after"):
            return save(value, file, *args, **options)
        with tempfile.TemporaryFile() as whole:
            save(value, whole, *args, **options)
            whole.seek(0)
            content = whole.read()
        if isinstance(file, (str, os.PathLike)):
            Path(file).write_bytes(content[: len(content) // 2])
        else:
            file.write(content[: len(content) // 2])
            file.flush()
        return _die()

    return call


def _half(optimizer: Optimizer) -> None:
    """Die with half of the parameters changed, as in the middle of an update."""
    held = [p for group in optimizer.param_groups for p in group["params"]]
    with torch.no_grad():
        for parameter in held[: len(held) // 2]:
            parameter.add_(1)
    _die()


def _parts(value: Any) -> Iterator[str]:
    if isinstance(value, (nn.Module, Optimizer)):
        yield from _parts(value.state_dict())
    elif isinstance(value, Tensor):
        yield _files.tensors_digest([("", value)])
    elif isinstance(value, np.ndarray):
        yield _files.tensors_digest([("", torch.from_numpy(np.ascontiguousarray(value).view(np.uint8)))])
    elif isinstance(value, Mapping):
        yield "{"
        for key in sorted(value, key=repr):
            if key != "seconds":
                yield repr(key)
                yield from _parts(value[key])
        yield "}"
    elif isinstance(value, (str, bytes, bool, int, float, complex, type(None), np.generic)):
        yield f"{type(value).__name__} {value!r}"
    elif isinstance(value, Sequence):
        yield "["
        for item in value:
            yield from _parts(item)
        yield "]"
    else:
        raise TypeError(f"{value!r} is no data that can be compared; return models, tensors, lists, dicts, numbers")
