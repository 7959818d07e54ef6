"""What is told, waited for and refused among processes, as far as one process shows it."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, Dataset

from torchbasics import io
from torchbasics._world import ALONE, World, listen, lost
from torchbasics.data._batches import make_batches
from torchbasics.training import _checkpoint, _finite, _parallel, _shards, _store
from torchbasics.training._metrics import Gathered

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Broken(Dataset[Any]):
    """Says in a worker what torch says of a lost process, or takes its time."""

    def __init__(self, said: str | None) -> None:
        self.said = said

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> int:
        if self.said is None:
            time.sleep(1)
        raise RuntimeError(self.said)


def error(do: Callable[[], object]) -> BaseException:
    with pytest.raises(RuntimeError) as caught:
        do()
    return caught.value


def test_a_sample_that_cannot_be_read_is_no_lost_process() -> None:
    """Torch raises again, in code of its own, what a worker of a DataLoader has raised, and that it took too long."""
    said = "[gloo/transport/tcp/pair.cc:534] Connection closed by peer"
    told = error(lambda: list(DataLoader(Broken(said), num_workers=1)))
    slow = error(lambda: list(DataLoader(Broken(None), num_workers=1, timeout=0.2)))

    assert said in str(told)
    assert "timed out" in str(slow)
    assert not lost(told)
    assert not lost(slow)
    assert not lost(error(lambda: Broken(said)[0]))


def test_what_torch_says_of_a_model_is_no_lost_process() -> None:
    """Even with words such as store and peer in it."""

    class Peer(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs

    raised = error(lambda: Peer().load_state_dict({"store of a peer": torch.ones(1)}))

    assert "store of a peer" in str(raised)
    assert not lost(raised)


def test_gradients_in_parts_cost_one_wait_for_the_device() -> None:
    """However many parameters there are."""

    class Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's
        count = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.count += func is torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(9)))
    torch.autograd.backward(model(torch.ones(1, 2)).sum())
    optimizer = torch.optim.SGD(model.parameters())
    with Waits() as waits:  # type: ignore[no-untyped-call]  # torch's
        _finite.check_parts(optimizer, None, ALONE)

    assert waits.count == 1


def test_two_processes_on_one_gpu_are_refused() -> None:
    """What a model moved to "cuda" before `fit` comes to; the same number on two hosts is another GPU."""
    a, b, c = ("host1", "GPU-1", "cuda:0"), ("host1", "GPU-2", "cuda:1"), ("host2", "GPU-1", "cuda:0")
    _parallel.check_devices([a, b, c, None, None])

    told = r"on cuda:0 of host 'host1' in process 1 and in process 2, .*device='auto', .*LOCAL_RANK"
    with pytest.raises(ValueError, match=told):
        _parallel.check_devices([b, a, a])


@pytest.mark.parametrize("ends", [False, True], ids=["waits", "ends"])
def test_who_waits_on_a_gpu_says_why(ends: bool, capfd: pytest.CaptureFixture[str]) -> None:
    """On stderr, once another process has told of its failure; not where it ends by itself."""
    ended = threading.Event()

    class Store(torch.distributed.HashStore):  # type: ignore[misc,name-defined]  # it is public
        def get(self, key: str) -> bytes:
            if ends:
                ended.set()
            return bytes(super().get(key))

    store = Store()
    store.set("key/first", "process 1 failed: ValueError: no")
    listen(store, "key", ended, 0.05)

    said = "process 1 failed: ValueError: no; this process waits on its GPU until torchrun ends it\n"
    assert capfd.readouterr().err == ("" if ends else said)


class Second(World):
    """The second of two processes, where the first has said *first* each time."""

    def __init__(self, *first: Any) -> None:
        super().__init__(1, 2)
        self.said = list(first)

    def exchange(self, value: Any) -> list[Any]:
        return [self.said.pop(0), value]


def test_a_folder_may_show_late_what_process_0_has_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the disk of a network does; not for ever."""
    names = [".lock", "step-00000004"]

    def write() -> None:
        for name in names:
            tmp_path.joinpath(name).mkdir()

    later = threading.Timer(0.3, write)
    later.start()
    _checkpoint._see_alike(tmp_path, Second(names, names))
    later.join()

    monkeypatch.setattr(_store, "LATE", 0.1)
    with pytest.raises(ValueError, match=r"holds \.lock in process 0 and \.lock, step-00000004 in process 1"):
        _checkpoint._see_alike(tmp_path, Second([".lock"], [".lock"]))


def test_a_checkpoint_may_show_late_and_is_of_use_to_all_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Process 1 waits for its files, and takes the word of process 0, which reads first.

    One that process 0 alone sees is not passed over as a damaged one, which would be deleted.
    """
    _store.write(tmp_path / "step-00000001", {"a": 1}, 1)
    (tmp_path / "step-00000001").rename(tmp_path / "late")
    later = threading.Timer(0.3, lambda: (tmp_path / "late").rename(tmp_path / "step-00000001"))
    later.start()
    assert _store.read_alike(tmp_path / "step-00000001", Second(None, None)) == {"a": 1}
    later.join()

    with pytest.raises(io.CheckpointError, match="as process 0 sees it") as refused:
        _store.read_alike(tmp_path / "step-00000001", Second(("damaged, as process 0 sees it", "damaged")))
    assert refused.value.reason == "damaged"

    monkeypatch.setattr(_store, "LATE", 0.1)
    with pytest.raises(OSError, match=r"process 1 does not see '.*step-00000002' as process 0 does; give a folder on"):
        _store.read_alike(tmp_path / "step-00000002", Second(None))


@pytest.mark.parametrize(("file", "by"), [("__0_0.distcp", [0]), ("__1_0.distcp", [1]), ("state.pt", [0, 1])])
def test_each_process_digests_a_part_of_the_files(tmp_path: Path, file: str, by: list[int]) -> None:
    """Together they look at all; the state, which all read, each looks at itself."""
    path, written = tmp_path / "step-00000001", _store.begin(tmp_path / "step-00000001")
    for name in ("__0_0.distcp", "__1_0.distcp"):
        (written / name).write_bytes(bytes(100))
    parts = {part.name: _store.told(part) for part in written.iterdir()}
    _store.finish(written, path, {"a": 1}, 1, parts)
    content = bytearray((path / file).read_bytes())
    content[len(content) // 2] ^= 1
    (path / file).write_bytes(content)

    refused = []
    for rank in range(2):
        try:
            _store.read(path, trusted=_store._others(path, World(rank, 2)))
        except io.CheckpointError:
            refused.append(rank)
    assert refused == by


@pytest.mark.parametrize(
    "told",
    [{"shape": (2,), "dtype": torch.float32, "torchbasics.part": 3}, {"torchbasics.part": "0 w", "shape": (2,)},
     {"torchbasics.part": "0 w", "shape": (-1,), "dtype": torch.float32},
     {"torchbasics.part": "0 w", "shape": 2, "dtype": torch.float32},
     {"torchbasics.part": "0 w", "shape": (2,), "dtype": "float32"}],
    ids=["key", "no dtype", "negative", "no shape", "dtype"],
)  # fmt: skip
def test_what_is_said_of_a_tensor_in_parts_has_one_form(tmp_path: Path, told: dict[str, Any]) -> None:
    """A state that somebody has made is refused, not a KeyError later."""
    with pytest.raises(io.CheckpointError, match="what it says of the tensor model_state/w is wrong"):
        _shards.check(tmp_path, {"model_state": {"w": told}})


def test_what_is_gathered_is_a_copy_of_the_batch_alone() -> None:
    """A loader may fill the same memory again; and of a part of a tensor, the whole is not sent to the others."""
    whole, logits, metric = torch.arange(1000), torch.zeros(2, 3), Gathered(object())

    metric.update(logits, whole[5:7])
    whole.zero_()
    logits.fill_(1)

    ((outputs, targets),) = metric.batches
    assert outputs.tolist() == [[0, 0, 0]] * 2
    assert targets.tolist() == [5, 6]
    assert targets.untyped_storage().nbytes() == 16


def test_persistent_workers_that_are_not_told_the_epoch_are_named() -> None:
    """They have copies of the dataset, made before the first epoch."""

    class Ordered(Dataset[Any]):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
            return torch.ones(1), torch.ones(1)

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

    batches = make_batches(DataLoader(Ordered(), num_workers=1, persistent_workers=True), batch_size=None)
    with pytest.warns(RuntimeWarning, match="persistent workers keep the dataset as it was when they started"):
        next(batches.epoch(1))
