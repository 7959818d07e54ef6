"""The checks of what happens to a model: copies, files, other programs, and the names in its state."""

from __future__ import annotations

import copy
import importlib.util
import json
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import dumps, loads  # nosec B403  # of the model at hand, here and now
from types import FunctionType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from torchbasics import _zoo, io
from torchbasics._recipe import tuples
from torchbasics.testing._subject import (
    BrokenError,
    InapplicableError,
    Subject,
    check,
    moved,
    named,
    other_state,
    settings_kept,
    tensors,
)
from torchbasics.training._random import forked


@check("define the class at the top of a module, and keep no lambda, local function, lock or open file on the model")
def pickle(subject: Subject) -> None:
    """A pickled model comes back equal and apart."""
    _check_copy(subject, lambda model: loads(dumps(model)))  # nosec B301  # just written


@check("keep on the model only what copies itself: parameters, buffers, modules, plain data; no results of forward")
def deepcopy(subject: Subject) -> None:
    """A deep copy is equal and apart."""
    _check_copy(subject, copy.deepcopy)


def _check_copy(subject: Subject, copied: Callable[[nn.Module], nn.Module]) -> None:
    model, inputs = _used(subject), subject.inputs(3)
    expected = subject.run(model, inputs)
    twin = copied(model)
    names = other_state(twin, model)
    if names:
        raise BrokenError(f"the copy differs in {named(names)}")
    subject.compare(subject.run(twin, inputs), expected, "in the copy")
    with torch.no_grad():
        for t in [*model.parameters(), *model.buffers()]:
            if t.is_floating_point():
                t.fill_(float("nan"))
    subject.compare(subject.run(twin, inputs), expected, "in the copy once the original's parameters have changed")


def _used(subject: Subject) -> nn.Module:
    """Return a model that has seen a batch in training mode: what forward left on it and in its buffers counts too."""
    model = subject.model()
    subject.run(model.train(), subject.inputs(4))
    return model.eval()


@check("read parameters as attributes in forward, and keep no other reference to them")
def functional_call(subject: Subject) -> None:
    """torch.func.functional_call runs the model on parameters from outside."""
    model, other, inputs = subject.model(), moved(subject.model()), subject.inputs(3)
    state = {**dict(other.named_parameters()), **dict(other.named_buffers())}

    def call(batch: torch.Tensor) -> Any:
        return torch.func.functional_call(model, state, (batch,))

    subject.compare(subject.run(call, inputs), subject.run(other, inputs), "on parameters from outside")


@check("store every constructor argument unchanged under its own name, as plain data: numbers, text, tuples")
def config(subject: Subject) -> None:
    """The config, through JSON, makes a model that computes the same with the same state."""
    model, inputs = subject.model(), subject.inputs(3)
    given = _config(model)
    with settings_kept(), forked(0):
        again = type(model)(**tuples(json.loads(json.dumps(given)))).eval().to(subject.device, subject.dtype)
    if tuples(_config(again)) != tuples(given):
        raise BrokenError(f"the config {given!r} comes back as {_config(again)!r}")
    kinds, others = ({k: getattr(v, "shape", None) for k, v in m.state_dict().items()} for m in (model, again))
    if kinds != others:
        names = [key for key in {**kinds, **others} if kinds.get(key) != others.get(key)]
        raise BrokenError(f"a model made from the config has another {named(names)}")
    again.load_state_dict(model.state_dict())
    subject.compare(subject.run(again, inputs), subject.run(model, inputs), "made from its config")


def _config(model: nn.Module) -> dict[str, Any]:
    own = getattr(model, "config", None)
    if _zoo.name_of(model) is not None:
        return _zoo.config_of(model)
    if not isinstance(own, Mapping):
        raise InapplicableError(f"{type(model).__name__} is not registered, and has no mapping .config")
    return dict(own)


@check("put all that outputs depend on into parameters, persistent buffers and constructor arguments")
def save(subject: Subject) -> None:
    """A registered model comes back equal from `io.save` and `io.load`, another from the files of its state."""
    model, inputs = _used(subject), subject.inputs(3)
    with tempfile.TemporaryDirectory(prefix="check_model_") as folder:
        path = Path(folder) / "model.safetensors"
        if _zoo.name_of(model) is not None:
            io.save(model, path)
            again = io.load(path, allow_nonfinite=True).to(subject.device)
        else:
            io.save_state(model, path)
            again = subject.model(seed=1)
            io.load_state(again, path, allow_nonfinite=True)
    names = other_state(again, model)
    if names:
        raise BrokenError(f"from its file, the model differs in {named(names)}")
    subject.compare(subject.run(again, inputs), subject.run(model, inputs), "from its file")


@contextmanager
def _quiet() -> Iterator[None]:
    """Let torch warn of its own future, which is not the model's doing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@check("compute with tensors alone, and ask for no values or batch sizes in Python: torch.where, not if; no item()")
def export(subject: Subject) -> None:
    """torch.export takes the model with a batch of any size, and the program computes the same."""
    model, inputs = subject.model(), subject.inputs(5)
    with _quiet():
        program = torch.export.export(model, (subject.inputs(3),), dynamic_shapes=_free(subject), strict=False)
        subject.compare(subject.run(program.module(), inputs), subject.run(model, inputs), "exported", share=None)


@check("keep what torch.compile cannot follow out of forward: files, clocks, other libraries, item()")
def compile_(subject: Subject) -> None:
    """torch.compile takes the model as one graph, and the graph computes the same (backend "eager": no compiler)."""
    model = subject.model()

    def call(batch: torch.Tensor) -> Any:
        return model(batch)

    # torch compiles the same code eight times at most; a copy of it is other code, and takes nothing from the caller's.
    code = call.__code__.replace()
    with _quiet():
        program: Any = torch.compile(
            FunctionType(code, globals(), closure=call.__closure__), backend="eager", fullgraph=True
        )
        for inputs in (subject.inputs(3), subject.inputs(5)):
            subject.compare(subject.run(program, inputs), subject.run(model, inputs), "compiled", share=None)


@check("use operators that ONNX has, or a newer torch, or leave this out: skip=('onnx',)", needs="export")
def onnx(subject: Subject) -> None:
    """The model as ONNX computes the same in onnxruntime, for a batch of any size."""
    for module in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(module) is None:
            raise InapplicableError(f"{module} is not installed")
    import onnxruntime

    model, inputs, example = subject.model(), subject.inputs(5), (subject.inputs(3),)
    if torch.__version__.startswith("2.6.") and any(isinstance(m, _BatchNorm) for m in model.modules()):
        raise InapplicableError("torch 2.6 has no word for batch norm in ONNX; newer ones have")
    try:
        with _quiet():
            program: Any = torch.onnx.export(model, example, dynamo=True, dynamic_shapes=_free(subject), verbose=False)
    except torch.onnx.OnnxExporterError as e:
        raise BrokenError(f"torch cannot write the model as ONNX: {e.__cause__ or e}") from e
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])

    def run(batch: torch.Tensor) -> list[torch.Tensor]:
        given = {given.name: batch.cpu().numpy() for given in session.get_inputs()}
        return [torch.from_numpy(array) for array in session.run(None, given)]

    subject.compare(subject.run(run, inputs), subject.run(model, inputs), "as ONNX", share=None)


def _free(subject: Subject) -> tuple[dict[int, Any], ...]:
    return ({subject.batch_dim: torch.export.Dim("batch")},)


@check("in the constructor, make tensors on the default device and ask for no values: no item(), numpy() or .cpu()")
def meta(subject: Subject) -> None:
    """On the device "meta", the model is made and run without memory or arithmetic, and gives the same shapes."""
    expected, inputs = subject.run(subject.model(), subject.inputs(3)), subject.inputs(3).to("meta")
    # (Weights that are loaded there go nowhere, which torch warns of.)
    with _quiet(), forked(0), torch.device("meta"), settings_kept():
        model = subject.make().eval()
        got = tensors(model(inputs))
    names = [name for name, t in [*model.named_parameters(), *model.named_buffers()] if not t.is_meta]
    if names:
        raise BrokenError(f"made on the device 'meta', the model has {named(names)} elsewhere")
    shapes, others = ([tuple(t.shape) for t in outputs] for outputs in (expected, got))
    if shapes != others:
        raise BrokenError(f"on the device 'meta', outputs have the shapes {others}, else {shapes}")


@check("keep the old names, or convert old files in a load_state_dict pre-hook; if that is meant, renew the list keys=")
def keys(subject: Subject) -> None:
    """The state_dict has the names of a list that was stored before, in its order: old files still fit."""
    if subject.keys is None:
        raise InapplicableError("no keys= are given")
    wanted, got = list(dict.fromkeys(subject.keys)), list(subject.model().state_dict())
    missing, new = ([key for key in a if key not in b] for a, b in ((wanted, got), (got, wanted)))
    problems = [f"it lacks {named(missing)}"] if missing else []
    problems += [f"it has {named(new)} beside them"] if new else []
    if got != wanted and not problems:
        place = next(i for i, (a, b) in enumerate(zip(wanted, got, strict=True)) if a != b)
        problems = [f"{got[place]!r} stands in the place of {wanted[place]!r}, and optimizers go by the order"]
    if problems:
        raise BrokenError(f"the state_dict has other names than keys=: {'; '.join(problems)}")
