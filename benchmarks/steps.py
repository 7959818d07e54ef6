"""What a step costs: `fit`, the loops one would write, and other libraries on the same tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from benchmarks._measure import Part, Settings, measure, threads
from benchmarks._peers import peers
from benchmarks._work import TutorialCNN, Work, image_work, images, mlp, tutorial_loader
from torchbasics import models

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# At most this share of the time of each.
TARGETS = {"Lightning": 0.55, "accelerate": 0.60, "skorch": 0.60, "ignite": 0.65}


def step(settings: Settings) -> Part:
    """Step overhead: MLP 784-128-10, batch 100, 600 steps; microseconds of CPU time a step, one thread."""
    work = image_work(mlp, settings)
    ordered = Work(mlp, work.inputs[work.order()], work.targets[work.order()])
    others, notes = peers(work, wanted=settings.peers)
    own = Work(lambda: models.MLP(784, (128,), 10), work.inputs, work.targets)
    contestants = {
        "compute alone": work.loop(lambda: _one_batch(work)),
        "loop over slices": ordered.loop(lambda: _slices(ordered)),
        "fit(shuffle=False)": ordered.fit(shuffle=False),
        "bare loop": work.loop(work.gathered),
        "fit": work.fit(),
        "fit of models.MLP": own.fit(),
        "DataLoader loop": work.loop(work.loader),
        **others,
    }
    check = work.check()
    with threads(1):
        times = measure(
            contestants, settings.number(9), check=lambda name, m: name == "compute alone" or check(name, m)
        )
    per_step = 1e6 / work.steps()
    rows = [
        *times.rows("us", per_step),
        times.ratio("fit", "bare loop", 1.03),
        times.over("fit", "bare loop", "us", per_step, 50),
        times.ratio("fit(shuffle=False)", "loop over slices"),
        times.ratio("fit", "compute alone", 1.15),
        *(times.ratio("fit", name, TARGETS.get(name)) for name in others),
        *(
            times.ratio("fit of models.MLP", name)
            for name in ("bare loop", *(name for name in others if name in TARGETS))
        ),
    ]
    return Part(step.__doc__ or "", rows, [_STEP_NOTE, *notes])


_STEP_NOTE = (
    "all calls of `fit` whole, with their checks; of the others only the call that trains; equal loss afterwards "
    "(1e-4); the bare loop gathers each batch by an index tensor, in the order that all have; `loop over slices` has "
    "its data in that order already (`fit` copies each slice: a model may write to its inputs); `compute alone` has "
    "one batch for all steps; `models.MLP` is the library's own network of these layers and weights: on AMD's "
    "Zen 5 its large products take oneDNN, whose last bits are others"
)


def mlp_epoch(settings: Settings) -> Part:
    """MLP epoch on the 60,000 images, MLP 784-128-10, batch 100; seconds of CPU time, one thread."""
    train, _, what = images(*settings.images())
    work = image_work(mlp, settings)
    flat = Work(lambda: models.MLP(784, (128,), 10), work.inputs, work.targets)
    contestants = {
        "the tutorial's loop": work.loop(lambda: tutorial_loader(settings, train=True)),
        "fit on images": _fit(flat, train),
        "fit on tensors": flat.fit(),
        "fit on images in bfloat16": _fit(flat, train, precision="bfloat16"),
        "compute alone": flat.loop(lambda: _one_batch(flat)),
    }
    same, close = work.check(), work.check(2e-2)

    def check(name: str, model: Any) -> None:
        if name != "compute alone":
            (close if "bfloat16" in name else same)(name, model)

    with threads(1):
        times = measure(contestants, settings.number(5), check=check)
    rows = [
        *times.rows("s", 1),
        times.ratio("fit on images", "the tutorial's loop", 0.16),
        times.ratio("fit on images in bfloat16", "the tutorial's loop"),
        times.ratio("compute alone", "the tutorial's loop"),
    ]
    notes = [what, _TUTORIAL_NOTE, "`compute alone`: our network's steps on one batch, without any data"]
    return Part(mlp_epoch.__doc__ or "", rows, notes)


_TUTORIAL_NOTE = (
    "the tutorial's loop: torchvision's dataset with ToTensor, DataLoader, SGD, as it stands there, with the order of "
    "the others in place of a random one"
)


def cnn_epoch(settings: Settings) -> Part:
    """CNN epoch on the 60,000 images, the tutorial's network, batch 100; seconds on the wall, 2 threads."""
    train, _, what = images(*settings.images())
    work = image_work(TutorialCNN, settings)
    ours = Work(models.CNNModel, work.inputs, work.targets)
    by_hand = Work(lambda: models.CNNModel().to(memory_format=torch.channels_last), work.inputs, work.targets)
    contestants = {
        "the tutorial's loop": work.loop(lambda: tutorial_loader(settings, train=True)),
        "channels_last loop": by_hand.loop(lambda: _channels_last(by_hand)),
        "fit": _fit(ours, train),
        "fit in bfloat16": _fit(ours, train, precision="bfloat16"),
    }
    same_loss, same_bits = work.check(2e-2), _SameBits("channels_last loop", "fit")

    def check(name: str, model: Any) -> None:
        same_loss(name, model)
        same_bits(name, model)

    with threads(settings.threads()):
        times = measure(contestants, settings.number(3), clock=settings.clock(), check=check)
    rows = [
        *times.rows("s", 1),
        times.ratio("channels_last loop", "the tutorial's loop"),
        times.ratio("fit", "channels_last loop", 1.03),
        times.ratio("fit", "the tutorial's loop", 0.50),
        times.ratio("fit in bfloat16", "the tutorial's loop", 0.35),
    ]
    notes = [what, _TUTORIAL_NOTE, "fit in float32 ends on the bits of the channels_last loop; losses equal to 2 %"]
    return Part(cnn_epoch.__doc__ or "", rows, notes)


def cnn_peers(settings: Settings) -> Part:
    """CNN on 12,000 images as tensors, the tutorial's network, batch 100; seconds on the wall, 2 threads."""
    work = image_work(TutorialCNN, settings, n=12_000)
    ours = Work(models.CNNModel, work.inputs, work.targets)
    others, notes = peers(work, wanted=settings.peers)
    contestants = {"bare loop": work.loop(work.gathered), "fit": ours.fit(), **others}
    with threads(settings.threads()):
        times = measure(contestants, settings.number(3), clock=settings.clock(), check=work.check(2e-2))
    rows = [*times.rows("s", 1), *(times.ratio("fit", name) for name in ("bare loop", *others))]
    return Part(cnn_peers.__doc__ or "", rows, notes)


class _SameBits:
    """Sees that two contestants end on the same parameters."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.seen: dict[str, list[torch.Tensor]] = {}

    def __call__(self, name: str, model: Any) -> None:
        if name in self.names:
            self.seen[name] = [p.detach() for p in model.parameters()]
        if len(self.seen) == len(self.names):
            one, other = self.seen.values()
            if not all(torch.equal(a, b) for a, b in zip(one, other, strict=True)):
                raise SystemExit(f"{' and '.join(self.names)} ended on other bits")
            self.seen.clear()


def _fit(work: Work, train: Any, **options: Any) -> Callable[[], Callable[[], Any]]:
    """`fit` on images that are uint8, as `torchbasics.data` gives them."""
    return Work(work.make, train, None, work.batch_size, work.lr).fit(**options)  # type: ignore[arg-type]  # Images bring their targets


def _one_batch(work: Work) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    inputs, targets = work.inputs[: work.batch_size].clone(), work.targets[: work.batch_size].clone()
    for _ in range(work.steps()):
        yield inputs, targets


def _slices(work: Work) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for start in range(0, len(work.inputs), work.batch_size):
        yield work.inputs[start : start + work.batch_size], work.targets[start : start + work.batch_size]


def _channels_last(work: Work) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for inputs, targets in work.gathered():
        yield inputs.contiguous(memory_format=torch.channels_last), targets
