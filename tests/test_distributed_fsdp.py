"""Models in parts (FSDP2) under torchrun: as with DDP, whole in files, and back from sharded checkpoints."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import distributed_fsdp as tasks
from torchbasics import _files, _parts, io
from torchbasics._recipe import Recipe
from torchbasics.training import _parallel, _shards, _store

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("parts")]

ROOT = Path(__file__).parents[1]
ABLE = hasattr(torch.cpu.Stream(), "record_event")
cuts = pytest.mark.skipif(not ABLE, reason="FSDP2 on the CPU needs torch 2.7 or newer")


def launch(folder: Path, *names: str, processes: int = 2) -> dict[str, Any]:
    """Run tasks in several processes, and return what the first one found."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    ended = subprocess.run(
        [*command, tasks.__file__, str(folder), *names],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in names}


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder, and what two processes found in all tasks, one after the other."""
    folder = tmp_path_factory.mktemp("parts")
    return folder, launch(folder, "equal", "alone", "nonfinite", "save")


@pytest.fixture
def saved(launched: tuple[Path, dict[str, Any]]) -> tuple[Path, dict[str, Any]]:
    return launched[0], launched[1]["save"]


@pytest.fixture
def open_run(saved: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    """A run of two processes that ended at step 10, to be changed; its newest checkpoint is of step 8."""
    shutil.copytree(saved[0] / "open", tmp_path / "open")
    return tmp_path


@cuts
def test_parts_train_as_ddp_does(launched: tuple[Path, dict[str, Any]]) -> None:
    """History and weights are those of DDP to 1e-6; not where a process's gradient does not count by its samples."""
    made = dict(launched[1]["equal"])
    control = made.pop("control")

    print(json.dumps({**made, "control": control}, indent=1))
    assert list(made) == list(tasks.CASES)
    assert all(found["sharded"] for found in made.values())
    assert {name: found for name, found in made.items() if max(found["rows"], found["weights"]) > 1e-6} == {}
    assert made["restore_best"]["stopped"] == "early"
    assert control["rows"] > 1e-5


@cuts
def test_parts_of_a_gan_and_what_is_refused(launched: tuple[Path, dict[str, Any]]) -> None:
    """A model of which only the parts are called trains too; what goes with whole parameters alone is named."""
    made = dict(launched[1]["alone"])

    print(made)
    for name, value in made["ddp"].items():
        assert made["fsdp"][name] == pytest.approx(value, abs=1e-5)  # Adam: the last bits of small gradients count
    assert "the optimizer instance holds the whole ones" in made["refused"][0]
    assert "use 'bfloat16'" in made["refused"][1]


@cuts
def test_all_processes_stop_before_an_update_that_is_not_finite(launched: tuple[Path, dict[str, Any]]) -> None:
    """The same error in all, with the samples of the process whose they are; also where one part of one tensor is."""
    made = dict(launched[1]["nonfinite"])

    for name, ((first, finite), (second, also)) in made.items():
        assert first == second, name
        assert finite, name
        assert also, name
    for clip in ("None", "1.0"):
        text, step, module = made[f"loss {clip}"][0][0]
        assert (step, module) == (2, None)
        assert text.startswith("in process 1: the loss is nan at step 2, epoch 1, on samples [20, 21, 22, 23, 24, 25]")
        text, step, module = made[f"gradient {clip}"][0][0]
        assert (step, module) == (2, "4")
        assert text.startswith("in process 1: the loss is finite, but a gradient is not, at step 2")
    text, step, module = made["part None"][0][0]
    assert (step, module) == (1, "0")
    assert text.startswith("in one of the processes, seen in process 1: the loss is finite, but a gradient is not,")


@cuts
def test_a_sharded_run_goes_on_to_the_same_bits(saved: tuple[Path, dict[str, Any]]) -> None:
    """With the model that was left, and with a new one; not where the optimizer's state is lost."""
    _, made = saved

    assert made["same model"] == made["undisturbed"]
    assert made["new model"] == made["undisturbed"]
    assert made["control"] != made["undisturbed"]


@cuts
def test_each_process_writes_its_part(saved: tuple[Path, dict[str, Any]]) -> None:
    """A checkpoint has a file of each process, all in the manifest, and no pickle of torch's."""
    newest = _store.checkpoints(saved[0] / "whole")[0]
    manifest = json.loads((newest / "manifest.json").read_text())

    assert sorted(path.name for path in newest.iterdir()) == [
        "__0_0.distcp",
        "__1_0.distcp",
        "manifest.json",
        "state.pt",
    ]
    assert sorted(manifest["files"]) == ["__0_0.distcp", "__1_0.distcp", "state.pt"]


@cuts
def test_a_part_that_cannot_be_written_is_no_checkpoint(saved: tuple[Path, dict[str, Any]]) -> None:
    """Training goes on, the first process tells whose it was, and nothing half written is left."""
    full = saved[1]["full"]

    assert not [name for name in full["names"] if name.startswith(".") or "00000008" in name]
    assert {"step-00000000", "step-00000004", "step-00000012"} <= set(full["names"])
    assert any("step 8 could not be saved" in line and "No space left" in line for line in full["said"])


@cuts
def test_a_state_that_one_process_cannot_tell_costs_a_checkpoint(saved: tuple[Path, dict[str, Any]]) -> None:
    """Nobody waits for its part; the first process tells whose it was, and training goes on."""
    said, model, undisturbed = saved[1]["without a state"]

    told = [text for text in said if "could not be saved" in text]
    assert len(told) == 2  # after the update, and after the epoch
    assert "the checkpoint at step 8 could not be saved" in told[0]
    assert "process 1 failed: LookupError" in told[0]
    assert model == undisturbed


@cuts
def test_a_model_in_parts_is_trained_again(launched: tuple[Path, dict[str, Any]]) -> None:
    """Whatever memory format it likes as a whole, with pictures in TensorBoard: the losses are those of DDP."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, made = launched
    *there, whole = made["alone"]["ddp twice"]
    *here, parts = made["alone"]["fsdp twice"]
    events = EventAccumulator(str(folder / "board"))
    events.Reload()

    assert (whole, parts) == (False, True)
    assert here == pytest.approx(there, abs=1e-4)
    assert events.Tags()["images"] == ["predictions"]


@cuts
def test_files_of_parts_are_ordinary(saved: tuple[Path, dict[str, Any]]) -> None:
    """One process reads what several have saved; where it cannot be written, all know."""
    folder, made = saved

    model = io.load(folder / "mlp.safetensors")
    assert _files.tensors_digest(model.state_dict().items()) == made["saved"]
    io.load_state(model, folder / "state.safetensors")
    assert _files.tensors_digest(model.state_dict().items()) == made["saved"]
    assert made["refused"][0].startswith("FileNotFoundError: no folder")
    assert made["refused"][1].startswith("OSError: process 0 could not write")


@cuts
@pytest.mark.parametrize("processes", [1, 3])
def test_another_number_of_processes_goes_on_from_the_same_sample(
    saved: tuple[Path, dict[str, Any]], open_run: Path, processes: int
) -> None:
    """To the losses of the run that nobody stopped, to 1e-6: each sample counts once."""
    if processes == 1:
        history = tasks.long(tasks.network(), open_run / "open")
        losses = [row["loss"] for row in history]
    else:
        made = launch(open_run, "resume", processes=processes)["resume"]
        losses = made["history"]
        assert any("2 processes have begun and 3 go on" in line for line in made["notes"])

    assert losses == pytest.approx(saved[1]["history"], abs=1e-6)


@cuts
@pytest.mark.parametrize("damage", ["changed", "shorter", "missing"])
def test_a_damaged_part_is_passed_over(open_run: Path, damage: str) -> None:
    """A checkpoint without the whole part of each process does not count; the one before does, with a warning."""
    newest, before, *_ = _store.checkpoints(open_run / "open")
    file = newest / "__1_0.distcp"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content if damage == "changed" else content[:-1])
    if damage == "missing":
        file.unlink()

    with pytest.warns(RuntimeWarning, match=r"is damaged: .*__1_0\.distcp.*it is passed over"):
        found, damaged = _store.newest(open_run / "open")

    assert found is not None
    assert (found[0], damaged) == (before, {newest})
    whole = _shards.loaded(*found)["model_state"]
    assert whole["0.weight"].shape == (7, 8)


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def sign(checkpoint: Path) -> None:
    """Write a manifest of what is there, as a stranger can."""
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest.pop("digest")
    manifest["files"] = {p.name: _store.told(p) for p in checkpoint.iterdir() if p.name != "manifest.json"}
    (checkpoint / "manifest.json").write_text(json.dumps({**manifest, "digest": _store._digest(manifest)}))


@cuts
def test_no_code_in_a_sharded_checkpoint_is_run(open_run: Path, tmp_path: Path) -> None:
    """Neither torch's pickle of metadata nor one in the place of a part; the control unpickles it."""
    newest, mark = _store.checkpoints(open_run / "open")[0], tmp_path / "mark"
    for name in (".metadata", "__0_0.distcp", "__1_0.distcp"):
        (newest / name).write_bytes(pickle.dumps(Touch(mark), protocol=2).ljust(20_000, b"."))
        sign(newest)
        state = _store.read(newest)
        with nullcontext() if name == ".metadata" else pytest.raises(io.CheckpointError, match="no part of a tensor"):
            _shards.loaded(newest, state)
        assert not mark.exists()

    pickle.loads((newest / ".metadata").read_bytes())
    assert mark.exists()


@cuts
def test_a_part_lies_in_the_checkpoint(open_run: Path) -> None:
    """A state that names a file elsewhere is damaged."""
    newest = _store.checkpoints(open_run / "open")[0]
    state = _store.read(newest)
    next(iter(state["parts"].values()))[2][0][2] = "../step-00000004/__0_0.distcp"

    with pytest.raises(io.CheckpointError, match="it names the file"):
        _shards.loaded(newest, state)


def test_old_torch_cannot_cut_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the release that can."""
    monkeypatch.setattr(torch.cpu, "Stream", object)

    with pytest.raises(RuntimeError, match=r"strategy='fsdp' on the CPU needs torch 2\.7 or newer, and this is"):
        _parallel._check_shardable(tasks.network(), Recipe())


def test_one_process_keeps_the_model_whole() -> None:
    """Without torchrun the strategy changes nothing."""
    one, two = tasks.network(), tasks.network()

    assert tasks.fit(one) == tasks.fit(two, strategy=None)
    assert tasks.digest(one) == tasks.digest(two)
    assert not _parts.is_sharded(one)
