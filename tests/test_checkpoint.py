"""Checkpoints: a run that goes on ends where the uninterrupted one does."""

from __future__ import annotations

import copy
import inspect
import linecache
import random
import re
import shutil
import subprocess
import sys
import types
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torchmetrics
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, Sampler, TensorDataset

from tests.helpers import CrashAt, CrashError, blobs, equal, newest
from torchbasics import models
from torchbasics._files import CheckpointError
from torchbasics._model import load_plain_state, plain_state
from torchbasics.training import State, _identity, _store, fit
from torchbasics.training._run import Run

if TYPE_CHECKING:
    from collections.abc import Iterator

quiet = partial(fit, progress=False, batch_size=16, lr=0.01, schedule="onecycle")


def make() -> nn.Module:
    torch.manual_seed(0)
    return models.MLP(6, (8,), 3, dropout=0.3, batch_norm=True)


OPTIONS: dict[str, Any] = {
    "plain": {},
    "validation": {"validation": 0.2},
    "accumulate": {"accumulate": 2},
    "early stopping": {"early_stopping": 4, "validation": 0.2},
    "torchmetrics": {"metrics": ["f1", torchmetrics.Accuracy("multiclass", num_classes=3)], "clip_norm": 1.0},
    "unshuffled": {"shuffle": False},
}


@pytest.mark.parametrize("step", [1, 4, 6])
@pytest.mark.parametrize("name", OPTIONS)
def test_a_run_that_crashed_ends_on_the_bits_of_the_one_that_did_not(name: str, step: int, tmp_path: Path) -> None:
    """Parameters, buffers and history are equal, wherever it crashed: mid-epoch, at an epoch's end, twice."""
    whole, start = make(), make()
    expected = quiet(whole, blobs(), epochs=3, **OPTIONS[name])

    for crash in (step, step + 1):
        with pytest.raises(CrashError):
            quiet(
                copy.deepcopy(start), blobs(), epochs=3, **OPTIONS[name],
                checkpoint=tmp_path, checkpoint_every=1, callbacks=[CrashAt(crash)],
            )  # fmt: skip
    resumed = copy.deepcopy(start)
    history = quiet(resumed, blobs(), epochs=3, **OPTIONS[name], checkpoint=tmp_path, checkpoint_every=1)

    assert equal(resumed, whole)
    assert history == expected


class Drifting(nn.Module):
    """Its output depends on a buffer that ``state_dict`` leaves out, and that each batch moves."""

    drift: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)
        self.register_buffer("drift", torch.zeros(6), persistent=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.drift += inputs.detach().mean(0)
        return self.linear(inputs + self.drift)  # type: ignore[no-any-return]  # a tensor


def test_buffers_that_no_state_dict_has_go_on_as_well(tmp_path: Path) -> None:
    """They are in the checkpoint, beside the model's state."""
    torch.manual_seed(0)
    start = Drifting()
    whole = copy.deepcopy(start)
    quiet(whole, blobs(), epochs=3)

    resumed = interrupted(start, tmp_path)

    assert equal(resumed, whole)
    assert torch.equal(resumed.drift, whole.drift)  # type: ignore[arg-type]  # a tensor


def test_without_the_generators_the_comparison_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Positive control: dropout after the resume differs when the generators are not restored."""
    whole, start = make(), make()
    quiet(whole, blobs(), epochs=3)
    with pytest.raises(CrashError):
        quiet(copy.deepcopy(start), blobs(), epochs=3, checkpoint=tmp_path, checkpoint_every=1, callbacks=[CrashAt(5)])
    monkeypatch.setattr("torchbasics.training._run._random.set_state", lambda state: None)

    quiet(start, blobs(), epochs=3, checkpoint=tmp_path, checkpoint_every=1)

    assert not equal(start, whole)


class Draws:
    """A callback that draws random numbers when the run starts, and when it goes on."""

    def on_start(self, state: Any) -> None:
        torch.rand(3)
        random.random()
        np.random.rand()  # noqa: NPY002


@pytest.mark.parametrize("step", [2, 5])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_what_a_callback_draws_at_the_start_changes_nothing(elsewhere: bool, step: int, tmp_path: Path) -> None:
    """It draws once more where a run goes on: from its start, from later, in another folder."""
    whole, start = make(), make()
    options: dict[str, Any] = {"epochs": 3, "checkpoint_every": 4}
    quiet(whole, blobs(), callbacks=[Draws()], **options, checkpoint=tmp_path / "whole")
    with pytest.raises(CrashError):
        quiet(copy.deepcopy(start), blobs(), **options, checkpoint=tmp_path / "a", callbacks=[Draws(), CrashAt(step)])
    if elsewhere:
        with pytest.raises(CrashError):
            quiet(
                copy.deepcopy(start), blobs(), **options, checkpoint=tmp_path / "b", resume=tmp_path / "a",
                callbacks=[Draws(), CrashAt(step // 4 * 4 + 1)],
            )  # fmt: skip

    folder = tmp_path / ("b" if elsewhere else "a")
    quiet(start, blobs(), **options, checkpoint=folder, callbacks=[Draws(), Draws()])

    assert equal(start, whole)
    assert torch.equal(newest(folder)["random"]["torch"], newest(tmp_path / "whole")["random"]["torch"])


def test_generators_that_are_set_before_the_start_alone_give_other_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Positive control: the numbers that a callback draws are gone."""

    def too_early(self: Run) -> None:
        if not self.callbacks:  # not in `go` yet
            original(self)

    original = Run.set_generators
    monkeypatch.setattr(Run, "set_generators", too_early)

    with pytest.raises(AssertionError):
        test_what_a_callback_draws_at_the_start_changes_nothing(False, 5, tmp_path)


def interrupted(start: nn.Module, folder: Path, data: Any = None, *, step: int = 5, **options: Any) -> nn.Module:
    """Crash at *step*, go on, and return the model."""
    data = blobs() if data is None else data
    options = {"epochs": 3, "checkpoint": folder, "checkpoint_every": 1, **options}
    with pytest.raises(CrashError):
        quiet(copy.deepcopy(start), data, callbacks=[CrashAt(step)], **options)
    resumed = copy.deepcopy(start)
    quiet(resumed, data, **options)
    return resumed


class Noisy(Dataset[Any]):
    """Points with noise from all global generators."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, i: int) -> Any:
        return torch.randn(6) + random.random() + float(np.random.rand()), i % 3  # noqa: NPY002


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_augmentation_and_workers_change_nothing(workers: int, tmp_path: Path) -> None:
    """A run with *workers* goes on to the bits of a run without, which nobody interrupted."""
    whole, start = make(), make()
    options: dict[str, Any] = {"epochs": 2, "batch_size": 10, "augment": lambda x: x + torch.randn_like(x)}
    quiet(whole, Noisy(), **options)

    resumed = interrupted(start, tmp_path, Noisy(), workers=workers, step=6, checkpoint_every=3, **options)

    assert equal(resumed, whole)


def test_a_run_without_a_seed_goes_on(tmp_path: Path) -> None:
    """The seed that was drawn is kept, and the global generators are those of the run."""
    whole, start = make(), make()
    random_state = torch.get_rng_state()
    quiet(whole, blobs(), epochs=3, seed=None)
    end = torch.get_rng_state()
    torch.set_rng_state(random_state)
    with pytest.raises(CrashError):
        quiet(
            copy.deepcopy(start), blobs(), epochs=3, seed=None, checkpoint=tmp_path, checkpoint_every=2,
            callbacks=[CrashAt(7)],
        )  # fmt: skip
    torch.manual_seed(99)

    quiet(start, blobs(), epochs=3, seed=None, checkpoint=tmp_path)

    assert equal(start, whole)
    assert torch.equal(torch.get_rng_state(), end)


def test_a_finished_run_comes_back_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is trained; model, optimizer and history are there, and a line says so."""
    model, fresh = make(), make()
    first, second = (torch.optim.Adam(m.parameters()) for m in (model, fresh))
    options: dict[str, Any] = {"epochs": 2, "checkpoint": tmp_path, "batch_size": 16}
    history = fit(model, blobs(), optimizer=first, **options)
    capsys.readouterr()

    again = fit(fresh, blobs(), optimizer=second, **options)

    assert again == history
    assert [row["seconds"] for row in again] == [row["seconds"] for row in history]
    assert equal(fresh, model)
    moments = [[o.state[p]["exp_avg"] for p in o.param_groups[0]["params"]] for o in (first, second)]
    assert all(torch.equal(a, b) for a, b in zip(*moments, strict=True))
    line = capsys.readouterr().out.splitlines()[1]
    last = str(tmp_path / "step-00000008")
    assert line == f"nothing left to train: {last!r} is of a finished run, and all of its state is back"


def test_a_run_that_goes_on_says_from_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The checkpoint, its step and epoch."""
    interrupted(make(), tmp_path, step=6, progress=None)

    assert f"going on from '{tmp_path / 'step-00000005'}': step 5, epoch 2/3" in capsys.readouterr().out.splitlines()


def test_more_epochs_go_on_where_the_schedule_allows_it(tmp_path: Path) -> None:
    """With a constant rate, 1 + 2 epochs are 3; one-cycle depends on the total and refuses."""
    whole, parts = make(), make()
    steady = partial(quiet, schedule=None)
    steady(whole, blobs(), epochs=3)
    steady(parts, blobs(), epochs=1, checkpoint=tmp_path)

    steady(parts, blobs(), epochs=3, checkpoint=tmp_path)

    assert equal(parts, whole)
    quiet(parts, blobs(), epochs=1, checkpoint=tmp_path / "cycle")
    with pytest.raises(ValueError, match="epochs was 1 and is 3"):
        quiet(parts, blobs(), epochs=3, checkpoint=tmp_path / "cycle")


CHANGED: dict[str, tuple[dict[str, Any], str]] = {
    "seed": ({"seed": 3}, "seed was 0 and is 3"),
    "batch size": ({"batch_size": 15}, "batch_size was 16 and is 15"),
    "optimizer": ({"optimizer": "sgd"}, "optimizer was 'adamw' and is 'sgd'"),
    "length": ({"data": blobs(n=59)}, "the data had 60 samples and has 59"),
    "model": (
        {"model": models.MLP(6, (9,), 3, dropout=0.3, batch_norm=True)},
        r"the model was MLP\(.*hidden=\(8,\).*\) and is MLP\(.*hidden=\(9,\)",
    ),
    "two": ({"seed": 3, "data": blobs(n=59)}, "seed was 0 and is 3; the data had 60 samples and has 59; undo the change"),
}  # fmt: skip


@pytest.mark.parametrize("resume", ["auto", True])
@pytest.mark.parametrize("change", CHANGED)
def test_a_changed_run_is_refused_with_both_values(change: str, resume: Any, tmp_path: Path) -> None:
    """Whatever *resume* is; nothing is written or deleted."""
    quiet(make(), blobs(), epochs=1, checkpoint=tmp_path)
    before = sorted(tmp_path.rglob("*"))
    options, message = CHANGED[change]
    options = {"model": make(), "data": blobs(), "resume": resume, **options}

    with pytest.raises(ValueError, match=message):
        quiet(options.pop("model"), options.pop("data"), epochs=1, checkpoint=tmp_path, **options)

    assert sorted(tmp_path.rglob("*")) == before


def own_model(body: str) -> type[nn.Module]:
    """A class of the user's, as a notebook's cell makes one."""
    source = f"class Own(nn.Linear):\n    def forward(self, x):\n        return {body}\n"
    name = f"<cell {len(linecache.cache)}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    module = types.ModuleType("notebook_of_a_user")
    module.__dict__.update(nn=nn, __file__=name)
    sys.modules[module.__name__] = module
    exec(compile(source, name, "exec"), module.__dict__)
    made: type[nn.Module] = module.Own
    return made


def test_a_run_that_only_digests_tell_apart_goes_on_when_told_to() -> None:
    """See the tests below and those of the identity; here are their words."""
    assert _identity.DIGESTS == {
        "data": "the data", "validation": "the validation data", "weights": "the starting weights",
        "source": "the source of the model's class", "settings": "the attributes of the model",
        "objects": "the code or the values of the recipe's",
        "metrics_source": "the code of the metrics (in the middle of an epoch)",
    }  # fmt: skip


@pytest.mark.parametrize("what", ["weights", "data", "validation", "source"])
def test_auto_goes_on_with_the_same_run_only(what: str, tmp_path: Path) -> None:
    """Other starting weights, other values, another class: refused with the two ways on; True goes on."""
    classes = [own_model("super().forward(x)"), own_model("super().forward(x) * 2")]

    def run(*, changed: bool, folder: Path = tmp_path, resume: Any = "auto", epochs: int = 1) -> None:
        torch.manual_seed(7 if changed and what == "weights" else 0)
        if what == "source":
            sys.modules["notebook_of_a_user"].__file__ = inspect.getfile(classes[changed].forward)
            sys.modules["notebook_of_a_user"].Own = classes[changed]  # type: ignore[attr-defined]  # made there
        model = classes[changed](6, 3) if what == "source" else nn.Linear(6, 3)
        inputs, targets = blobs()
        if changed and what == "data":
            inputs[41, 3] += 1
        held_out = blobs(n=9, seed=3 if changed and what == "validation" else 2)
        quiet(
            model, (inputs, targets), epochs=epochs, schedule=None, checkpoint=folder, resume=resume,
            validation=held_out,
        )  # fmt: skip

    run(changed=False)
    run(changed=False)
    with pytest.raises(
        ValueError,
        match=rf"{_identity.DIGESTS[what]} changed since '.*step-00000004' was written; go on all the same with "
        "resume=True, or begin anew in another checkpoint folder",
    ):
        run(changed=True)
    run(changed=True, resume=True, epochs=2)
    run(changed=True, resume=False, folder=tmp_path / "new")


def test_the_model_of_this_very_run_goes_on(tmp_path: Path) -> None:
    """A second call with the trained model is the same run; with weights from elsewhere it is not."""
    model = make()
    quiet(model, blobs(), epochs=1, schedule=None, checkpoint=tmp_path)
    quiet(model, blobs(), epochs=2, schedule=None, checkpoint=tmp_path)
    fresh = make()
    quiet(fresh, blobs(), epochs=2, schedule=None, checkpoint=tmp_path)  # the digest of the start was kept

    assert equal(fresh, model)
    with torch.no_grad():
        next(model.parameters()).add_(1)
    with pytest.raises(ValueError, match="the starting weights changed"):
        quiet(model, blobs(), epochs=3, schedule=None, checkpoint=tmp_path)


def test_resume_says_what_must_be_there(tmp_path: Path) -> None:
    """True wants a checkpoint, False wants none, a path is that one."""
    with pytest.raises(FileNotFoundError, match=r"no checkpoint in .*; start one with resume='auto'"):
        quiet(make(), blobs(), epochs=1, checkpoint=tmp_path, resume=True)
    with pytest.raises(ValueError, match="resume=True needs a folder for the checkpoints to come; give checkpoint="):
        quiet(make(), blobs(), epochs=1, resume=True)
    model = make()
    quiet(model, blobs(), epochs=1, checkpoint=tmp_path, resume=False)
    with pytest.raises(
        FileExistsError, match=r"holds checkpoints; .* resume=True, or begin anew in another checkpoint"
    ):
        quiet(make(), blobs(), epochs=1, checkpoint=tmp_path, resume=False)

    for given in (tmp_path, tmp_path / "step-00000004", str(tmp_path / "step-00000000")):
        fresh = make()
        quiet(fresh, blobs(), epochs=1, checkpoint=tmp_path / f"of {Path(given).name}", resume=given)
        assert equal(fresh, model)
        assert len(list((tmp_path / f"of {Path(given).name}").iterdir())) > 0
    with pytest.raises(FileNotFoundError, match=r"no checkpoint in .*step-00000099'"):
        quiet(make(), blobs(), epochs=1, checkpoint=tmp_path, resume=tmp_path / "step-00000099")
    (tmp_path / "step-00000004" / "manifest.json").unlink()
    with (
        pytest.warns(RuntimeWarning, match="it is passed over"),
        pytest.raises(CheckpointError, match=r"manifest\.json cannot be read"),
    ):
        quiet(make(), blobs(), epochs=1, checkpoint=tmp_path, resume=tmp_path / "step-00000004")


def test_a_checkpoint_elsewhere_begins_a_run_that_the_same_call_goes_on_with(tmp_path: Path) -> None:
    """After a crash too; a folder with the checkpoints of something else is refused."""
    whole, start = make(), make()
    quiet(whole, blobs(), epochs=3, checkpoint=tmp_path / "first", checkpoint_every=2, keep=9)
    given = tmp_path / "first" / "step-00000004"
    options: dict[str, Any] = {"epochs": 3, "checkpoint": tmp_path / "second", "checkpoint_every": 2, "resume": given}
    with pytest.raises(CrashError):
        quiet(copy.deepcopy(start), blobs(), callbacks=[CrashAt(9)], **options)
    steps: list[int] = []
    shutil.rmtree(given)  # it is not needed any more

    quiet(start, blobs(), callbacks=[Steps(steps)], **options)

    assert equal(start, whole)
    assert steps[0] == 9  # step 8 was in the second folder
    quiet(make(), blobs(), **options)
    with pytest.raises(
        FileExistsError, match=r"second' holds step-00000012.*, which does not come from .*step-00000002'; give another"
    ):
        quiet(make(), blobs(), **{**options, "resume": tmp_path / "first" / "step-00000002"})


class Steps:
    """A callback that notes the steps."""

    def __init__(self, steps: list[int]) -> None:
        self.steps = steps

    def on_step(self, state: State) -> None:
        self.steps.append(state.step)


def test_an_older_checkpoint_of_a_folder_has_to_go_elsewhere(tmp_path: Path) -> None:
    """Else the next call would mix two runs; the newest one is welcome."""
    quiet(make(), blobs(), epochs=2, schedule=None, checkpoint=tmp_path, keep=9)
    before = sorted(tmp_path.rglob("*"))

    with pytest.raises(FileExistsError, match=r"holds step-00000008, which does not come from .*; give another"):
        quiet(make(), blobs(), epochs=2, schedule=None, checkpoint=tmp_path, resume=tmp_path / "step-00000004")

    assert sorted(tmp_path.rglob("*")) == before
    options: dict[str, Any] = {"epochs": 3, "schedule": None, "checkpoint": tmp_path, "checkpoint_every": 1}
    for crash in ([CrashAt(11)], []):  # the same call again is welcome, too
        with pytest.raises(CrashError) if crash else nullcontext():
            quiet(make(), blobs(), resume=str(tmp_path / "step-00000008"), callbacks=crash, **options)
    assert _store.read(_store.checkpoints(tmp_path)[0])["steps_done"] == 12


def test_two_processes_do_not_write_to_one_folder(tmp_path: Path) -> None:
    """The second is told at its start; when the first is gone, killed or not, the folder is free."""
    code = (
        "import sys, time; from pathlib import Path; from torchbasics.training import _store\n"
        "with _store.locked(Path(sys.argv[1])): print('in', flush=True); time.sleep(99)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"in\n"
        start = make()
        with pytest.raises(RuntimeError, match=r"another run is writing to .*; wait for its end, or give another"):
            quiet(start, blobs(), epochs=1, checkpoint=tmp_path)
        other.kill()

    assert equal(start, make())
    assert len(quiet(start, blobs(), epochs=1, checkpoint=tmp_path)) == 1


@pytest.mark.parametrize("resume", [None, 1, 0.5, ["auto"]])
def test_resume_is_one_of_its_values(resume: Any, tmp_path: Path) -> None:
    """Nothing else."""
    with pytest.raises(TypeError, match=r"resume must be 'auto', True, False or the path of a checkpoint, got"):
        quiet(make(), blobs(), epochs=1, checkpoint=tmp_path, resume=resume)


def test_a_file_is_no_folder_of_checkpoints(tmp_path: Path) -> None:
    """It is told before anything is trained."""
    (tmp_path / "run").write_text("mine")

    with pytest.raises(NotADirectoryError, match=r"checkpoint='.*run' is a file; give a folder"):
        quiet(make(), blobs(), epochs=1, checkpoint=tmp_path / "run")

    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.parametrize("resume", ["auto", True])
def test_early_stopping_goes_on_with_the_same_validation_data_only(resume: Any, tmp_path: Path) -> None:
    """It would compare unlike losses; so would the choice of the best checkpoint, which begins anew."""
    options: dict[str, Any] = {"epochs": 2, "schedule": None, "checkpoint": tmp_path, "resume": resume}
    quiet(
        make(), blobs(), **{**options, "epochs": 1, "resume": "auto"}, validation=blobs(n=9, seed=2), early_stopping=3
    )

    for validation in (blobs(n=9, seed=3), None):
        with pytest.raises(ValueError, match="of another run: early stopping would compare other validation data"):
            quiet(make(), blobs(), validation=validation, early_stopping=3, **options)


def test_the_best_of_other_validation_data_is_forgotten(tmp_path: Path) -> None:
    """A loss near 0 on the old data does not outshine those on the new."""
    inputs, targets = blobs()
    options: dict[str, Any] = {"schedule": None, "checkpoint": tmp_path, "keep": 1}
    quiet(make(), blobs(), epochs=3, validation=(inputs, targets), **options)

    quiet(make(), blobs(), epochs=4, validation=(inputs, targets.roll(1)), resume=True, **options)

    assert (
        _store.read(_store.checkpoints(tmp_path)[0])["callbacks"]["torchbasics.Checkpointer"]["best_name"]
        == "step-00000016"
    )


@pytest.mark.parametrize("options", [{"ema": 0.9}, {"early_stopping": 1}, {"ema": 0.9, "early_stopping": 1}], ids=str)
def test_the_same_call_with_the_finished_model_is_the_same_run(options: dict[str, Any], tmp_path: Path) -> None:
    """Also where the model ended with averaged or with earlier weights."""
    model = make()
    options = {
        **options, "epochs": 5, "lr": 0.5, "schedule": None, "validation": blobs(n=9, seed=2), "checkpoint": tmp_path,
    }  # fmt: skip
    history = quiet(model, blobs(), **options)
    result = copy.deepcopy(model)

    assert quiet(model, blobs(), **options) == history
    assert equal(model, result)


@pytest.mark.parametrize("resume", ["auto", True])
def test_a_model_with_other_parameters_is_refused_before_one_is_changed(resume: Any, tmp_path: Path) -> None:
    """Any module, which tells no arguments: by names, shapes and dtypes."""
    quiet(nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3)), blobs(), epochs=1, checkpoint=tmp_path)
    other = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3, bias=False), nn.Linear(3, 3))
    before = copy.deepcopy(other)

    with pytest.raises(
        ValueError,
        match=r"another run: '1.bias' was \(3,\) of torch.float32 and is absent; '2.weight' was absent and is \(3, 3\)",
    ):
        quiet(other, blobs(), epochs=1, checkpoint=tmp_path, resume=resume)
    with pytest.raises(ValueError, match=r"'0.weight' was .* of torch.float32 and is .*float64; .*and 1 more differe"):
        quiet(nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3)).double(), [(blobs()[0].double(), blobs()[1])], epochs=1,
              checkpoint=tmp_path, resume=resume, batch_size=None)  # fmt: skip

    assert equal(other, before)


def test_fewer_epochs_than_are_done_are_refused(tmp_path: Path) -> None:
    """A history of two epochs is none of one."""
    quiet(make(), blobs(), epochs=2, schedule=None, checkpoint=tmp_path)

    with pytest.raises(ValueError, match="of another run: 2 epochs are done, and epochs=1"):
        quiet(make(), blobs(), epochs=1, schedule=None, checkpoint=tmp_path)


def test_other_metrics_wait_for_the_end_of_the_epoch(tmp_path: Path) -> None:
    """Half of an epoch's predictions are gone; between two epochs they may change."""
    options: dict[str, Any] = {"epochs": 2, "schedule": None, "checkpoint": tmp_path, "checkpoint_every": 1}
    with pytest.raises(CrashError):
        quiet(make(), blobs(), callbacks=[CrashAt(3)], **options)
    with pytest.raises(ValueError, match=r"metrics were None and are \['f1'\], in the middle of an epoch"):
        quiet(make(), blobs(), metrics=["f1"], **options)
    quiet(make(), blobs(), **{**options, "epochs": 1, "checkpoint_every": None})

    history = quiet(make(), blobs(), metrics=["f1"], **options)

    assert [sorted(row) for row in history] == [["accuracy", "loss", "seconds"], ["f1", "loss", "seconds"]]


def without_a_file(body: str, base: type = nn.Linear) -> type[nn.Module]:
    """A class of which no source is to be found, as code typed at a prompt or run from a string makes it."""
    source = f"class Own(base):\n    def forward(self, x):\n        y = super().forward(x)\n        return {body}\n"
    space: dict[str, Any] = {"base": base, "__name__": "__main__"}
    exec(source, space)
    made: type[nn.Module] = space["Own"]
    return made


def test_the_source_of_a_class_without_a_file_is_its_code() -> None:
    """Another constant, name, inner function or base is another source; the same text is the same."""
    digests = {
        name: _identity.source_digest(cls(6, 3))
        for name, cls in {
            "plain": without_a_file("y"),
            "again": without_a_file("y"),
            "constant": without_a_file("y * 2"),
            "other constant": without_a_file("y * 3"),
            "name": without_a_file("y.relu()"),
            "other name": without_a_file("y.sigmoid()"),
            "inner": without_a_file("(lambda z: z + 1)(y)"),
            "other inner": without_a_file("(lambda z: z + 2)(y)"),
            "base": without_a_file("y", without_a_file("y")),
            "other base": without_a_file("y", without_a_file("y * 2")),
        }.items()
    }

    assert digests["plain"] == digests.pop("again")
    assert len(set(digests.values())) == len(digests)


def test_a_changed_class_without_a_file_is_refused(tmp_path: Path) -> None:
    """As one whose source is known."""
    for body in ("y", "y"):
        torch.manual_seed(0)
        quiet(without_a_file(body)(6, 3), blobs(), epochs=1, schedule=None, checkpoint=tmp_path)
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="the source of the model's class changed"):
        quiet(without_a_file("y * 2")(6, 3), blobs(), epochs=1, schedule=None, checkpoint=tmp_path)


def spoil(path: Path) -> None:
    (path / "state.pt").write_bytes((path / "state.pt").read_bytes()[:100])


def test_a_damaged_checkpoint_costs_only_the_way_from_the_one_before(tmp_path: Path) -> None:
    """The run ends on the same bits, and the damaged one is gone when there is a better one."""
    whole, start = make(), make()
    quiet(whole, blobs(), epochs=3)
    options: dict[str, Any] = {"epochs": 3, "checkpoint": tmp_path, "checkpoint_every": 2}
    with pytest.raises(CrashError):
        quiet(copy.deepcopy(start), blobs(), callbacks=[CrashAt(7)], **options)
    spoil(tmp_path / "step-00000006")

    with pytest.warns(RuntimeWarning, match=r"step-00000006' is damaged: state.pt has 100 bytes.*; it is passed over"):
        quiet(start, blobs(), **options)

    assert equal(start, whole)
    assert [path.name for path in _store.checkpoints(tmp_path)] == ["step-00000012.2", "step-00000012"]


@pytest.mark.parametrize("resume", ["auto", True])
def test_with_all_of_them_damaged_nothing_is_begun_or_deleted(resume: Any, tmp_path: Path) -> None:
    """Whoever wants to begin anew says so."""
    quiet(make(), blobs(), epochs=1, checkpoint=tmp_path)
    for path in _store.checkpoints(tmp_path):
        spoil(path)
    before = sorted(tmp_path.rglob("*"))

    with (
        pytest.warns(RuntimeWarning, match="it is passed over"),
        pytest.raises(CheckpointError, match=r"all checkpoints in .* are damaged; begin anew in another folder, or "),
    ):
        quiet(make(), blobs(), epochs=1, checkpoint=tmp_path, resume=resume)

    assert sorted(tmp_path.rglob("*")) == before


def test_the_name_of_a_damaged_checkpoint_that_is_gone_is_as_good_as_any(tmp_path: Path) -> None:
    """What is written anew at its step stays."""
    options: dict[str, Any] = {"epochs": 3, "checkpoint": tmp_path, "checkpoint_every": 2, "keep": 3}
    with pytest.raises(CrashError):
        quiet(make(), blobs(), callbacks=[CrashAt(8)], **options)
    spoil(tmp_path / "step-00000006")

    with pytest.warns(RuntimeWarning, match="it is passed over"), pytest.raises(CrashError):
        quiet(make(), blobs(), callbacks=[CrashAt(10)], **options)

    assert [path.name for path in _store.checkpoints(tmp_path)] == ["step-00000008", "step-00000006.2", "step-00000004"]


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    """The first checkpoint is at step 0; then *keep* of the newest, and the one with the lowest validation loss."""
    seen: list[list[str]] = []

    class Watch:
        def on_step(self, state: State) -> None:
            seen.append([path.name for path in _store.checkpoints(tmp_path)])

    history = quiet(
        make(), blobs(n=20), validation=blobs(n=20, seed=8), epochs=6, lr=0.3, batch_size=20, schedule=None,
        checkpoint=tmp_path, callbacks=[Watch()], keep=1,
    )  # fmt: skip

    assert seen[0] == ["step-00000000"]
    losses = history.column("validation_loss")
    best = losses.index(min(losses)) + 1
    assert best < 5
    assert [path.name for path in _store.checkpoints(tmp_path)] == ["step-00000006", f"step-{best:08d}"]


def test_a_checkpoint_that_cannot_be_saved_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training goes on to the same bits; those before it are kept."""
    whole, model = make(), make()
    quiet(whole, blobs(), epochs=2)
    original = _store.write

    def fail(path: Path, state: Any, step: int) -> None:
        if step == 8:
            raise OSError(28, "No space left on device")
        original(path, state, step)

    monkeypatch.setattr(_store, "write", fail)

    with pytest.warns(
        RuntimeWarning, match=r"the checkpoint at step 8 could not be saved in .*No space left.*are kept"
    ):
        quiet(model, blobs(), epochs=2, checkpoint=tmp_path)

    assert equal(model, whole)
    assert [path.name for path in _store.checkpoints(tmp_path)] == ["step-00000004", "step-00000000"]


class Counter:
    """A callback with a state."""

    def __init__(self) -> None:
        self.steps = 0

    def on_step(self, state: State) -> None:
        self.steps += 1

    def state_dict(self) -> dict[str, int]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.steps = state["steps"]


def test_callbacks_find_their_state_whoever_else_is_there(tmp_path: Path) -> None:
    """Two of a class by their order; others may come and go."""
    options: dict[str, Any] = {"epochs": 2, "checkpoint": tmp_path, "checkpoint_every": 1}
    with pytest.raises(CrashError):
        quiet(make(), blobs(), callbacks=[Counter(), Counter(), CrashAt(3)], **options)
    one, two, late = Counter(), Counter(), Counter()
    two.steps = 100

    quiet(make(), blobs(), callbacks=[one, two, late], **options)

    assert (one.steps, two.steps, late.steps) == (8, 8, 6)


def test_the_threads_of_the_run_are_set_and_put_back(tmp_path: Path) -> None:
    """The last bits depend on them."""
    seen: list[int] = []

    class Watch:
        def on_step(self, state: State) -> None:
            seen.append(torch.get_num_threads())

    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    with pytest.raises(CrashError):
        quiet(make(), blobs(), epochs=1, checkpoint=tmp_path, checkpoint_every=1, callbacks=[CrashAt(2)])
    torch.set_num_threads(before)

    quiet(make(), blobs(), epochs=1, checkpoint=tmp_path, callbacks=[Watch()])

    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("capability", "bfloat16", "amx", "now"),
    [
        ("OTHER", True, False, "OTHER BF16"),
        ("AVX512", False, False, "AVX512"),
        ("AVX512", True, True, "AVX512 BF16 AMX"),
    ],
)
def test_other_numerics_are_logged(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    *,
    capability: str,
    bfloat16: bool,
    amx: bool,
    now: str,
) -> None:
    """Another processor goes on with the same order of data, and the log says that the last bits may differ."""

    def processor(capability: str, bfloat16: bool, amx: bool) -> None:
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bfloat16)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)

    processor("AVX512", True, False)
    quiet(make(), blobs(), epochs=1, schedule=None, checkpoint=tmp_path)
    assert not caplog.messages
    processor(capability, bfloat16, amx)

    quiet(make(), blobs(), epochs=2, schedule=None, checkpoint=tmp_path)

    (message,) = caplog.messages
    assert re.fullmatch(
        f"the run goes on with the same data order, but not .*: instructions was 'AVX512 BF16' and is '{now}'", message
    )


def test_products_in_less_than_float32_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As scripts set it for speed; it has its effect on CPUs, too."""
    precision = torch.get_float32_matmul_precision()
    quiet(make(), blobs(), epochs=1, schedule=None, checkpoint=tmp_path)
    torch.set_float32_matmul_precision("medium")
    try:
        quiet(make(), blobs(), epochs=2, schedule=None, checkpoint=tmp_path)
    finally:
        torch.set_float32_matmul_precision(precision)

    (message,) = caplog.messages
    assert re.search("not to the same last bits: reduced float32 was 'none' and is 'matmul (bf16|medium)'$", message)


def test_wrappers_leave_no_trace(tmp_path: Path) -> None:
    """What was trained through torch.compile or DataParallel goes on without, and the other way round."""
    wrapped = nn.DataParallel(make())
    inner = nn.Sequential(make())
    quiet(wrapped, blobs(), epochs=1, schedule=None, checkpoint=tmp_path)
    plain = make()

    quiet(plain, blobs(), epochs=2, schedule=None, checkpoint=tmp_path)

    state = _store.read(_store.checkpoints(tmp_path)[0])["model_state"]
    assert list(state) == list(plain.state_dict())
    part: Any = torch.compile(make())
    whole: Any = torch.compile(inner)
    assert list(plain_state(whole)) == list(plain_state(nn.Sequential(part))) == list(inner.state_dict())
    load_plain_state(nn.Sequential(part), inner.state_dict())
    assert equal(part._orig_mod, inner[0])


def loader(**options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*blobs()), batch_size=16, **options)


plain = partial(fit, progress=False, lr=0.01)
UNSURE = "a DataLoader without state_dict and load_state_dict goes on exactly from the end of an epoch only"


def in_batches(generator: torch.Generator) -> BatchSampler:
    return BatchSampler(RandomSampler(range(60), generator=generator), 16, drop_last=False)


class Shuffled(Sampler[Any]):
    """A sampler of a user's own, of numbers or of batches of them."""

    def __init__(self, generator: Any, size: int | None = None) -> None:
        self.size = size
        if isinstance(generator, torch.Generator):
            self.generator = generator
        else:
            self.hidden = generator

    def __iter__(self) -> Iterator[Any]:
        if hasattr(self, "hidden"):
            index = torch.from_numpy(self.hidden.permutation(60))
        else:
            index = torch.randperm(60, generator=self.generator)
        yield from index.tolist() if self.size is None else (part.tolist() for part in torch.split(index, self.size))

    def __len__(self) -> int:
        return 60 if self.size is None else -(-60 // self.size)


LOADERS: dict[str, Any] = {
    "global generator": lambda g: loader(shuffle=True),
    "own generator": lambda g: loader(shuffle=True, generator=g),
    "batch sampler": lambda g: DataLoader(TensorDataset(*blobs()), batch_sampler=in_batches(g)),
    "batches as items": lambda g: DataLoader(TensorDataset(*blobs()), sampler=in_batches(g), batch_size=None),
    "sampler of one's own": lambda g: loader(sampler=Shuffled(g)),
    "batch sampler of one's own": lambda g: DataLoader(TensorDataset(*blobs()), batch_sampler=Shuffled(g, 16)),
}


@pytest.mark.parametrize("kind", LOADERS)
def test_a_loader_of_ones_own_goes_on_exactly_from_the_end_of_an_epoch(kind: str, tmp_path: Path) -> None:
    """With the global generator or one of its own, wherever it holds that; nobody is warned."""

    def make_loader() -> DataLoader[Any]:
        made: DataLoader[Any] = LOADERS[kind](torch.Generator().manual_seed(3))
        return made

    whole, start = make(), make()
    plain(whole, make_loader(), epochs=3)
    with pytest.raises(CrashError):
        plain(copy.deepcopy(start), make_loader(), epochs=3, checkpoint=tmp_path, callbacks=[CrashAt(6)])

    plain(start, make_loader(), epochs=3, checkpoint=tmp_path)

    assert equal(start, whole)


def test_a_sampler_that_hides_its_state_is_warned_of(tmp_path: Path) -> None:
    """And rightly so: its order is another one."""

    def make_loader() -> DataLoader[Any]:
        return loader(sampler=Shuffled(np.random.default_rng(3)))

    whole, start = make(), make()
    plain(whole, make_loader(), epochs=3)
    told = "the state of a sampler Shuffled is in no checkpoint"
    with pytest.warns(RuntimeWarning, match=told), pytest.raises(CrashError):
        plain(copy.deepcopy(start), make_loader(), epochs=3, checkpoint=tmp_path, callbacks=[CrashAt(6)])

    with pytest.warns(RuntimeWarning, match=told):
        plain(start, make_loader(), epochs=3, checkpoint=tmp_path)

    assert not equal(start, whole)


def test_within_an_epoch_a_loader_of_ones_own_is_warned_of(tmp_path: Path) -> None:
    """And rightly so: its order is another one."""
    whole, start = make(), make()
    plain(whole, loader(shuffle=True), epochs=2)
    with pytest.warns(RuntimeWarning, match=UNSURE), pytest.raises(CrashError):
        plain(
            copy.deepcopy(start), loader(shuffle=True), epochs=2, checkpoint=tmp_path, checkpoint_every=1,
            callbacks=[CrashAt(6)],
        )  # fmt: skip

    with pytest.warns(RuntimeWarning, match=UNSURE):
        plain(start, loader(shuffle=True), epochs=2, checkpoint=tmp_path)

    assert not equal(start, whole)


class Stateful:
    """A loader with the protocol: its own order, and where it stands in it."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(4)
        self.rest: list[Any] = []

    def __iter__(self) -> Iterator[Any]:
        torch.rand(())  # as torch's own loader draws a seed
        return self.batches()

    def batches(self) -> Iterator[Any]:
        inputs, targets = blobs()
        if not self.rest:
            self.rest = list(torch.split(torch.randperm(60, generator=self.generator), 16))
        while self.rest:
            index = self.rest.pop(0)
            yield inputs[index], targets[index]

    def __len__(self) -> int:
        return 4

    def state_dict(self) -> dict[str, Any]:
        return {"rest": list(self.rest)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rest = list(state["rest"])


@pytest.mark.parametrize("step", [3, 4, 5, 6])
@pytest.mark.parametrize("kind", [Stateful, lambda: list(loader())], ids=["protocol", "list"])
def test_a_loader_with_the_protocol_goes_on_exactly_from_anywhere(kind: Any, step: int, tmp_path: Path) -> None:
    """So does a list; nobody is warned."""
    whole, start = make(), make()
    plain(whole, kind(), epochs=3)
    with pytest.raises(CrashError):
        plain(
            copy.deepcopy(start), kind(), epochs=3, checkpoint=tmp_path, checkpoint_every=1, callbacks=[CrashAt(step)]
        )

    plain(start, kind(), epochs=3, checkpoint=tmp_path)

    assert equal(start, whole)
