"""The checks of what a model computes, and of what it leaves alone while it does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchbasics.testing._kill import digest
from torchbasics.testing._subject import (
    ROUGH,
    SETTINGS,
    BrokenError,
    InapplicableError,
    Subject,
    check,
    moved,
    named,
    other_state,
    same,
    settings_kept,
)
from torchbasics.training._doctor_model import UNREGISTERED, look_at_parameters
from torchbasics.training._random import forked, get_state

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


@check("forward takes a batch and returns tensors: one, or several in a tuple, list or dict", needs="")
def forward(subject: Subject) -> None:
    """A batch runs in both modes, and gives tensors."""
    model = subject.model()
    for mode in (False, True):
        if not subject.run(model.train(mode), subject.inputs(4)):
            raise BrokenError(f"the output holds no tensor in {'training' if mode else 'eval'} mode")


@check("keep one dimension of each output as long as the batch, and the others as they are: flatten(1), not flatten()")
def shapes(subject: Subject) -> None:
    """Of each output that depends on the batch size, one dimension is the batch size."""
    model = subject.model()
    three, five = (subject.run(model, subject.inputs(n)) for n in (3, 5))
    if len(three) != len(five):
        raise BrokenError(f"3 samples give {len(three)} outputs, and 5 give {len(five)}")
    for i, (a, b, dim) in enumerate(zip(three, five, subject.batch_dims, strict=True)):
        if dim is None and (a.shape != b.shape or len(three) == 1):
            raise BrokenError(f"output {i} has shape {tuple(a.shape)} for 3 samples, and {tuple(b.shape)} for 5")


@check("look for the log, root or quotient of what can be zero or negative, and for overflow")
def finite(subject: Subject) -> None:
    """Outputs are finite."""
    for i, output in enumerate(subject.run(subject.model(), subject.inputs(4))):
        odd = int((~output.isfinite()).sum())
        if odd:
            raise BrokenError(f"output {i} has {odd} of {output.numel()} values that are NaN or infinite")


@check("keep the batch dimension: squeeze(1) or flatten(1), not squeeze() or view(-1)")
def batch_of_one(subject: Subject) -> None:
    """A batch of one sample gives outputs of one sample."""
    _runs_on(subject, 1)


@check("an epoch's rest or a filter can leave none: take sizes from shape[0], and use no max() or min() over the batch")
def empty_batch(subject: Subject) -> None:
    """A batch without samples gives outputs without samples."""
    _runs_on(subject, 0)


def _runs_on(subject: Subject, n: int) -> None:
    model = subject.model()
    known, got = (subject.run(model, subject.inputs(k)) for k in (3, n))
    subject.samples(known, 1)  # whether there are any
    for i, (a, b, dim) in enumerate(zip(known, got, subject.batch_dims, strict=True)):
        wanted = [n if d == dim else size for d, size in enumerate(a.shape)]
        if dim is not None and list(b.shape) != wanted:
            raise BrokenError(f"output {i} has shape {tuple(b.shape)}, not {tuple(wanted)}, for a batch of {n}")


@check("in eval mode, use no statistics of the batch, and keep samples apart when you reshape")
def independence(subject: Subject) -> None:
    """In eval mode, a sample's outputs do not depend on what else is in its batch."""
    model, inputs, dim = subject.model(), subject.inputs(3), subject.batch_dim
    others = torch.cat([inputs.narrow(dim, 0, 1), subject.inputs(3, seed=3).narrow(dim, 1, 2)], dim)
    among = subject.samples(subject.run(model, inputs), 1)
    # A smaller batch may take another kernel, which adds in another order.
    for batch, when in ((others, "with other samples beside it"), (inputs.narrow(dim, 0, 2), "in a smaller batch")):
        subject.compare(subject.samples(subject.run(model, batch), 1), among, f"for a sample {when}", share=None)


@check("use reshape or flatten, not view, and no raw pointers")
def non_contiguous(subject: Subject) -> None:
    """Inputs whose memory is in another order, or has gaps, give the same outputs."""
    model, inputs = subject.model(), subject.inputs(3)
    expected = subject.run(model, inputs)
    back = tuple(reversed(range(inputs.ndim)))
    gaps = inputs.repeat_interleave(2, -1)[..., ::2]
    for strided, how in ((inputs.permute(back).contiguous().permute(back), "in reverse order"), (gaps, "with gaps")):
        subject.compare(subject.run(model, strided), expected, f"for inputs in memory {how}", share=None)


@check("use reshape or flatten, not view: in channels_last, pixels lie in memory before channels")
def channels_last(subject: Subject) -> None:
    """With inputs and parameters in channels_last, outputs are the same."""
    model, inputs = subject.model(), subject.inputs(3)
    expected = subject.run(model, inputs)
    held = [t for t in [*model.parameters(), *model.buffers()] if t.ndim in FORMATS]
    if not held and inputs.ndim not in FORMATS:
        raise InapplicableError("neither inputs nor parameters have 4 or 5 dimensions")
    for t in held:
        t.data = t.data.contiguous(memory_format=FORMATS[t.ndim])
    if inputs.ndim in FORMATS:
        inputs = inputs.contiguous(memory_format=FORMATS[inputs.ndim])
    subject.compare(subject.run(model, inputs), expected, "in channels_last", share=None)


@check("make tensors of the inputs' dtype: x.new_zeros(...), torch.zeros(..., dtype=x.dtype), and no .float()")
def float64(subject: Subject) -> None:
    """In float64, outputs are float64, and those of the model's own dtype up to rounding."""
    if subject.dtype == torch.float64:
        raise InapplicableError("the model is float64 already")
    model, inputs = subject.model(), subject.inputs(3)
    single = [t for t in subject.run(model, inputs) if t.is_floating_point()]
    double = subject.run(model.double(), inputs.double() if inputs.is_floating_point() else inputs)
    double = [t for t in double if t.is_floating_point()]
    for i, t in enumerate(double):
        if t.dtype != torch.float64:
            raise BrokenError(f"output {i} is {t.dtype} of a float64 model")
    subject.compare(single, double, f"in {subject.dtype}", share=None)


@check("make tensors of the dtype at hand, not of the inputs' or parameters': out = layer(x); torch.zeros_like(out)")
def autocast(subject: Subject) -> None:
    """Under autocast to bfloat16, forward and backward run, and the outputs are about the same."""
    model, inputs = subject.model(), subject.inputs(3)
    expected = [t for t in subject.run(model, inputs) if t.is_floating_point()]
    with torch.autocast(subject.device.type, torch.bfloat16):
        got = [t for t in subject.run(model, inputs) if t.is_floating_point()]
        subject.compare(got, expected, "under autocast to bfloat16", share=ROUGH)
        if any(p.requires_grad for p in model.parameters()):
            subject.backward(model, subject.inputs(4))


@check("in eval mode, change no buffer, mode or attribute that outputs depend on")
def repeatable(subject: Subject) -> None:
    """In eval mode, the same inputs give the same bits again; buffers and modes stay."""
    model, inputs = subject.model(), subject.inputs(3)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    first, second = (subject.run(model, inputs) for _ in range(2))
    changed = [name for name, buffer in model.named_buffers() if not same(buffer, buffers.get(name))]
    if changed:
        raise BrokenError(f"forward changes the buffers {named(changed)} in eval mode")
    training = [name for name, module in model.named_modules() if module.training]
    if training:
        raise BrokenError(f"forward puts {named(training)} into training mode")
    subject.compare(second, first, "the second time")


@check("use each parameter in forward, without detach() or .data; freeze what is not trained: requires_grad_(False)")
def gradients(subject: Subject) -> None:
    """Each parameter that is trained gets a gradient that is not all zeros, and the model knows of all of them."""
    unknown = [found.message for found in look_at_parameters(subject.model()) if found.name == UNREGISTERED]
    if unknown:
        raise BrokenError("; ".join(unknown))
    model = moved(subject.model())  # layers that start with zeros, as at the end of a residual branch, hide others
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trained:
        raise InapplicableError("no parameter is trained")
    subject.backward(model, subject.inputs(4))
    none = [name for name, p in trained.items() if p.grad is None]
    zero = [name for name, p in trained.items() if p.grad is not None and not p.grad.any()]
    problems = [f"{named(none)} get no gradient"] if none else []
    problems += [f"{named(zero)} get a gradient of zeros"] if zero else []
    if problems:
        raise BrokenError("; ".join(problems))


@check("draw initial values from torch's, numpy's or python's global generator: not from a clock, a hash or another")
def seed(subject: Subject) -> None:
    """Two models made from one seed are equal."""
    a, b = subject.model(), subject.model()
    names = other_state(a, b)
    if names:
        raise BrokenError(f"two models made from one seed differ in {named(names)}")


@check("work on a new tensor: relu(x), x = x + 1, x.clone(); not relu_(x), x += 1")
def inputs_untouched(subject: Subject) -> None:
    """Neither forward nor backward changes the inputs."""
    for mode in ("eval", "training"):
        model, inputs = subject.model(), subject.inputs(4)
        before, version, needs_grad = inputs.clone(), inputs._version, inputs.requires_grad
        if mode == "training" and any(p.requires_grad for p in model.parameters()):
            subject.backward(model, inputs)
        else:
            with settings_kept(), forked(2):
                model.train(mode == "training")(inputs)
        if inputs._version != version or not same(inputs, before):
            raise BrokenError(f"in {mode} mode, forward or backward writes to the inputs")
        if inputs.requires_grad != needs_grad:
            raise BrokenError(f"in {mode} mode, forward changes requires_grad of the inputs to {inputs.requires_grad}")


@check("leave seeding to the caller, and draw only in training mode; inside, use a torch.Generator of your own")
def rng_untouched(subject: Subject) -> None:
    """Nothing sets the global random generators, and in eval mode nothing draws from them."""
    made: list[Mapping[str, str]] = []
    trained: list[Mapping[str, str]] = []
    drawn: list[str] = []
    for start in (1, 2):  # a generator that is in the same state after both was set
        with settings_kept(), forked(start):
            subject.make()
            made.append(_generators())
    model, inputs = subject.model(), subject.inputs(4)
    for start in (1, 2):
        with settings_kept(), forked(start):
            before = _generators()
            model.eval()(inputs)
            drawn += [name for name, state in _generators().items() if state != before.get(name, state)]
            model.train()(inputs)
            trained.append(_generators())
    for what, (a, b) in (("making the model", made), ("forward in training mode", trained)):
        equal = [name for name in a if a[name] == b.get(name)]
        if equal:
            raise BrokenError(f"{what} seeds the global generator of {named(equal)}")
    if drawn:
        raise BrokenError(f"forward in eval mode draws from the global generator of {named(sorted({*drawn}))}")


def _generators() -> dict[str, str]:
    return {name: digest(state) for name, state in get_state().items() if state != []}


@check("leave them to the caller; for a moment, use a context: torch.no_grad(), torch.device(...), or put them back")
def settings_untouched(subject: Subject) -> None:
    """Default dtype, default device, grad mode and the like stay as they are."""

    def step(what: str, function: Any, *args: Any) -> Any:
        before = {name: get() for name, (get, _) in SETTINGS.items()}
        with settings_kept():
            made = function(*args)
            after = {name: get() for name, (get, _) in SETTINGS.items()}
        changed = [f"the {name} from {old!r} to {after[name]!r}" for name, old in before.items() if after[name] != old]
        if changed:
            raise BrokenError(f"{what} changes {', '.join(changed)}")
        return made

    with forked(0):
        model: nn.Module = step("making the model", subject.make)
        inputs: Tensor = subject.inputs(4)
        step("forward in eval mode", model.eval(), inputs)
        step("forward in training mode", model.train(), inputs)
