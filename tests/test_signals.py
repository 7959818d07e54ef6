"""Signals and the end of the time: real processes, real signals."""

from __future__ import annotations

import json
import logging
import math
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from tests.helpers import blobs, equal, newest
from torchbasics import io, models
from torchbasics.cli import _train, main
from torchbasics.training import History, State, _signals, fit

if TYPE_CHECKING:
    from collections.abc import Iterator

quiet = partial(fit, progress=False, batch_size=16, lr=0.01)
SECONDS = 600  # a bound for a child, not a timing

CHILD = """
import json, os, sys, time
import torch
from torch.utils.data import Dataset
from tests.helpers import blobs
from torchbasics import models
from torchbasics.training import fit

class Slow(Dataset):
    def __init__(self, seconds):
        self.inputs, self.targets = blobs()
        self.seconds = seconds
    def __len__(self):
        return len(self.inputs)
    def __getitem__(self, i):
        time.sleep(self.seconds)
        return self.inputs[i] + torch.randn(6), self.targets[i]

class Tell:
    def __init__(self, hold):
        self.hold = hold
    def on_step(self, state):
        print("step", state.step, flush=True)
        time.sleep(self.hold)
    @property
    def validating(self):
        from contextlib import nullcontext
        def tell(state):
            print("validating", flush=True)
            return nullcontext()
        return tell

if __name__ == "__main__":
    folder, options = sys.argv[1], json.loads(sys.argv[2])
    slow, slow_validation = options.pop("slow", 0.0), options.pop("slow_validation", None)
    hold = options.pop("hold", 0.0)
    torch.manual_seed(0)
    model = models.MLP(6, (8,), 3, dropout=0.3, batch_norm=True)
    if slow_validation is not None:
        options["validation"] = Slow(slow_validation)
    history = fit(model, Slow(slow), epochs=3, batch_size=16, lr=0.01, progress=False, checkpoint=folder,
                  callbacks=[Tell(hold)], **options)
    torch.save(model.state_dict(), folder + "/model.pt")
    open(folder + "/history.json", "w").write(history.to_json())
    print("stopped", history.stopped, flush=True)
"""


def start(folder: Path, **options: Any) -> subprocess.Popen[str]:
    """A child that trains, in a process group of its own."""
    folder.mkdir(exist_ok=True)
    script = folder / "child.py"
    script.write_text(CHILD)
    return subprocess.Popen(
        [sys.executable, str(script), str(folder), json.dumps(options)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])},
    )  # fmt: skip


def wait_for(child: subprocess.Popen[str], line: str) -> None:
    """Read what the child prints up to *line*."""
    assert child.stdout is not None
    for text in child.stdout:
        if text.strip() == line:
            return
    raise AssertionError(f"the child ended without {line!r}: {child.communicate()[1]}")


def members(group: int) -> list[int]:
    """The living processes of a group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(its_group) == group and state != "Z":
            found.append(int(path.parent.name))
    return found


def left(group: int) -> list[int]:
    """The processes of a group that do not end by themselves."""
    until = time.monotonic() + 60
    while members(group) and time.monotonic() < until:
        time.sleep(0.1)
    return members(group)


def outcome(folder: Path) -> tuple[dict[str, Any], History]:
    history = History.from_json((folder / "history.json").read_text())
    return torch.load(folder / "model.pt", weights_only=True), history


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    child = start(folder, slow_validation=0.0)
    out, err = child.communicate(timeout=SECONDS)
    assert child.returncode == 0, err
    assert out.endswith("stopped None\n")
    return folder


def same(one: Path, other: Path) -> bool:
    (model, history), (expected, rows) = outcome(one), outcome(other)
    return history == rows and all(torch.equal(model[name], expected[name]) for name in expected)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    ("name", "at", "options"),
    [
        ("SIGTERM", "step 2", {"slow": 0.05, "workers": 2, "slow_validation": 0.0}),
        ("SIGUSR1", "step 6", {"slow": 0.05, "slow_validation": 0.0}),
        ("SIGINT", "validating", {"slow_validation": 0.1, "workers": 2}),
        ("SIGTERM", "validating", {"slow_validation": 0.1}),
    ],
    ids=["terminated, with workers", "user signal", "Ctrl-C in validation, with workers", "terminated in validation"],
)
def test_a_signal_to_all_processes_ends_at_a_step_and_the_run_goes_on_to_the_same_bits(
    name: str, at: str, options: dict[str, Any], whole: Path, tmp_path: Path
) -> None:
    """One checkpoint, the history of whole epochs, nothing left running; then the bits of the uninterrupted run."""
    folder = tmp_path / "run"
    if "validating" in at:
        options = {**options, "checkpoint_every": 1000}  # only the signal makes it write one
    child = start(folder, **options)
    wait_for(child, at)
    sent = time.monotonic()
    os.killpg(child.pid, getattr(signal, name))
    out, err = child.communicate(timeout=SECONDS)
    took = time.monotonic() - sent

    assert child.returncode == 0, err
    assert out.endswith("stopped signal\n")
    assert f"{name}: ending the run after this step; Ctrl-C ends it at once" in err
    assert "Traceback" not in err
    assert left(child.pid) == []
    assert took < 30  # a bound, not a timing: torchrun kills after thirty
    assert newest(folder)["steps_done"] > 0
    assert outcome(folder)[1].stopped == "signal"
    assert not same(folder, whole)
    child = start(folder, **{**options, "slow": 0.0, "slow_validation": 0.0})
    out, err = child.communicate(timeout=SECONDS)
    assert out.endswith("stopped None\n"), err
    assert same(folder, whole)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_second_ctrl_c_is_immediate_and_leaves_no_worker(tmp_path: Path) -> None:
    """A KeyboardInterrupt where it stands."""
    child = start(tmp_path / "run", slow=0.05, workers=2, hold=SECONDS)
    wait_for(child, "step 1")
    os.killpg(child.pid, signal.SIGINT)
    assert child.stderr is not None
    assert child.stderr.readline() == "\n"
    assert "SIGINT: ending the run" in child.stderr.readline()
    os.killpg(child.pid, signal.SIGINT)
    out, err = child.communicate(timeout=SECONDS)

    assert "step" not in out
    assert "stopped" not in out
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert child.returncode in (-signal.SIGINT, 1)  # 1 where torch finds tabulate, at the end
    assert left(child.pid) == []


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    """SIGKILL for the parent alone: its workers notice, and end."""
    child = start(tmp_path / "run", slow=0.05, workers=2, hold=SECONDS)
    wait_for(child, "step 1")
    assert len(members(child.pid)) == 3

    child.kill()
    child.communicate(timeout=SECONDS)

    assert left(child.pid) == []


def make() -> nn.Module:
    torch.manual_seed(0)
    return models.MLP(6, (8,), 3, dropout=0.3, batch_norm=True)


class SignalAt:
    """Sends this process a signal after an update."""

    def __init__(self, step: int, number: int = signal.SIGTERM) -> None:
        self.step, self.number = step, number
        self.ended: list[int | None] = []

    def on_step(self, state: State) -> None:
        if state.step == self.step:
            os.kill(os.getpid(), self.number)

    def on_end(self, state: State) -> None:
        self.ended.append(state.signal)


NUMBERS = [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT]


@pytest.mark.parametrize("number", NUMBERS, ids=[n.name for n in NUMBERS])
@pytest.mark.parametrize("step", [1, 4, 6, 12])
def test_after_a_signal_the_same_call_goes_on(step: int, number: int, tmp_path: Path) -> None:
    """In mid-epoch, at an epoch's end, at the end of the run; the handlers are those of before."""
    whole, parts = make(), make()
    options: dict[str, Any] = {"epochs": 3, "validation": blobs(n=20), "ema": 0.9, "early_stopping": 9}
    expected = quiet(whole, blobs(), **options)
    handlers = [signal.getsignal(n) for n in NUMBERS]
    callback = SignalAt(step, number)

    first = quiet(make(), blobs(), **options, checkpoint=tmp_path, callbacks=[callback])

    assert [signal.getsignal(n) for n in NUMBERS] == handlers
    assert first.stopped == "signal"
    assert callback.ended == [number]
    assert len(first) == (step - 1) // 4  # the epoch that was not validated has no row yet
    assert first == expected[: len(first)]
    second = quiet(parts, blobs(), **options, checkpoint=tmp_path)
    assert second.stopped is None
    assert second == expected
    assert equal(parts, whole)


def test_without_a_checkpoint_at_the_signal_work_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Positive control: it is the signal that writes it."""
    from torchbasics.training._checkpoint import Checkpointer

    monkeypatch.setattr(Checkpointer, "on_stop", lambda self, state: None)

    quiet(make(), blobs(), epochs=3, checkpoint=tmp_path, callbacks=[SignalAt(2)])

    assert newest(tmp_path)["steps_done"] == 0


def test_the_time_limit_ends_a_run_that_goes_on_later(tmp_path: Path) -> None:
    """history.stopped is "time"; with time enough it ends on the bits of the whole run."""
    whole, parts = make(), make()
    expected = quiet(whole, blobs(), epochs=3)

    class Wait:
        def on_step(self, state: State) -> None:
            time.sleep(0.2 if state.step == 6 else 0)

    stopped = [
        quiet(make(), blobs(), epochs=3, checkpoint=tmp_path, callbacks=[Wait()], time_limit=0.2).stopped
        for _ in range(2)
    ]
    history = quiet(parts, blobs(), epochs=3, checkpoint=tmp_path, time_limit=600)

    assert "time" in stopped
    assert history == expected
    assert history.stopped is None
    assert equal(parts, whole)


@pytest.mark.parametrize("limit", [0, -1.5])
def test_a_time_limit_is_positive(limit: float) -> None:
    """Seconds."""
    with pytest.raises(ValueError, match="time_limit must be positive, got"):
        quiet(make(), blobs(), epochs=1, time_limit=limit)


def test_a_second_ctrl_c_is_a_keyboard_interrupt() -> None:
    """At once; the handlers are put back all the same."""

    class Twice:
        def on_step(self, state: State) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)  # asked twice to end: it is ending
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)

    before = signal.getsignal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        quiet(make(), blobs(), epochs=1, callbacks=[Twice()])

    assert signal.getsignal(signal.SIGINT) is before


def test_signals_that_are_ignored_stay_ignored() -> None:
    """As under nohup, or in the background of a script."""
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        history = quiet(make(), blobs(), epochs=1, callbacks=[SignalAt(1, signal.SIGUSR1)])
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert history.stopped is None


def test_outside_the_main_thread_there_is_a_note(caplog: pytest.LogCaptureFixture) -> None:
    """Handlers can be set in the main thread only; the run goes its way."""
    histories = []
    before = signal.getsignal(signal.SIGTERM)

    with caplog.at_level(logging.WARNING, logger="torchbasics"):
        thread = threading.Thread(target=lambda: histories.append(quiet(make(), blobs(), epochs=1)))
        thread.start()
        thread.join()

    assert len(histories[0]) == 1
    assert signal.getsignal(signal.SIGTERM) is before
    assert "fit runs outside the main thread, where signals cannot be received" in caplog.text


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "Ctrl-C"])
def test_the_command_exits_with_the_signals_code_and_the_line_to_type(
    number: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Typed, the line goes on to the parameters of the run that nobody interrupted."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_train, "_has", lambda *_: False)
    words = ["train", "mlp", "--set", "hidden=8", "--epochs", "2", "--batch-size", "2000"]
    assert main([*words, "--out", "whole"]) == 0
    with monkeypatch.context() as patch:
        hook = SignalAt(3, number).on_step
        patch.setattr(_train.Ended, "on_step", lambda self, state: hook(state), raising=False)
        with pytest.raises(SystemExit) as caught:
            main(words)

    assert caught.value.code == code
    line = capsys.readouterr().err.splitlines()[-1].strip()
    assert line == f"torchbasics {' '.join(words)} --out runs/mlp --resume"
    assert not Path("runs/mlp/model.safetensors").exists()
    assert main(shlex.split(line)[1:]) == 0
    whole, resumed = io.load("whole/model.safetensors"), io.load("runs/mlp/model.safetensors")
    assert equal(whole, resumed)
    assert main([*words, "--resume"]) == 0  # the newest run of the model; it is finished
    assert not Path("runs/mlp-2").exists()


def test_the_command_has_to_find_what_to_go_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the folder that was named, or among the model's runs."""
    monkeypatch.chdir(tmp_path)

    assert main(["train", "mlp", "--resume"]) == 2
    assert main(["train", "mlp", "--resume", "--out", "there"]) == 2

    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("--resume: no checkpoint in 'runs/mlp'; leave out --resume to start a run")
    assert "no checkpoint in 'there'" in second
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_terminated_command_exits_with_143(tmp_path: Path) -> None:
    """A real process, its real exit code."""
    child = subprocess.Popen(
        [sys.executable, "-m", "torchbasics", "train", "mlp", "--epochs", "500", "--batch-size", "50"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert child.stdout is not None
    child.stdout.readline()
    assert child.stdout.readline().startswith("epoch   1/500")

    child.terminate()
    _, err = child.communicate(timeout=SECONDS)

    assert child.returncode == 143
    assert err.splitlines()[-1].strip().endswith("--epochs 500 --batch-size 50 --out runs/mlp --resume")
    assert newest(tmp_path / "runs/mlp/checkpoint")["steps_done"] > 0


def ignored() -> list[Any]:
    """Two batches, of which the first has no target that counts."""
    inputs, targets = blobs(n=20)
    return [(inputs, torch.full_like(targets, -100)), (inputs, targets)]


class SignalInValidation:
    """Sends this process a signal when its first validation begins."""

    @contextmanager
    def validating(self, state: State) -> Iterator[None]:
        if len(state.history) == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        yield


@pytest.mark.parametrize("where", ["training", "validation"])
def test_a_signal_before_any_target_counted_still_writes_a_checkpoint(where: str, tmp_path: Path) -> None:
    """Means of no target are not asked for; the same call goes on to the same bits."""
    data, held_out = (ignored(), blobs()) if where == "training" else ([blobs()], ignored())
    callback: Any = SignalAt(1) if where == "training" else SignalInValidation()
    whole, parts = make(), make()
    run = partial(
        quiet, train=data, epochs=2, validation=held_out, batch_size=None, loss=nn.CrossEntropyLoss(reduction="sum")
    )
    expected = run(whole)

    first = run(parts, checkpoint=tmp_path, callbacks=[callback])
    second = run(parts, checkpoint=tmp_path)

    assert first.stopped == "signal"
    assert len(first) == 0
    assert second == expected
    assert equal(parts, whole)


@pytest.mark.parametrize("reason", ["signal", "time"])
def test_a_run_that_is_complete_was_not_stopped(reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the last epoch there is nothing left to end."""

    class Late:
        told: int | None = -1

        def on_epoch(self, state: State) -> None:
            if len(state.history) < 2:
                return
            if reason == "signal":
                os.kill(os.getpid(), signal.SIGTERM)
            else:
                monkeypatch.setattr(_signals, "monotonic", lambda: math.inf)

        def on_stop(self, state: State) -> None:
            raise AssertionError

        def on_end(self, state: State) -> None:
            self.told = state.signal

    late, handed = Late(), []
    limit: dict[str, Any] = {"time_limit": 600} if reason == "time" else {}

    previous = signal.signal(signal.SIGTERM, lambda number, _: handed.append(number))
    try:
        history = quiet(make(), blobs(), epochs=2, checkpoint=tmp_path, callbacks=[late], **limit)
    finally:
        signal.signal(signal.SIGTERM, previous)

    assert len(history) == 2
    assert history.stopped is None
    assert late.told is None
    assert handed == [signal.SIGTERM] * (reason == "signal")


@pytest.mark.parametrize("fault", [None, OSError])
def test_a_signal_that_came_too_late_ends_what_comes_after_the_run(fault: type[Exception] | None) -> None:
    """Ctrl-C after the last update is one after the run; where the run failed, its error is what is told."""

    class Late:
        def on_end(self, state: State) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            if fault is not None:
                raise fault

    with pytest.raises(fault or KeyboardInterrupt):
        quiet(make(), blobs(), epochs=1, callbacks=[Late()])


def test_a_signal_that_was_heeded_is_handed_to_nobody() -> None:
    """Neither after it ended the run, nor one more of them."""
    handed = []

    class More(SignalAt):
        def on_end(self, state: State) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    previous = signal.signal(signal.SIGTERM, lambda number, _: handed.append(number))
    try:
        history = quiet(make(), blobs(), epochs=1, callbacks=[More(2)])
    finally:
        signal.signal(signal.SIGTERM, previous)

    assert history.stopped == "signal"
    assert handed == []


def test_a_signal_with_nobody_to_tell_it_still_ends_the_run_well(tmp_path: Path) -> None:
    """Where the terminal is gone, or the pipe behind it: the checkpoint is written."""
    read, write = os.pipe()
    os.close(read)
    kept = os.dup(2)
    os.dup2(write, 2)
    try:
        history = quiet(make(), blobs(), epochs=3, checkpoint=tmp_path, callbacks=[SignalAt(2)])
        with pytest.raises(BrokenPipeError):
            os.write(2, b"nobody")
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(write)

    assert history.stopped == "signal"
    assert newest(tmp_path)["steps_done"] == 2
