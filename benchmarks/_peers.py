"""The same epoch in the words of other libraries, each with all switched off that is not training.

Each function takes the work and returns what is to be timed: the call that trains, without what builds its objects.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import warnings
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks._work import Work


def of_lightning(work: Work) -> Callable[[], nn.Module]:
    """Lightning: a Trainer with ``barebones=True``, its own setting for measuring overhead."""
    import lightning

    class Module(lightning.LightningModule):  # type: ignore[misc,unused-ignore]  # Any where the peer is not installed
        def __init__(self) -> None:
            super().__init__()
            self.model = work.model()

        def training_step(self, batch: Any, _: int) -> Any:
            inputs, targets = batch
            return functional.cross_entropy(self.model(inputs), targets)

        def configure_optimizers(self) -> Any:
            return work.optimizer(self.model)

    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    module, loader = Module(), work.loader()
    trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", devices=1, barebones=True)

    def run() -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that workers would be faster: not in memory
            trainer.fit(module, loader)
        return module.model.eval()

    return run


def of_ignite(work: Work) -> Callable[[], nn.Module]:
    """Ignite: `create_supervised_trainer`."""
    from ignite.engine import create_supervised_trainer

    model, loader = work.model(), work.loader()
    trainer = create_supervised_trainer(model, work.optimizer(model), nn.CrossEntropyLoss())

    def run() -> nn.Module:
        trainer.run(loader, max_epochs=1)
        return model

    return run


def of_skorch(work: Work) -> Callable[[], nn.Module]:
    """Skorch: a NeuralNet without callbacks and without validation."""
    from skorch import NeuralNet

    model = work.model()
    net = NeuralNet(
        model,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.SGD,
        lr=work.lr,
        batch_size=work.batch_size,
        max_epochs=1,
        train_split=None,
        callbacks="disable",
        verbose=0,
        iterator_train__sampler=work.order().tolist(),
    ).initialize()

    def run() -> nn.Module:
        net.partial_fit(work.inputs, work.targets)
        return net.module_  # type: ignore[no-any-return]  # untyped

    return run


def of_accelerate(work: Work) -> Callable[[], nn.Module]:
    """Accelerate: its loop over what `Accelerator.prepare` returns."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    made = work.model()
    model, optimizer, loader = accelerator.prepare(made, work.optimizer(made), work.loader())

    def run() -> nn.Module:
        for inputs, targets in loader:
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(inputs), targets)
            accelerator.backward(loss)
            optimizer.step()
        return model  # type: ignore[no-any-return]  # untyped

    return run


def of_fastai(work: Work) -> Callable[[], nn.Module]:
    """Fastai: a Learner without progress bar, log and validation, over torch's DataLoader and SGD."""
    from fastai.callback.core import Callback, CancelValidException
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.optimizer import OptimWrapper

    class NoValidation(Callback):  # type: ignore[misc,unused-ignore]  # Any where the peer is not installed
        def before_validate(self) -> None:
            raise CancelValidException

    model, loader = work.model(), work.loader()
    learner = Learner(
        DataLoaders(loader, loader, device=torch.device("cpu")),
        model,
        loss_func=functional.cross_entropy,
        opt_func=partial(OptimWrapper, opt=torch.optim.SGD),
        lr=work.lr,
        cbs=[NoValidation()],
    )
    for callback in list(learner.cbs):
        if callback.name == "progress":
            learner.remove_cb(callback)
    learner.logger = lambda *_: None

    def run() -> nn.Module:
        learner.fit(1)
        return model

    return run


def of_poutyne(work: Work) -> Callable[[], nn.Module]:
    """Poutyne: `Model.fit_generator`, silent, without metrics."""
    from poutyne import Model

    model, loader = work.model(), work.loader()
    wrapped = Model(model, work.optimizer(model), nn.CrossEntropyLoss())

    def run() -> nn.Module:
        wrapped.fit_generator(loader, epochs=1, verbose=False)
        return model

    return run


def of_keras(work: Work) -> Callable[[], nn.Module]:
    """Keras on torch: `Model.fit` of the same torch module, the tensors already in their order."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    if keras.backend.backend() != "torch":
        raise ImportError("Keras runs on another backend; set KERAS_BACKEND=torch")
    module, order = work.model(), work.order()
    model = keras.Sequential([keras.layers.TorchModuleWrapper(module)])
    model.compile(
        optimizer=keras.optimizers.SGD(work.lr),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    inputs, targets = work.inputs[order], work.targets[order]

    def run() -> nn.Module:
        model.fit(inputs, targets, batch_size=work.batch_size, epochs=1, shuffle=False, verbose=0)
        return module

    return run


PEERS: dict[str, tuple[str, Callable[[Work], Callable[[], nn.Module]]]] = {  # name -> its package, its epoch
    "Lightning": ("lightning", of_lightning),
    "accelerate": ("accelerate", of_accelerate),
    "skorch": ("skorch", of_skorch),
    "ignite": ("pytorch-ignite", of_ignite),
    "fastai": ("fastai", of_fastai),
    "Poutyne": ("poutyne", of_poutyne),
    "Keras": ("keras", of_keras),
}


def peers(work: Work, *, wanted: bool = True) -> tuple[dict[str, Any], list[str]]:
    """Return the contestants that are installed, and notes: versions and settings, and which are missing."""
    found, notes = {}, []
    for name, (package, epoch) in PEERS.items() if wanted else ():
        if importlib.util.find_spec(package.removeprefix("pytorch-")) is None:
            notes.append(f"{name}: not installed, left out")
            continue
        notes.append(f"{package} {metadata.version(package)}. {(epoch.__doc__ or '').strip()}")
        found[name] = partial(epoch, work)
    return found, notes
