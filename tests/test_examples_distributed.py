"""The examples for several processes run, under torchrun and Ray, and the job files are what their readers take."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import torchbasics

ROOT = Path(__file__).parents[1]
CLUSTER = ROOT / "examples/cluster"
COUNT = """
import sys
from pathlib import Path
import torch
import stream
from torchbasics import _world
from torchbasics.data._batches import make_batches

folder = Path(sys.argv[1])
stream.main(["--data", str(folder), "--epochs", "1"])
world = _world.join()
batches = make_batches(stream.Shards(folder), batch_size=20, world=world)
for epoch in range(2):
    numbers = []
    for batch in batches.epoch(epoch):
        if not batch.idle:
            pixels = (batch.inputs[:, 0, 0, :2] * 255).round().long()
            numbers += (256 * pixels[:, 0] + pixels[:, 1]).tolist()
    folder.joinpath(f"{epoch}-{world.rank}.txt").write_text(" ".join(map(str, numbers)))
"""


def run(*command: Any, cwd: Path = ROOT, **environment: str) -> str:
    """What a command prints; it has to end well."""
    path = os.pathsep.join(
        [
            str(Path(torchbasics.__file__).parents[1]),
            str(ROOT / "examples"),
            *filter(None, [os.environ.get("PYTHONPATH")]),
        ]
    )
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **environment}
    ended = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=1800
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-5000:]
    return ended.stdout


def torchrun(*arguments: Any, processes: int = 2) -> str:
    """What a script prints on several processes."""
    return run(
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), *arguments
    )


def test_each_sample_of_the_shards_is_read_once_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """3 shards over 2 processes: one reads twice as much; in the next epoch the order is another."""
    pytest.importorskip("webdataset", reason="the example's shards are read by webdataset")
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import stream

    images = torchbasics.data.fashion_mnist_mini()[0][:300]
    for number in range(len(images)):
        images.images[number, 0, 0, 0] = number // 256
        images.images[number, 0, 0, 1] = number % 256
    shards = tmp_path / "shards"
    shards.mkdir()
    stream.write(images, shards, 3)
    tmp_path.joinpath("count.py").write_text(COUNT, encoding="utf-8")

    printed = torchrun(tmp_path / "count.py", shards)

    assert "'samples': 1000" in printed.splitlines()[-1]
    read = [[shards.joinpath(f"{e}-{r}.txt").read_text().split() for r in range(2)] for e in range(2)]
    for epoch in read:
        assert sorted(int(number) for part in epoch for number in part) == list(range(300))
        assert [len(part) for part in epoch] == [200, 100]
    assert read[0] != read[1]


def test_the_script_of_the_job_files_ends_alike_on_one_process_and_on_two(tmp_path: Path) -> None:
    """One result is printed, one model written, and the same command goes on from what is there."""
    script, folder = CLUSTER / "train.py", tmp_path / "run"

    printed = torchrun(script, "--epochs", "1", "--checkpoint", folder)
    again = torchrun(script, "--epochs", "1", "--checkpoint", folder)
    alone = run(sys.executable, script, "--epochs", "1")

    assert printed.count("'samples': 1000") == again.count("'samples': 1000") == 1
    assert printed.splitlines()[-1] == again.splitlines()[-1]
    model = torchbasics.io.load(folder / "model.safetensors")
    there = torchbasics.training.evaluate(model, torchbasics.data.fashion_mnist_mini()[1])
    loss = {name: float(text.split("'loss': ")[1].split(",")[0]) for name, text in (("two", printed), ("one", alone))}
    assert there["loss"] == pytest.approx(loss["two"], rel=1e-6)
    assert loss["two"] == pytest.approx(loss["one"], rel=0.05)  # float32 sums in another order, 50 steps on


@pytest.mark.slow
def test_ray_trains_with_the_same_fit() -> None:
    """Two of Ray's workers, and a model that evaluates as Ray was told."""
    pytest.importorskip("ray", reason="the example runs inside Ray Train")

    printed = run(
        sys.executable,
        ROOT / "examples/ray_train.py",
        "--samples",
        "500",
        "--epochs",
        "1",
        RAY_USAGE_STATS_ENABLED="0",
        RAY_raylet_start_wait_time_s="120",
    )

    assert "'epoch': 1" in printed
    assert "'samples': 1000" in printed.splitlines()[-1]


def test_the_job_file_for_slurm_is_a_script_of_bash() -> None:
    """It parses, and starts one torchrun a node."""
    run("bash", "-n", CLUSTER / "slurm.sh")
    text = CLUSTER.joinpath("slurm.sh").read_text(encoding="utf-8")

    assert text.startswith("#!/bin/bash\n")
    assert "#SBATCH --ntasks-per-node=1\n" in text
    assert "train.py" in text


def test_the_job_file_for_slurm_starts_torchrun_and_asks_to_be_queued_again(tmp_path: Path) -> None:
    """With stand-ins for SLURM's commands: two minutes before the end the step gets SIGTERM and the job is queued.

    The list of nodes is longer than a pipe takes: who reads its first line alone ends scontrol by a signal.
    """
    stands = {
        "scontrol": 'echo "scontrol $*" >> "$LOG"; if [ "$1" = show ]; then exec seq -f node%g 20000; fi',
        "srun": 'echo "srun $*" >> "$LOG"; trap "echo stopped >> \\"$LOG\\"; exit 143" TERM\n'
        "kill -TERM $PPID; while true; do sleep 0.1; done",
    }
    for name, body in stands.items():
        tmp_path.joinpath(name).write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
        tmp_path.joinpath(name).chmod(0o755)
    log = tmp_path / "log"
    environment = {
        **os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "LOG": str(log), "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "4", "SLURM_CPUS_PER_TASK": "32",
        "SLURM_SUBMIT_DIR": str(tmp_path),
    }  # fmt: skip
    subprocess.run(["bash", CLUSTER / "slurm.sh"], env=environment, check=False, timeout=600)

    said = log.read_text(encoding="utf-8").splitlines()
    assert said[0] == "scontrol show hostnames node[1-2]"
    assert said[1].startswith("srun torchrun --nnodes=2 --nproc-per-node=4 --max-restarts=3")
    assert "--rdzv-endpoint=node1:20007" in said[1]
    assert said[2:] == ["stopped", "scontrol requeue 7"]


def test_the_job_file_for_kubernetes_is_one_service_and_one_indexed_job() -> None:
    """Names and numbers that have to be the same are the same."""
    yaml = pytest.importorskip("yaml", reason="the job file is YAML")

    service, job = yaml.safe_load_all(CLUSTER.joinpath("kubernetes.yaml").read_text(encoding="utf-8"))
    name, pod = job["metadata"]["name"], job["spec"]["template"]["spec"]
    command = pod["containers"][0]["command"]
    assert (service["kind"], service["spec"]["clusterIP"], job["kind"]) == ("Service", "None", "Job")
    assert job["spec"]["completionMode"] == "Indexed"
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    assert pod["subdomain"] == service["metadata"]["name"]
    assert f"--nnodes={job['spec']['completions']}" in command
    assert job["spec"]["completions"] == job["spec"]["parallelism"]
    port = service["spec"]["ports"][0]["port"]
    assert f"--rdzv-endpoint={name}-0.{pod['subdomain']}:{port}" in command
    limits = pod["containers"][0]["resources"]["limits"]
    assert f"--nproc-per-node={limits['nvidia.com/gpu']}" in command
