"""What `check` sees in the model and its outputs, without training it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from torchbasics.data._batch import Batch
from torchbasics.training._doctor_data import one_hot
from torchbasics.training._evaluate import evaluating
from torchbasics.training._finding import Finding
from torchbasics.training._losses import is_classes
from torchbasics.training._random import forked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

ALIKE = {"rtol": 1e-3, "atol": 1e-5}  # two forward passes of one sample: far above rounding, far below a leak
HIGH_LOSS = 2.0  # times what guessing costs
LOUD = 1000.0  # times the inputs: logits follow, a sigmoid does not
UNREGISTERED = "parameters-unregistered"
OWN = frozenset(vars(nn.Module()))  # where torch keeps what is registered


def look_at_parameters(model: nn.Module) -> Iterator[Finding]:
    """Look for parameters that are frozen, and for those that no optimizer will find."""
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    if frozen:
        message = f"{listed(frozen)} will not be trained (requires_grad=False): right only if meant"
        yield Finding("parameters-frozen", message)
    registered = {id(part) for part in [*model.modules(), *model.parameters()]}
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if attribute not in OWN and any(_trainable(part) and id(part) not in registered for part in _parts(value)):
                where = f"{name}.{attribute}" if name else attribute
                message = f"self.{where} holds layers or parameters that the model does not know of, so that they"
                way_out = "use nn.ModuleList, nn.ModuleDict or nn.Parameter"
                yield Finding(UNREGISTERED, f"{message} are neither trained nor saved: {way_out}")


def look_at_shapes(outputs: Tensor, batch: Batch, loss: Any) -> Iterator[Finding]:
    """Compare the outputs' shape with the samples and the targets; *loss* is what the user gave."""
    targets = batch.targets
    if outputs.ndim == 0 or len(outputs) != batch.size:
        message = f"{batch.size} samples became outputs of shape {tuple(outputs.shape)}: the first dimension must stay"
        yield Finding("outputs-shape", f"{message} that of the samples")
        return
    if targets is None:
        return
    floating = targets.is_floating_point()
    if one_hot(targets) and (loss is None or (loss == "cross_entropy" and not floating)):
        message = f"targets of shape {tuple(targets.shape)} are one-hot; class numbers are needed: targets.argmax(1)"
        yield Finding("targets-one-hot", message)
    elif floating and targets.ndim == 1 and outputs.ndim == 2 and outputs.shape[1] > 1:
        if bool((targets == targets.round()).all()) and 0 <= targets.min() <= targets.max() < outputs.shape[1]:
            message = f"targets are {targets.dtype} but look like class numbers: targets.long(), or they are taken for"
            yield Finding("targets-floating", f"{message} numbers to predict")
    elif floating and targets.ndim != outputs.ndim and targets.numel() == outputs.numel():
        message = f"outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)} are broadcast against each other"
        yield Finding("shapes-broadcast", f"{message} by most losses: targets.view_as(outputs)")
    elif is_classes(targets) and outputs.ndim >= 2 and outputs.shape[1] == 1:
        message = "the model has one output, so that cross-entropy is 0 whatever it learns: give it an output per class"
        yield Finding("outputs-shape", f"{message}, or floating targets and loss='bce'")


def look_at_values(run: Callable[[Batch], Tensor], batch: Batch, loss: Any) -> Iterator[Finding]:
    """Look at what the last layer gives; *loss* is the function in use."""
    name = loss_name(loss)
    outputs, targets = run(batch), batch.targets
    if targets is None:
        return
    if not outputs.isfinite().all():
        yield Finding("outputs-not-finite", "the model's outputs hold nan or infinity before any training")
    elif name == "cross_entropy" and outputs.ndim >= 2 and outputs.shape[1] > 1:
        yield from _logits(run, batch, outputs)
        if is_classes(targets):
            yield from _first_loss(outputs, targets)
    elif name == "nll" and not torch.allclose(outputs.exp().sum(1), torch.ones(()).to(outputs), atol=1e-3):
        message = "loss 'nll' needs log-probabilities: end with nn.LogSoftmax(1), or use loss='cross_entropy'"
        yield Finding("nll-without-log-softmax", message)
    elif name == "bce" and _squashed(run, batch):
        message = "outputs lie in [0, 1], as after a sigmoid, which loss 'bce' has itself: leave the sigmoid out"
        yield Finding("sigmoid-before-bce", message)
    elif name in ("mse", "l1") and _rectified(outputs) and (targets < 0).any():
        yield Finding("relu-at-the-end", "outputs are never negative, as after a ReLU, but targets are: leave it out")


def look_at_samples(run: Callable[[Batch], Tensor], batch: Batch, model: nn.Module) -> Iterator[Finding]:
    """See whether evaluation is the same twice, and whether samples see each other."""
    if batch.size < 3:
        return
    with evaluating(model):
        first, second = run(batch), run(batch)
        if not torch.allclose(first, second, equal_nan=True, **ALIKE):
            message = "two passes in eval mode differ: is it functional.dropout(x) without training=self.training?"
            yield Finding("random-in-eval", message)
        for kept in (0, batch.size - 1):  # either end: a recurrent layer may only look back
            index = torch.full((batch.size,), (kept + 1) % batch.size)  # all others become one and the same
            index[kept] = kept
            with forked(seed=0):
                alone = run(batch)[kept]
            with forked(seed=0):
                in_other_company = run(rows(batch, index))[kept]
            if not torch.allclose(alone, in_other_company, equal_nan=True, **ALIKE):
                message = f"in eval mode the output of sample {kept} changes with the other samples of its batch: is"
                way_out = "a dimension mixed up (view, softmax over 0, batch_first), or a norm over the batch?"
                yield Finding("samples-leak", f"{message} {way_out}")
                return


def loss_name(loss: Any) -> str:
    """Return what a loss function of torch is called here, else ""."""
    names = {
        "cross_entropy": (functional.cross_entropy, nn.CrossEntropyLoss),
        "nll": (functional.nll_loss, nn.NLLLoss),
        "bce": (functional.binary_cross_entropy_with_logits, nn.BCEWithLogitsLoss),
        "mse": (functional.mse_loss, nn.MSELoss),
        "l1": (functional.l1_loss, nn.L1Loss),
    }
    return next((name for name, forms in names.items() if loss is forms[0] or isinstance(loss, forms[1])), "")


def rows(batch: Batch, index: Tensor) -> Batch:
    """Return the samples *index* of a batch."""

    def pick(values: Tensor) -> Tensor:
        return values.index_select(0, index.to(values.device))

    picked = map_inputs(batch, pick)
    return picked._replace(targets=None if batch.targets is None else pick(batch.targets), size=len(index))


def map_inputs(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """Return the batch with its inputs changed."""
    inputs: Any = batch.inputs
    if isinstance(inputs, Tensor):
        return batch._replace(inputs=change(inputs))
    if isinstance(inputs, dict):
        return batch._replace(inputs={name: change(values) for name, values in inputs.items()})
    return batch._replace(inputs=tuple(change(values) for values in inputs))


def listed(names: list[str]) -> str:
    """Return the first names, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _logits(run: Callable[[Batch], Tensor], batch: Batch, outputs: Tensor) -> Iterator[Finding]:
    sums = outputs.sum(1)
    if bool((outputs >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
        message = "outputs add up to 1, as after a softmax, which cross-entropy has itself: leave the softmax out"
        yield Finding("softmax-before-cross-entropy", message)
    elif _rectified(outputs):
        message = "outputs are never negative, as after a ReLU; logits must be free: leave the last activation out"
        yield Finding("relu-at-the-end", message)
    elif _squashed(run, batch):
        message = "outputs lie in [0, 1], as after a sigmoid; cross-entropy needs free logits: leave the sigmoid out"
        yield Finding("sigmoid-before-cross-entropy", message)


def _first_loss(outputs: Tensor, targets: Tensor) -> Iterator[Finding]:
    guess = math.log(outputs.shape[1])
    loss = functional.cross_entropy(outputs, targets).item()
    if loss > HIGH_LOSS * guess + 0.5:
        message = f"the loss before training is {loss:.3g}, while guessing costs ln({outputs.shape[1]}) = {guess:.3g}"
        yield Finding("loss-at-start", f"{message}: scale the inputs, or start the last layer smaller")


def _rectified(outputs: Tensor) -> bool:
    """Whether nothing is negative, and much, but not all, is exactly zero."""
    return bool((outputs >= 0).all()) and 0.1 < (outputs == 0).double().mean().item() < 1.0


def _squashed(run: Callable[[Batch], Tensor], batch: Batch) -> bool:
    """Whether outputs stay in [0, 1] however large the inputs are made."""

    def times(factor: float) -> Batch:
        return map_inputs(batch, lambda values: values * factor if values.is_floating_point() else values)

    first, *others = (run(times(factor)) for factor in (1.0, LOUD, -LOUD))
    inside = all(bool(((outputs >= 0) & (outputs <= 1)).all()) for outputs in (first, *others))
    return inside and not torch.equal(first, others[0])  # a layer that starts at zero says nothing


def _trainable(part: object) -> bool:
    if isinstance(part, nn.Module):
        return any(p.requires_grad for p in part.parameters())
    return isinstance(part, Tensor) and part.requires_grad and part.is_leaf


def _parts(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, (list, tuple)) else [value]
