"""Models with loading code of their own: it gets what the file holds, once, and what it does with it is compared."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from tests import pickles as pk
from tests.helpers import CrashAt, CrashError, blobs, equal
from torchbasics import _zoo, io, models
from torchbasics._model import load_plain_state, plain_state
from torchbasics.training import fit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Versioned(nn.Linear):
    """A layer whose weight was half of what it is before version 2 of its code."""

    _version = 2

    def __init__(self, size: int = 3, out: int = 3) -> None:
        super().__init__(size, out)
        self.size, self.out = size, out

    def _load_from_state_dict(self, state: Any, prefix: str, local: Any, *args: Any) -> None:
        if (local.get("version") or 1) < 2:
            state[prefix + "weight"] = state[prefix + "weight"] * 2
        super()._load_from_state_dict(state, prefix, local, *args)


@pytest.fixture
def registered() -> Iterator[None]:
    """Register one's own classes for one test."""
    yield
    for name in set(models.list_models()) - set(_zoo.BUILT_IN):
        _zoo.forget(name)


@pytest.mark.usefixtures("registered")
def test_a_model_that_counts_versions_comes_back_as_it_was(tmp_path: Path) -> None:
    """Its code for older files does not run on one of the code at hand; without versions it would (control)."""
    models.register("versioned")(Versioned)
    source = Versioned()
    io.save(source, tmp_path / "m.safetensors")
    assert equal(io.load(tmp_path / "m.safetensors"), source)
    target = Versioned()
    target.load_state_dict(dict(source.state_dict()))
    assert torch.equal(target.weight, source.weight * 2)


@pytest.mark.parametrize("suffix", [".pt", ".pkl", ".safetensors"])
def test_the_state_of_a_model_that_counts_versions_loads(suffix: str, tmp_path: Path) -> None:
    """From files of save_state, and of torch.save in both formats, with what torch keeps beside the tensors."""
    source, target, path = nn.Sequential(Versioned()), nn.Sequential(Versioned()), tmp_path / f"m{suffix}"
    if suffix == ".safetensors":
        io.save_state(source, path)
    else:
        torch.save(source.state_dict(), path, _use_new_zipfile_serialization=suffix == ".pt")
    io.load_state(target, path)
    assert equal(target, source)


@pytest.mark.parametrize("versions", [None, 1])
def test_a_pickle_of_older_code_is_refused_where_it_would_be_converted(versions: int | None, tmp_path: Path) -> None:
    """The model would not hold what the file does."""
    state: Any = Versioned().state_dict()
    state._metadata[""]["version"] = versions
    torch.save(state if versions else dict(state), tmp_path / "m.pt")
    with pytest.raises(io.CheckpointError, match=r"'weight' is not as in the file after loading"):
        io.load_state(Versioned(), tmp_path / "m.pt")


@pytest.mark.parametrize("told", [b"K\x02", pk.dictionary(a=b"]")], ids=["number", "list"])
def test_versions_that_are_no_plain_values_are_refused(told: bytes, tmp_path: Path) -> None:
    """They go to the model's own code, which expects what torch writes."""
    ordered = pk.call("collections.OrderedDict") + b"(" + pk.text("a") + pk.tensor(1, (1,), (1,)) + b"u"
    versions = told if told == b"K\x02" else pk.dictionary(a=told)
    path = pk.write_zip(tmp_path / "m.pt", ordered + pk.dictionary(_metadata=versions) + b"b", {"0": bytes(4)})
    with pytest.raises(io.CheckpointError, match=r"versions of its layers \(_metadata\) that are no plain") as caught:
        io.load_state(nn.Linear(1, 1), path)
    assert caught.value.reason == "unsupported"


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_model_of_torchvision_that_counts_versions_loads(suffix: str, tmp_path: Path) -> None:
    """MNASNet asserts that its version is 1 or 2."""
    torchvision = pytest.importorskip("torchvision")
    source, target = (torchvision.models.mnasnet0_5(num_classes=2) for _ in range(2))
    path = tmp_path / f"m{suffix}"
    io.save_state(source, path) if suffix == ".safetensors" else torch.save(source.state_dict(), path)
    io.load_state(target, path)
    assert equal(target, source)


@pytest.mark.parametrize("options", [{}, {"early_stopping": 2}, {"ema": 0.9}], ids=["plain", "stopping", "average"])
def test_a_run_of_a_model_that_counts_versions_goes_on(options: dict[str, Any], tmp_path: Path) -> None:
    """It ends on the bits of a run that was not cut, its best weights too; one that is done gives the same again."""
    start = nn.Sequential(Versioned(6, 8), nn.ReLU(), Versioned(8, 3))
    whole = copy.deepcopy(start)
    call: dict[str, Any] = {"epochs": 3, "progress": False, "batch_size": 16, "lr": 0.01, **options}
    fit(whole, blobs(), **call)
    with pytest.raises(CrashError):
        fit(copy.deepcopy(start), blobs(), **call, checkpoint=tmp_path, checkpoint_every=1, callbacks=[CrashAt(5)])
    for _ in range(2):
        resumed = copy.deepcopy(start)
        fit(resumed, blobs(), **call, checkpoint=tmp_path, checkpoint_every=1)
        assert equal(resumed, whole)


@pytest.mark.parametrize("compiled", [False, True])
def test_plain_state_keeps_versions_whatever_is_compiled(compiled: bool) -> None:
    """A part that is compiled now takes the state of one that was not, and the other way round."""
    source, target = nn.Sequential(Versioned()), nn.Sequential(Versioned())
    inner: Any = torch.compile(Versioned())
    (target if compiled else source)[0] = inner
    state: Any = plain_state(source)
    assert state._metadata["0"] == {"version": 2}
    for given in (state, dict(state)):  # the latter as checkpoints had it before
        nn.init.zeros_(next(target.parameters()))
        load_plain_state(target, given)
        assert all(torch.equal(value, state[name]) for name, value in plain_state(target).items())
    state._metadata["0"]["version"] = 1  # positive control
    load_plain_state(target, state)
    assert torch.equal(plain_state(target)["0.weight"], state["0.weight"] * 2)


class Clamping(nn.Linear):
    """A layer that clamps its weight when it was loaded."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        register: Any = self.register_load_state_dict_post_hook
        register(self.clamp)

    def clamp(self, *_args: Any) -> None:
        self.weight.data.clamp_(-0.1, 0.1)


class Swapping(nn.Module):
    """Two parameters of one shape, that it loads the wrong way round."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.zeros(2))

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        return super().load_state_dict({"a": state_dict["b"], "b": state_dict["a"]}, strict, assign)


class Doubling(nn.Linear):
    """A layer that doubles what it is given, in its place."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        register: Any = self.register_load_state_dict_pre_hook
        register(lambda module, state, prefix, *args: state[f"{prefix}weight"].mul_(2))


@pytest.mark.parametrize("make", [Clamping, Swapping, Doubling])
@pytest.mark.parametrize("load", ["load", "load_state", "pickle"])
@pytest.mark.usefixtures("registered")
def test_code_that_changes_what_it_loads_is_noticed(make: type[nn.Module], load: str, tmp_path: Path) -> None:
    """What is compared is what the file has, not what the code made of it; the model stays as it was."""
    models.register("own")(make)
    source, target = make(), make()
    path = tmp_path / ("m.pt" if load == "pickle" else "m.safetensors")
    torch.save(source.state_dict(), path) if load == "pickle" else io.save(source, path)
    before = copy.deepcopy(target.state_dict())
    with pytest.raises(io.CheckpointError, match=r"is not as in the file after loading.*own code") as caught:
        io.load(path) if load == "load" else io.load_state(target, path)
    assert caught.value.reason == "mismatch"
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


class Batchwise(nn.Module):
    """A layer that takes its shape from the first batch."""

    def __init__(self, out: int = 2) -> None:
        super().__init__()
        self.out = out
        self.layer = nn.LazyLinear(out)


class Keywords(nn.Module):
    """A layer whose size is an argument without a name."""

    def __init__(self, **kwargs: int) -> None:
        super().__init__()
        self.layer = nn.Linear(kwargs.get("size", 2), 2)


class Picky(nn.Linear):
    """A layer that changes its argument to what it does not take."""

    def __init__(self, size: int = 2) -> None:
        if size < 1:
            raise ValueError("size must be positive")
        super().__init__(size, 2)
        self.size = -size


def replaced() -> nn.Module:
    """A built-in model with another layer put in."""
    model = models.get_model("mlp", hidden=())
    model.extra = nn.Linear(1, 1)
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Batchwise, "this Batchwise again from its arguments: 'layer.weight' has no shape yet"),
        (lambda: Keywords(size=5), r"this Keywords again .*'layer.weight' has shape \(2, 5\), needs \(2, 2\)"),
        (Picky, "this Picky again from its arguments: size must be positive; store all that it depends on as arg"),
        (
            replaced,
            r"this MLP again from its arguments: unexpected 'extra.*or write the parameters alone with io.save_",
        ),
    ],
    ids=["lazy", "keywords", "picky", "replaced"],
)
@pytest.mark.filterwarnings("ignore:Lazy modules")
@pytest.mark.usefixtures("registered")
def test_what_could_not_be_loaded_is_not_saved(make: Callable[[], nn.Module], message: str, tmp_path: Path) -> None:
    """The model is made again from its arguments before anything is written; the generators do not notice."""
    for cls in (Batchwise, Keywords, Picky):
        models.register(cls.__name__.lower())(cls)
    model = make()
    if isinstance(model, Batchwise):
        model.layer(torch.zeros(1, 3))
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match=message):
        io.save(model, tmp_path / "m.safetensors")
    assert torch.equal(torch.get_rng_state(), before)
    assert not list(tmp_path.iterdir())
    io.save(Keywords(), tmp_path / "m.safetensors")  # what it leaves out does no harm
    assert isinstance(io.load(tmp_path / "m.safetensors"), Keywords)


@pytest.mark.parametrize("argument", ["name", "weights"])
def test_a_class_whose_arguments_cannot_be_given_is_not_registered(argument: str) -> None:
    """get_model has arguments of these names itself."""

    class Named(nn.Module):
        def __init__(self, name: str = "") -> None: ...

    class Weighted(nn.Module):
        def __init__(self, weights: str = "") -> None: ...

    with pytest.raises(ValueError, match=f"has an argument '{argument}', which get_model has too; rename it"):
        models.register("own")(Named if argument == "name" else Weighted)
    assert "own" not in models.list_models()
