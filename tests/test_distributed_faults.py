"""Runs of several processes of which some die, are ended, or fail: real processes, real torchrun, real signals."""

from __future__ import annotations

import _thread
import hashlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

import torchbasics
from tests.helpers import blobs, newest
from torchbasics import _meeting, models
from torchbasics.cli import main
from torchbasics.training import DistributedError, evaluate, fit

if TYPE_CHECKING:
    from collections.abc import Iterator

KILLS = int(os.environ.get("TORCHBASICS_KILLS", "0"))  # how many more than in every run of the tests; see CONTRIBUTING
ROOT = Path(__file__).parents[1]
RANKS, MISTAKES = ROOT / "tests/faults/ranks.py", ROOT / "tests/faults/mistakes.py"
SECONDS = 900  # a bound for one launch, not a timing

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("faults"),
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc"),
]


def environment(**more: str) -> dict[str, str]:
    source = str(Path(torchbasics.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([source, str(ROOT)]), "OMP_NUM_THREADS": "1", **more}


def start(*words: object, n: int = 2, restarts: int = 0, **options: Any) -> subprocess.Popen[str]:
    """Torchrun in a session of its own."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}"]
    command += [f"--max-restarts={restarts}", "--monitor-interval=0.1", *map(str, words)]
    kept = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    return subprocess.Popen(command, **{"env": environment(), **kept, **options})


def train(folder: Path, restarts: int = 0, **options: Any) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    return start(RANKS, folder / "run", folder, json.dumps(options), restarts=restarts)


def end(run: subprocess.Popen[str]) -> str:
    try:
        return run.communicate(timeout=SECONDS)[0]
    finally:
        run.kill()
        run.wait()


def results(folder: Path, n: int = 2) -> list[dict[str, Any]]:
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(n)]


def alive(word: object) -> list[int]:
    """The processes with *word* in their command line, but for this one."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(word).encode() in path.read_bytes() and int(path.parent.name) != os.getpid():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def gone(word: object, seconds: float = 60) -> bool:
    until = time.monotonic() + seconds
    while alive(word) and time.monotonic() < until:
        time.sleep(0.1)
    return not alive(word)


def workers(agent: int) -> list[int]:
    """The processes that an agent has started, by rank."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            parent = int((path.parent / "stat").read_text().rpartition(")")[2].split()[1])
            set_to = dict(line.partition("=")[::2] for line in path.read_text().split("\0"))
        except (OSError, UnicodeDecodeError):
            continue
        if parent == agent and "RANK" in set_to:
            found[int(set_to["RANK"])] = int(path.parent.name)
    return [found[rank] for rank in sorted(found)]


def wait_for(run: subprocess.Popen[str], line: str) -> None:
    assert run.stdout is not None
    told = []
    for text in run.stdout:
        told.append(text)
        if text.strip() == line:
            return
    raise AssertionError(f"ended without {line!r}: {''.join(told)}")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the run ends on that nobody disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    told = end(train(folder))
    assert (folder / "0.json").exists(), told
    first, second = results(folder)
    assert first == second
    assert first["generators"][0] != first["generators"][1]
    return first


def kill(rank: int, point: str, when: str, at: int) -> dict[str, Any]:
    return {"rank": rank, "point": point, "when": when, "at": at}


POINTS = [  # each of an attempt; the run goes on from the newest checkpoint, of each second step
    kill(0, "rename", "before", 2),
    kill(1, "update", "before", 2),
    kill(0, "rename", "after", 2),
    kill(1, "evaluation", "after", 1),
    kill(0, "save", "after", 1),
    kill(0, "fsync", "before", 2),
    kill(1, "update", "after", 2),
    kill(0, "unlink", "before", 1),
    kill(0, "evaluation", "after", 1),
    kill(0, "update", "before", 1),
    kill(1, "update", "before", 1),
    kill(0, "save", "before", 1),
]


def test_ranks_that_are_killed_are_started_again_and_all_ends_on_the_same_bits(
    whole: dict[str, Any], tmp_path: Path
) -> None:
    """Before and after a checkpoint's rename, half way through an update, in validation; one launch of torchrun."""
    plan = POINTS if KILLS else POINTS[:2]

    told = end(run := train(tmp_path, restarts=len(plan), kills=plan))

    assert run.returncode == 0, told
    done = results(tmp_path)
    print(
        f"\n{done[0]['attempt']} ranks killed at named points: {done[0]['digest'][:16]}, whole {whole['digest'][:16]}"
    )
    assert [one["attempt"] for one in done] == [len(plan)] * 2
    assert [{**one, "attempt": 0} for one in done] == [whole] * 2
    assert gone(tmp_path)
    assert not (tmp_path / "run/.lock").exists()
    assert not list((tmp_path / "run").glob(".*.tmp"))


def test_generators_of_one_process_for_all_turn_it_red(whole: dict[str, Any], tmp_path: Path) -> None:
    """Positive control: each process's own random numbers are what brings the bits back."""
    plan = [kill(1, "update", "before", 8)]

    told = end(run := train(tmp_path, restarts=1, kills=plan, broken="generators of process 0 for all"))

    assert run.returncode == 0, told
    assert results(tmp_path)[0]["attempt"] == 1
    assert results(tmp_path)[0]["digest"] != whole["digest"]


@pytest.mark.skipif(not KILLS, reason="TORCHBASICS_KILLS is not set; see CONTRIBUTING")
def test_ranks_killed_at_random_times(whole: dict[str, Any], tmp_path: Path) -> None:
    """While they start, meet, train, and write."""
    chance = random.Random(0)
    with (tmp_path / "log").open("w") as log:
        run = start(
            *(RANKS, tmp_path / "run", tmp_path, json.dumps({"slow": 0.5})), restarts=KILLS, stdout=log
        )  # fmt: skip
        killed: list[int] = []
        before: list[int] = []
        while len(killed) < KILLS and run.poll() is None:
            now = workers(run.pid)
            if len(now) < 2 or set(now) & set(before):
                time.sleep(0.05)
                continue
            time.sleep(chance.uniform(0, 9))
            rank = chance.randrange(2)
            try:
                os.kill(now[rank], signal.SIGKILL)
            except ProcessLookupError:
                break
            killed.append(rank)
            before = now
        end(run)

    assert run.returncode == 0, (tmp_path / "log").read_text()
    done = results(tmp_path)
    print(f"\nranks killed at random times: {killed}: {done[0]['digest'][:16]}, whole {whole['digest'][:16]}")
    assert killed
    assert [{**one, "attempt": 0} for one in done] == [whole] * 2
    assert gone(tmp_path)


def kill_agent(folder: Path, step: int) -> dict[str, Any]:
    """Train until *step*, then kill torchrun; return what is left."""
    run = train(folder, hold=step)
    wait_for(run, f"step {step} of process 1")
    run.kill()
    run.wait()
    assert run.stdout is not None
    run.stdout.close()
    sent = time.monotonic()
    found = {"gone": gone(folder, 10), "finished": (folder / "0.json").exists()}
    print(f"\nagent killed at step {step}: all gone after {time.monotonic() - sent:.1f} s")
    return found


def terminate(folder: Path, to: str, step: int) -> dict[str, Any]:
    """Train until *step*, then send SIGTERM; return what came of it."""
    run = train(folder, slow=0.3, hold=step)
    wait_for(run, f"step {step} of process 1")
    sent = time.monotonic()
    if to == "the group":
        os.killpg(run.pid, signal.SIGTERM)  # the agent hands it on
    else:
        os.kill(workers(run.pid)[1], signal.SIGTERM)
    (folder / f"go-{step}").touch()
    told = end(run)
    took = time.monotonic() - sent
    print(f"\nSIGTERM to {to}: ended after {took:.1f} s")
    found = {"told": told, "took": took, "gone": gone(folder), "results": results(folder)}
    found |= {
        "steps": newest(folder / "run")["steps_done"],
        "names": [path.name for path in (folder / "run").iterdir()],
    }
    for rank in range(2):
        (folder / f"{rank}.json").unlink()
    return found


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came of one command that was given four times, and ended in three ways before it came to its end."""
    folder = tmp_path_factory.mktemp("disturbed")
    found: dict[str, Any] = {"process 1": terminate(folder, "process 1", 3)}
    found["the group"] = terminate(folder, "the group", 7)
    found["agent"] = kill_agent(folder, 11)
    found["told"] = end(run := train(folder))
    assert run.returncode == 0, found["told"]
    return {**found, "results": results(folder)}


def test_when_the_agent_is_killed_all_end(disturbed: dict[str, Any]) -> None:
    """Within ten seconds."""
    assert disturbed["agent"] == {"gone": True, "finished": False}


@pytest.mark.parametrize(("to", "step"), [("process 1", 3), ("the group", 7)])
def test_sigterm_ends_all_with_one_checkpoint(to: str, step: int, disturbed: dict[str, Any]) -> None:
    """Within thirty seconds; each process returns a history that says so."""
    found = disturbed[to]

    assert found["took"] < 30
    assert found["gone"]
    assert [one["stopped"] for one in found["results"]] == ["signal"] * 2, found["told"]
    assert "143" in found["told"] or to == "the group"  # the exit code of a worker, as the agent tells it
    assert step <= found["steps"] < step + 4
    last = max(found["names"])
    assert last.removesuffix(".2") == f"step-{found['steps']:08d}"  # there may be one of that step already


def test_the_same_command_goes_on_after_each_to_the_same_bits(whole: dict[str, Any], disturbed: dict[str, Any]) -> None:
    """SIGTERM to one process, then to all, then torchrun killed, and at last undisturbed."""
    assert disturbed["results"] == [whole] * 2


@pytest.mark.skipif(not KILLS, reason="TORCHBASICS_KILLS is not set; see CONTRIBUTING")
@pytest.mark.parametrize("step", [2, 5, 11])
def test_an_agent_killed_at_any_step(step: int, whole: dict[str, Any], tmp_path: Path) -> None:
    """All end, and the same command goes on to the same bits."""
    assert kill_agent(tmp_path, step) == {"gone": True, "finished": False}
    told = end(run := train(tmp_path))
    assert run.returncode == 0, told
    assert results(tmp_path) == [whole] * 2


OWN = "the data of process 0 gives each process samples of its own (DistributedSampler, sharded), and that of process 1"
TOLD = {  # scenario: what the last process raises, what it says; what the others raise, what they say
    "callback": ("LostError", "no connection to the store", "DistributedError", "process 1 failed: LostError: no conn"),
    "dataset": ("KeyError", "'sample ", "DistributedError", "process 1 failed: KeyError: 'sample "),
    "workers": ("KeyError", "Caught KeyError in DataLoader worker", "DistributedError", "process 1 failed: KeyError"),
    "nan": ("NonFiniteError", "in process 1: the loss is nan at step 3", "NonFiniteError", "in process 1: the loss is"),
    "nan in float16": (
        "NonFiniteError",
        "in process 1: the loss is nan at",
        "NonFiniteError",
        "in process 1: the loss",
    ),
    "interrupt": ("KeyboardInterrupt", "", "DistributedError", "process 1 failed: KeyboardInterrupt"),
    "exit": ("SystemExit", "3", "DistributedError", "process 1 failed: SystemExit: 3"),
    "argument": ("ValueError", "epochs must be at least 1", "DistributedError", "process 1 failed: ValueError: epochs"),
    "epochs": ("ValueError", "epochs is 2 in process 0 and 3 in 1", "ValueError", "epochs is 2 in process 0 and 3 in"),
    "seed": ("ValueError", "seed is 0 in process 0 and 1 in 1", "ValueError", "seed is 0 in process 0 and 1 in 1"),
    "model": ("ValueError", "the model's net.0.weight is", "ValueError", "the model's net.0.weight is"),
    "data": ("ValueError", "different runs: the data is", "ValueError", "different runs: the data is"),
    "length": ("ValueError", "the data's length is", "ValueError", "the data's length is"),
    "folder": ("ValueError", "give a folder on a disk that all hosts share", "ValueError", "give a folder on a disk"),
    "resume": ("ValueError", "resume is 'auto' in process 0 and 'True'", "ValueError", "resume is 'auto' in process 0"),
    "a folder for one": (
        "ValueError",
        "checkpoint is True in process 0 and False",
        "ValueError",
        "checkpoint is True in",
    ),
    "validation": ("ValueError", "validation is 0.2 in process 0 and False", "ValueError", "validation is 0.2 in"),
    "evaluation": ("ValueError", "samples is 60 in process 0 and 48 in 1", "ValueError", "samples is 60 in process"),
    "samples of its own": ("ValueError", OWN, "ValueError", OWN),
    "samples of its own to evaluate on": ("ValueError", OWN, "ValueError", OWN),
    "a state without a pickle": ("", "None", "", "None"),
    "nothing": ("", "None", "", "None"),
}


def test_an_error_in_one_process_ends_all_and_each_says_whose_it_was(tmp_path: Path) -> None:
    """One after the other in the same processes, which meet anew after each; then one that leaves without a word."""
    told = end(start(MISTAKES, tmp_path))

    first, last = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert list(last) == list(TOLD), told
    for name, (raised, said, elsewhere, said_there) in TOLD.items():
        assert last[name][0] == raised, name
        assert said in last[name][1], name
        assert first[name][0] == elsewhere, name
        assert said_there in first[name][1], name
        assert max(last[name][-1], first[name][-1]) < 200, name  # not the timeout, which is 240
    assert first["without a word"][:2] == [
        "DistributedError",
        "process 1 is gone without an error: killed, out of memory, or no longer reached",
    ]
    assert gone(tmp_path)


def raw(*words: object, sizes: tuple[int, int] = (2, 2)) -> list[str]:
    """Two processes that no torchrun has started, and what they print."""
    with socket.socket() as kept:  # the port is given to nobody else meanwhile, and the first process can listen there
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(kept.getsockname()[1])}
        runs = [
            subprocess.Popen(
                [sys.executable, *map(str, words)],
                env=environment(RANK=str(rank), WORLD_SIZE=str(size), **address),
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank, size in enumerate(sizes)
        ]
        return [end(run) for run in runs]


def mistakes(folder: Path, *names: str, **options: Any) -> list[dict[str, Any]]:
    raw(MISTAKES, folder, *names, **options)
    return results(folder)


ABORTED = "terminate called without an active exception"


@pytest.mark.parametrize("group", ["the package's", "own"])
def test_a_process_ends_well_while_gloo_still_holds_a_tensor(group: str) -> None:
    """It waits for the thread, which needs Python to let go of it."""
    run = start(ROOT / "tests/faults/leaving.py", 120, group)
    told = end(run)

    assert ABORTED not in told
    assert run.returncode == 0, told


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="Python 3.14 stops a thread that comes too late")
@pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) != (2, 14), reason="known of torch 2.14 alone; 2.6 does not abort"
)
def test_a_process_that_does_not_wait_for_gloo_is_aborted() -> None:
    """Positive control: with no patience."""
    told = ""
    for _ in range(5):
        told += end(start(ROOT / "tests/faults/leaving.py", 0, "own"))
        if ABORTED in told:
            break

    assert ABORTED in told


def test_the_end_waits_for_a_thread_that_works_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that is none of Python's own, as gloo's are: until it is done, or no longer than SETTLING."""
    done: list[bool] = []

    def work(rounds: int) -> None:
        hashlib.pbkdf2_hmac("sha256", b"", b"", rounds)  # seconds, in which others have Python
        done.append(True)

    monkeypatch.setattr(_meeting, "SETTLING", 600.0)
    _thread.start_new_thread(work, (1_000_000,))
    _meeting._settle()
    assert done

    monkeypatch.setattr(_meeting, "SETTLING", 0.1)
    _thread.start_new_thread(work, (12_000_000,))
    _meeting._settle()
    assert len(done) == 1
    monkeypatch.setattr(_meeting, "SETTLING", 600.0)
    _meeting._settle()  # the next test has no such thread


@pytest.mark.parametrize("data", ["dataset", "loader"])
def test_processes_that_read_are_forked_when_gloo_holds_no_tensor(data: str) -> None:
    """Else a fork of Python before 3.11.10 may wait for ever; that gloo did hold some is the control."""
    told = end(start(ROOT / "tests/faults/forking.py", data, n=1))

    assert re.search("^[1-4] of 4 before, 0 of 4 after$", told, re.MULTILINE), told


def test_without_torchrun_the_cause_is_told_too(tmp_path: Path) -> None:
    """Process 0, which keeps what they share, waits until the others know; also where it was the first to fail."""
    first, last = mistakes(tmp_path, "callback", "nothing", "argument")

    assert first["callback"][:2] == ["DistributedError", "process 1 failed: LostError: no connection to the store"]
    assert first["nothing"][:2] == last["nothing"][:2] == ["", "None"]
    assert first["argument"][1] == "process 1 failed: ValueError: epochs must be at least 1, got -1"


def test_processes_that_disagree_how_many_they_are_say_so(tmp_path: Path) -> None:
    """Both, at once."""
    for told in mistakes(tmp_path, "nothing", sizes=(2, 3)):
        assert told["nothing"][0] == "DistributedError"
        assert "WORLD_SIZE=2 in process 0, and 3 in process 1" in told["nothing"][1]
        assert told["nothing"][-1] < 200


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ({"RANK": "0"}, "WORLD_SIZE=2 says that there are more processes, but MASTER_ADDR, MASTER_PORT is not set"),
        ({"RANK": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}, "RANK=2 is not in 0 .. WORLD_SIZE - 1 = 1"),
        ({"RANK": "x", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}, "RANK='x' is no number"),
        ({"RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "99999"}, "MASTER_PORT=99999 is no port"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE='two' is no number"),
    ],
    ids=["no address", "rank out of range", "rank no number", "no port", "size no number"],
)
def test_an_environment_that_does_not_fit_is_named(
    said: dict[str, str], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is waited for."""
    for name, value in {"WORLD_SIZE": "2", **said}.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(ValueError, match=text.replace("..", r"\.\.")):
        evaluate(models.MLP(6, (8,), 3), blobs())


@pytest.mark.parametrize("rank", [0, 1])
def test_a_port_in_use_is_told_by_every_process(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first cannot have it; the second finds nobody of its own there."""
    monkeypatch.setattr(_meeting, "TIMEOUT", timedelta(seconds=3))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(taken.getsockname()[1])}
        for name, value in {"WORLD_SIZE": "2", "RANK": str(rank), **address}.items():
            monkeypatch.setenv(name, value)

        with pytest.raises(DistributedError, match=f"process {rank} of 2 did not meet the others at 127.0.0.1:.* port"):
            fit(models.MLP(6, (8,), 3), blobs(), epochs=1, progress=False)
    assert not torch.distributed.is_initialized()


def test_the_command_trains_under_torchrun_and_goes_on_in_its_folder_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Process 0 alone makes the folder, prints and writes; the result is that of one process."""
    monkeypatch.chdir(tmp_path)
    words = ["train", "mlp", "--set", "hidden=8", "--epochs", "12", "--batch-size", "500"]
    assert main([*words, "--out", "one", "--json"]) == 0
    one = json.loads(capsys.readouterr().out)
    run = start("-m", "torchbasics", *words, "--json", restarts=2, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until = time.monotonic() + SECONDS
    while max((path.name for path in tmp_path.glob("runs/mlp/checkpoint/step-*")), default="") < "step-00000010":
        assert time.monotonic() < until
        time.sleep(0.02)
    os.kill(workers(run.pid)[1], signal.SIGKILL)

    out, err = run.communicate(timeout=SECONDS)

    assert run.returncode == 0, err
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["mlp"]
    assert "going on from 'runs/mlp/checkpoint/step-" in err
    assert err.count("epoch 12/12") == 1
    two = json.loads(out)  # one object, of one process
    for row, expected in zip(two["history"], one["history"], strict=True):
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-4)  # float32, other sums
    assert two["test"]["samples"] == one["test"]["samples"] == 1000
    assert two["test"]["loss"] == pytest.approx(one["test"]["loss"], rel=1e-4)
    told = "".join(raw("-m", "torchbasics", "evaluate", "runs/mlp/model.safetensors"))
    assert told.count("on 1,000 images of mini") == 1


@contextmanager
def hosts() -> Iterator[list[tuple[str, str, str]]]:
    """Two network namespaces with a cable between them: name, address, device of each."""
    names, devices = [f"tb{os.getpid()}{side}" for side in "ab"], [f"tb{os.getpid()}{side}v"[-15:] for side in "ab"]
    addresses = ["10.231.7.1", "10.231.7.2"]

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    try:
        try:
            for name in names:
                ip("netns", "add", name)
            ip("link", "add", devices[0], "netns", names[0], "type", "veth", "peer", devices[1], "netns", names[1])
            for name, address, device in zip(names, addresses, devices, strict=True):
                ip("-n", name, "addr", "add", f"{address}/24", "dev", device)
                ip("-n", name, "link", "set", device, "up")
                ip("-n", name, "link", "set", "lo", "up")
        except subprocess.CalledProcessError as e:
            pytest.skip(f"no network namespaces here: {e.stderr.decode().strip()}")
        yield list(zip(names, addresses, devices, strict=True))
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def test_two_hosts_end_on_the_bits_of_two_processes_of_one(whole: dict[str, Any], tmp_path: Path) -> None:
    """Each has a network and an address of its own; torchrun brings them together over the cable."""
    with hosts() as pair:
        runs: list[subprocess.Popen[str]] = []
        for name, _, device in pair:
            command = ["ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run"]
            command += ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-id=7"]
            command += [f"--rdzv-endpoint={pair[0][1]}:29400", f"--local-addr={pair[len(runs)][1]}"]
            command += [
                f"--rdzv-conf=is_host={str(not runs).lower()},read_timeout=600"
            ]  # torchrun compares host names, which are the same
            command += [str(RANKS), str(tmp_path / "run"), str(tmp_path), "{}"]
            kept: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
            runs.append(subprocess.Popen(command, env=environment(GLOO_SOCKET_IFNAME=device), **kept))
        told = [end(run) for run in runs]

    assert [run.returncode for run in runs] == [0, 0], told
    print(f"\ntwo hosts: {results(tmp_path)[0]['digest'][:16]}, two processes of one: {whole['digest'][:16]}")
    assert results(tmp_path) == [whole] * 2
