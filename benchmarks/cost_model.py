"""What a step costs on k processes, by a formula: ``python -m benchmarks.cost_model`` prints it for up to 1024 GPUs.

``step(k) = compute(batch / k) + max(0, transfer(k) - overlap) + latency(k) + input``. Ring and tree are the two ways of
NCCL; bytes and hops of each: Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms" (2009), and Sanders et al.,
"Two-tree algorithms for full bandwidth broadcast, reduction and scan" (2009).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

BACKWARD = 2 / 3  # of the compute, while which gradients can be sent
BUCKET = 25e6  # bytes that DDP sends at once
COUNTS = (1, 2, 8, 64, 256, 1024)


@dataclass(frozen=True)
class Network:
    """What lies between the processes."""

    bandwidth: float  # bytes a second, of what is slowest on the ring: a host's network
    latency: float  # seconds, of a hop
    tree: bool = False


@dataclass(frozen=True)
class Work:
    """What a step does; seconds and bytes."""

    sample: float  # forward and backward pass of one sample
    fixed: float  # of a step, whatever the batch: starting kernels, the optimizer
    gradient: float  # bytes
    overlap: float = BACKWARD  # of the compute; 0 where the processors that compute also send
    input: float = 0.0  # of one sample, as far as it is not read ahead
    accumulate: int = 1  # batches between two exchanges: gradient accumulation, or local SGD

    def compute(self, samples: float) -> float:
        """Return the seconds of the passes and of the update."""
        return self.fixed + self.sample * samples


def transfer(gradient: float, processes: int, network: Network) -> float:
    """Return the seconds that the bytes of an all-reduce take: almost all twice, in and out of each process."""
    return 2 * gradient * (processes - 1) / processes / network.bandwidth


def latency(gradient: float, processes: int, network: Network) -> float:
    """Return the seconds that its hops take, in each of DDP's buckets."""
    hops = 2 * (math.ceil(math.log2(processes)) if network.tree else processes - 1)
    return max(1, math.ceil(gradient / BUCKET)) * hops * network.latency


def step(work: Work, samples: float, processes: int, network: Network) -> float:
    """Return the seconds of a step in which each process has so many *samples*."""
    compute = work.compute(samples)
    exposed = max(0.0, transfer(work.gradient, processes, network) - work.overlap * compute)
    exchange = exposed + latency(work.gradient, processes, network)
    return compute + work.input * samples + (exchange / work.accumulate if processes > 1 else 0.0)


def efficiency(work: Work, samples: float, processes: int, network: Network, alone: float | None = None) -> float:
    """Return the samples a second of each process, as a share of those of one alone with *alone* samples a step."""
    one = samples if alone is None else alone
    rate = samples / step(work, samples, processes, network)
    return rate / (one / step(work, one, 1, network))


RESNET50 = Work(sample=0.4e-3, fixed=8e-3, gradient=25.6e6 * 4)  # 2,500 images a second, float32 gradients
SLOW = Network(1.25e9, 20e-6)  # 10 Gbit/s for each host
FAST = Network(12.5e9, 5e-6)  # 100 Gbit/s


def scaling() -> str:
    """Return the step time and the efficiency for each number of GPUs, in Markdown."""
    ways = {"10 Gbit/s, ring": SLOW, "100 Gbit/s, ring": FAST, "100 Gbit/s, tree": replace(FAST, tree=True)}
    lines = [
        "| GPUs | " + " | ".join(ways) + " | 100 Gbit/s, tree, 8,192 samples in all |",
        "| ---: |" + " ---: |" * (len(ways) + 1),
    ]
    for k in COUNTS:
        weak = [_cell(step(RESNET50, 64, k, n), efficiency(RESNET50, 64, k, n)) for n in ways.values()]
        tree = ways["100 Gbit/s, tree"]
        fixed = _cell(step(RESNET50, 8192 / k, k, tree), efficiency(RESNET50, 8192 / k, k, tree, alone=8192))
        lines.append(f"| {k} | {' | '.join([*weak, fixed])} |")
    return "\n".join(lines)


def remedies() -> str:
    """Return what helps on the slow network, at 1024 GPUs, in Markdown."""
    tree = replace(SLOW, tree=True)
    half = replace(RESNET50, gradient=RESNET50.gradient / 2)
    ways: dict[str, tuple[Work, float, Network]] = {
        "as it is, ring": (RESNET50, 64, SLOW),
        "tree": (RESNET50, 64, tree),
        "tree, gradients in bfloat16": (half, 64, tree),
        "tree, 256 samples each": (RESNET50, 256, tree),
        "tree, bfloat16, accumulate 8 batches": (replace(half, accumulate=8), 64, tree),
        "tree, bfloat16, local SGD: an exchange in 32 steps": (replace(half, accumulate=32), 64, tree),
    }
    lines = ["| 1024 GPUs, 10 Gbit/s | a batch of each GPU | efficiency |", "| --- | ---: | ---: |"]
    for name, (work, samples, network) in ways.items():
        seconds, share = step(work, samples, 1024, network), efficiency(work, samples, 1024, network)
        lines.append(f"| {name} | {seconds * 1e3:.0f} ms | {share:.2f} |")
    return "\n".join(lines)


def _cell(seconds: float, share: float) -> str:
    return f"{seconds * 1e3:.0f} ms, {share:.2f}"


if __name__ == "__main__":
    print(f"{scaling()}\n\n{remedies()}")
