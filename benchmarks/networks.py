"""Recurrent networks, the GAN, and evaluation, against what one would write with torch alone."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks._measure import Part, Row, Settings, measure, same, threads
from benchmarks._work import CLOSE, TutorialCNN, images, tutorial_loader
from torchbasics import data, models, training

if TYPE_CHECKING:
    from collections.abc import Callable

CELLS: dict[str, Any] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


def rnn(settings: Settings) -> Part:
    """StackedRNN against torch.nn: 28 steps of 28 values, hidden 128, batch 100; ms of CPU time a batch, one thread."""
    repeats = settings.size(20, 1)
    contestants = {}
    inputs = torch.randn(28, 100, 28, generator=torch.Generator().manual_seed(0))
    for cell, peer in CELLS.items():
        for work in (_train_rnn, _run_rnn):
            task = "training" if work is _train_rnn else "inference"
            for who, make in (("torch.nn", peer), ("StackedRNN", lambda i, h, c=cell: models.StackedRNN(i, h, cell=c))):
                contestants[f"{who} {cell} {task}"] = _recurrent(make, inputs, work, repeats)
    seen: dict[str, Tensor] = {}

    def check(name: str, value: Tensor) -> None:
        who, task = name.split(" ", 1)
        seen.setdefault(task, value)
        same(f"{who} {task}", value.item(), seen[task].item(), CLOSE)

    with threads(1):
        times = measure(contestants, settings.number(15), check=check)
    rows = times.rows("ms", 1e3 / repeats)
    tasks = [f"{cell} {task}" for task in ("training", "inference") for cell in CELLS]
    ratios = [times.ratio(f"StackedRNN {task}", f"torch.nn {task}", 1.02) for task in tasks]
    best = min(ratios[:3], key=lambda row: row.median)
    best_of = Row(f"best of the three in training: {best.name}", best.values, "", 0.85, comparison=True)
    return Part(rnn.__doc__ or "", [*rows, *ratios, best_of], ["equal results afterwards (1e-4)"])


def _recurrent(make: Any, inputs: Tensor, work: Callable[..., Tensor], repeats: int) -> Callable[[], Any]:
    def prepare() -> Callable[[], Tensor]:
        torch.manual_seed(0)
        model = make(28, 128)
        return lambda: work(model, inputs, repeats)

    return prepare


def _train_rnn(model: nn.Module, inputs: Tensor, repeats: int) -> Tensor:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(repeats):
        optimizer.zero_grad()
        loss = model(inputs)[0].square().mean()
        loss.backward()
        optimizer.step()
    return loss.detach()


def _run_rnn(model: nn.Module, inputs: Tensor, repeats: int) -> Tensor:
    with torch.no_grad():
        for _ in range(repeats):
            output, _ = model.eval()(inputs)
    return output.square().mean()


def dcgan(settings: Settings) -> Part:
    """DCGAN 32x32: 256 samples, and an epoch on 1,000 images, batch 100; ms on the wall, 2 threads."""
    train, _, what = images(*settings.images())
    train = train[: settings.size(1000, 100)]
    count = settings.size(256, 4)
    torch.manual_seed(0)
    trained = models.DCGAN()
    contestants = {
        "sampling by hand": lambda: lambda: _sample(trained, count),
        "DCGAN.sample": lambda: lambda: _seeded(lambda: trained.sample(count)),
        "DCGAN.sample(fast=True)": lambda: lambda: _seeded(lambda: trained.sample(count, fast=True)),
        "training by hand": lambda: _gan_loop(train, channels_last=False),
        "training by hand, channels_last": lambda: _gan_loop(train, channels_last=True),
        "fit": lambda: _gan_fit(train),
        "fit in bfloat16": lambda: _gan_fit(train, precision="bfloat16"),
    }
    seen: dict[str, float] = {}

    def check(name: str, value: Tensor) -> None:
        kind = "sample" if "sampl" in name.lower() else "train"
        expected = seen.setdefault(kind, value.abs().mean().item())
        same(name, value.abs().mean().item(), expected, 0.05 if kind == "train" else CLOSE)

    with threads(settings.threads()):
        times = measure(contestants, settings.number(5), clock=settings.clock(), check=check)
    rows = [
        *times.rows("ms", 1e3),
        times.ratio("DCGAN.sample", "sampling by hand"),
        times.ratio("DCGAN.sample(fast=True)", "sampling by hand"),
        times.ratio("fit", "training by hand, channels_last"),
        times.ratio("fit", "training by hand"),
        times.ratio("fit in bfloat16", "training by hand"),
    ]
    return Part(dcgan.__doc__ or "", rows, [what, "by hand: the three updates as in torch's DCGAN tutorial"])


def _seeded(run: Callable[[], Tensor]) -> Tensor:
    torch.manual_seed(0)
    return run()


@torch.no_grad()
def _sample(model: models.DCGAN, count: int) -> Tensor:
    torch.manual_seed(0)
    made: Tensor = model.generator.eval()(torch.randn(count, model.latent_dim))
    model.generator.train()
    return made


def _gan_fit(train: data.Images, **options: Any) -> Callable[[], Tensor]:
    torch.manual_seed(0)
    model = models.DCGAN()

    def run() -> Tensor:
        training.fit(model, train, epochs=1, batch_size=100, progress=False, **options)
        return model.discriminator.decisionLayer.weight.detach()

    return run


def _gan_loop(train: data.Images, *, channels_last: bool) -> Callable[[], Tensor]:
    torch.manual_seed(0)
    model = models.DCGAN()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model.to(memory_format=layout)
    generator, discriminator = model.generator, model.discriminator
    optimizers = [
        torch.optim.Adam(part.parameters(), lr=2e-4, betas=(0.5, 0.999)) for part in (generator, discriminator)
    ]
    inputs = train.inputs
    bce = functional.binary_cross_entropy_with_logits

    def run() -> Tensor:
        torch.manual_seed(0)
        for index in torch.split(data.order(len(inputs), 0, 0), 100):
            real = model.preprocess(inputs[index]).contiguous(memory_format=layout)
            ones, zeros = torch.ones(len(index)), torch.zeros(len(index))
            made = generator(torch.randn(len(index), model.latent_dim))
            optimizers[1].zero_grad()
            bce(discriminator(real), ones).backward()
            bce(discriminator(made.detach()), zeros).backward()
            optimizers[1].step()
            optimizers[0].zero_grad()
            bce(discriminator(made), ones).backward()
            optimizers[0].step()
        return discriminator.decisionLayer.weight.detach()

    return run


def evaluation(settings: Settings) -> Part:
    """Evaluation of 10,000 images, the tutorial's network; seconds on the wall, 2 threads."""
    _, test, what = images(*settings.images())
    torch.manual_seed(0)
    theirs, ours = TutorialCNN(), models.CNNModel()
    ours.load_state_dict(theirs.state_dict())
    tensors = (test.inputs, test.targets)
    contestants = {
        "the tutorial's loop": lambda: lambda: _count(theirs, tutorial_loader(settings, train=False)),
        "the tutorial's loop over slices": lambda: (
            lambda: _count(theirs, zip(*(t.split(100) for t in tensors), strict=True))
        ),
        "evaluate": lambda: lambda: training.evaluate(ours, test)["accuracy"],
        "evaluate in bfloat16": lambda: lambda: training.evaluate(ours, test, precision="bfloat16")["accuracy"],
        "evaluate, model in channels_last": lambda: _evaluate_as(ours, test),
    }
    expected = _count(theirs, zip(*(t.split(100) for t in tensors), strict=True))

    def check(name: str, accuracy: float) -> None:
        if abs(accuracy - expected) > (0.02 if "bfloat16" in name else 2 / len(test)):
            raise SystemExit(f"{name} counted {accuracy!r}, expected {expected!r}: not the same work")

    with threads(settings.threads()):
        times = measure(contestants, settings.number(7), clock=settings.clock(), check=check)
    rows = [
        *times.rows("s", 1),
        times.ratio("evaluate", "the tutorial's loop", 0.45),
        times.ratio("evaluate in bfloat16", "the tutorial's loop"),
        times.ratio("evaluate", "the tutorial's loop over slices"),
        times.ratio("evaluate, model in channels_last", "the tutorial's loop over slices"),
    ]
    return Part(evaluation.__doc__ or "", rows, [what, "equal accuracy but for two images; bfloat16: 0.02"])


@torch.no_grad()
def _count(model: nn.Module, batches: Any) -> float:
    correct = total = 0
    for inputs, targets in batches:
        outputs = model(inputs)
        total += targets.size(0)
        correct += (torch.argmax(outputs, -1) == targets).sum().item()
    return correct / total


def _evaluate_as(model: nn.Module, test: data.Images) -> Callable[[], float]:
    model = copy.deepcopy(model).to(memory_format=torch.channels_last)
    return lambda: training.evaluate(model, test)["accuracy"]
