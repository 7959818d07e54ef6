"""Processes that read data are forked while gloo's threads let go of the tensors of the last exchange, or not.

With the argument "kept" this process waits for them, as always; with any other it does not. Prints how many of its
forks found that they still had one.
"""

from __future__ import annotations

import os
import sys
import weakref

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, TensorDataset

from torchbasics import _meeting
from torchbasics.data._batches import make_batches

FORKS = 60

if __name__ == "__main__":
    store = dist.HashStore()  # type: ignore[attr-defined]  # it is public
    dist.init_process_group("gloo", rank=0, world_size=1, store=store)
    _meeting.mind_end()
    sent: list[weakref.ref[torch.Tensor]] = []
    held: list[bool] = []
    os.register_at_fork(before=lambda: held.append(any(ref() is not None for ref in sent)))
    if sys.argv[1] != "kept":
        vars(_meeting)["before_fork"] = lambda: None
    samples = TensorDataset(torch.arange(4.0))
    of_package = make_batches(samples, batch_size=2, workers=1)
    of_user = make_batches(DataLoader(samples, batch_size=2, num_workers=1), batch_size=None)
    for turn in range(FORKS):
        tensors = [torch.ones(2**18) for _ in range(20)]
        sent[:] = map(weakref.ref, tensors)
        for tensor in tensors:
            dist.all_reduce(tensor, async_op=True)
        del tensor, tensors
        for _ in (of_package, of_user)[turn % 2].epoch(turn // 2):
            pass
    assert len(held) == FORKS, len(held)
    print(sum(held), "of", FORKS)
