"""`hub.load_dcgan`: the GAN zoo's checkpoints give the bits they gave there, and nothing of theirs is run."""

from __future__ import annotations

import copy
import pickle
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import torchbasics
from tests import pickles as pk
from tests.gan_zoo import CHANNELS, NOISE, Zoo, images_of, noise_of_the_zoo
from tests.helpers import equal
from torchbasics import _safetensors, hub, io

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "DCGAN.pth"


@pytest.mark.parametrize("legacy", [True, False], ids=["legacy", "zip"])
@pytest.mark.parametrize("loss", ["DCGAN", "MSE", "WGANGP", "Logistic"])
@pytest.mark.parametrize("labels", [True, False], ids=["labels", "no labels"])
def test_the_two_calls_of_the_tutorial_give_the_bits_of_upstream(
    path: Path, legacy: bool, loss: str, labels: bool
) -> None:
    """Noise, labels and images, from the same seeds, are torch.equal; so is the average network."""
    zoo = Zoo(path, labels=labels, loss=loss)
    model = hub.load_dcgan(zoo.write(legacy=legacy))
    drawn = []
    builds: list[Callable[[], Any]] = [lambda: noise_of_the_zoo(5, labels), lambda: model.buildNoiseData(5)]
    for build in builds:
        torch.manual_seed(3)
        np.random.seed(3)  # noqa: NPY002
        drawn.append(build())
    (noise, targets), (own, own_targets) = drawn
    assert torch.equal(own, noise)
    assert own_targets is targets is None or torch.equal(own_targets, targets)

    for n in (5, 1):
        assert torch.equal(model.test(own[:n]), zoo.net(noise[:n]).detach())
        assert torch.equal(model.test(own[:n], getAvG=True), zoo.average(noise[:n]).detach())
    assert torch.equal(model.test(own[..., None, None], toCPU=False), zoo.net(noise).detach())
    assert not torch.equal(model.test(own), model.test(own, getAvG=True))


@pytest.mark.parametrize("loss", ["DCGAN", "MSE", "WGANGP", "Logistic"])
@pytest.mark.parametrize("labels", [True, False], ids=["labels", "no labels"])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_images_are_those_of_plain_functions(path: Path, loss: str, labels: bool, n: int) -> None:
    """Of both networks, with tanh or linear, with and without labels: torch.equal."""
    zoo = Zoo(path, labels=labels, loss=loss)
    model = hub.load_dcgan(zoo.write())
    noise, _ = model.buildNoiseData(n)
    bounded = loss in ("DCGAN", "MSE")

    for net, average in ((zoo.net, False), (zoo.average, True)):
        wanted = images_of(net.state_dict(), noise, bounded)
        assert torch.equal(model.test(noise, getAvG=average), wanted)
        assert torch.equal(net(noise), wanted)
    assert not bounded or model.test(noise).abs().max() <= 1


def test_running_statistics_would_give_other_images(path: Path) -> None:
    """Positive control: the reference in eval mode is not what upstream shows."""
    zoo = Zoo(path)
    model = hub.load_dcgan(zoo.write())
    noise, _ = model.buildNoiseData(4)

    assert not torch.equal(model.test(noise), zoo.net.eval()(noise).detach())


def test_neither_modes_nor_calls_change_what_it_gives(path: Path) -> None:
    """No statistics are kept: the same noise gives the same images, in train and in eval mode."""
    model = hub.load_dcgan(Zoo(path).write())
    noise, _ = model.buildNoiseData(4)
    first = model.train().test(noise)

    assert torch.equal(model.eval().test(noise), first)
    assert torch.equal(model.test(noise), first)
    assert not first.requires_grad
    assert model(noise).requires_grad
    assert not any("running" in name for name in model.state_dict())


def test_which_names_the_network_of_forward_sample_and_test(path: Path) -> None:
    """getAvG=True is always the average."""
    zoo = Zoo(path)
    net, average = (hub.load_dcgan(zoo.write(), which=which) for which in ("netG", "avgG"))
    noise, _ = net.buildNoiseData(4)

    assert torch.equal(average.test(noise), net.test(noise, getAvG=True))
    assert torch.equal(average(noise), average.test(noise, getAvG=True))
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    assert average.sample(6).shape == (6, CHANNELS, 32, 32)


def test_labels_can_be_given(path: Path) -> None:
    """They come back as they were, and stand as one-hot vectors behind the noise, in the checkpoint's order."""
    model = hub.load_dcgan(Zoo(path).write())
    labels = torch.tensor([[1, 2], [0, 0]])

    noise, targets = model.buildNoiseData(2, labels)

    assert targets is not None
    assert torch.equal(targets, labels)
    assert noise[:, NOISE:].tolist() == [[0, 1, 0, 0, 1], [1, 0, 1, 0, 0]]
    assert model.attributes == {
        "gender": ["b'Men'", "b'Women'"],
        "pose": ["id_gridfs_1", "id_gridfs_2", "id_gridfs_3"],
    }


@pytest.mark.parametrize(
    "labels",
    [{}, {"gender": "b'Women'"}, {"pose": "id_gridfs_2"}, {"pose": "id_gridfs_3", "gender": "b'Men'"}],
    ids=str,
)
def test_constraints_are_those_of_upstream(path: Path, labels: dict[str, str]) -> None:
    """buildNoiseDataWithConstraints, from the same seeds, against its description: given ones fixed, others drawn."""
    model = hub.load_dcgan(Zoo(path).write())
    own, wanted = (
        seeded_run(f) for f in (lambda: model.buildNoiseDataWithConstraints(6, labels), lambda: described(labels))
    )

    assert own.shape == (6, NOISE + 5, 1, 1)
    assert torch.equal(own, wanted)
    assert torch.equal(model.test(own), model.test(own[..., 0, 0]))


def described(labels: dict[str, str]) -> Tensor:
    parts = []
    for name, values in (("gender", ["b'Men'", "b'Women'"]), ("pose", [f"id_gridfs_{i}" for i in (1, 2, 3)])):
        part = torch.zeros(6, len(values), 1, 1)
        drawn = [values.index(labels[name])] * 6 if name in labels else np.random.randint(0, len(values), 6)  # noqa: NPY002
        part[torch.arange(6), torch.as_tensor(drawn)] = 1
        parts.append(part)
    return torch.cat([torch.randn(6, NOISE, 1, 1), *parts], 1)


def seeded_run(call: Callable[[], Tensor]) -> Tensor:
    torch.manual_seed(4)
    np.random.seed(4)  # noqa: NPY002
    return call()


def test_sample_takes_labels_by_their_plain_names(path: Path) -> None:
    """'Men' stands for "b'Men'"; the images are those of the same noise with the same one-hot vectors."""
    zoo = Zoo(path)
    model = hub.load_dcgan(zoo.write())
    wanted = {"gender": "Men", "pose": "id_gridfs_2"}

    images = model.sample(4, generator=torch.Generator().manual_seed(7), labels=wanted)

    noise = torch.randn(4, NOISE, generator=torch.Generator().manual_seed(7))
    one_hot = torch.tensor([[1.0, 0, 0, 1, 0]]).expand(4, 5)
    assert torch.equal(images, zoo.net(torch.cat([noise, one_hot], 1)).detach())
    other = model.sample(4, generator=torch.Generator().manual_seed(7), labels={**wanted, "gender": "Women"})
    assert not torch.equal(images, other)


def test_sample_with_a_generator_leaves_the_global_ones_alone(path: Path) -> None:
    """All of it is drawn from the one given; without one, it is buildNoiseData and test."""
    model = hub.load_dcgan(Zoo(path).write())
    before, numbers = torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
    one, again = (model.sample(5, generator=torch.Generator().manual_seed(3)) for _ in range(2))

    assert torch.equal(one, again)
    assert torch.equal(torch.get_rng_state(), before)
    assert str(np.random.get_state()) == numbers  # noqa: NPY002
    assert torch.equal(seeded_run(lambda: model.sample(5)), seeded_run(lambda: model.test(model.buildNoiseData(5)[0])))


def test_a_seed_is_no_generator(path: Path) -> None:
    with pytest.raises(TypeError, match=r"^generator must be a torch.Generator or None, got 3; torch"):
        hub.load_dcgan(Zoo(path).write()).sample(5, generator=3)  # type: ignore[arg-type]  # the mistake


def test_loading_takes_no_random_numbers(path: Path) -> None:
    """The global generator is as before."""
    written = Zoo(path).write()
    before = torch.get_rng_state()
    hub.load_dcgan(written)

    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("labels", [True, False], ids=["labels", "no labels"])
def test_a_converted_file_needs_no_pickle(path: Path, labels: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """save_dcgan writes safetensors; load_dcgan of it gives the same bits for both networks, and never unpickles."""
    model = hub.load_dcgan(Zoo(path, labels=labels, loss="WGANGP").write())
    converted = path.with_suffix(".safetensors")
    hub.save_dcgan(model, converted)
    monkeypatch.setattr(torch, "load", None)

    same = hub.load_dcgan(converted, which="avgG")

    assert equal(same, model)
    assert (same.noise_dim, same.loss, same.attributes) == (model.noise_dim, model.loss, model.attributes)
    noise, _ = model.buildNoiseData(3)
    assert torch.equal(same.test(noise), model.test(noise, getAvG=True))
    first = converted.read_bytes()
    hub.save_dcgan(same, converted)
    assert converted.read_bytes() == first
    assert io.inspect(converted)["metadata"]["gan_zoo"]["noise_dim"] == NOISE


def test_a_converted_file_is_read_strictly(path: Path) -> None:
    """A flipped bit, another safetensors file and another ending are refused."""
    model = hub.load_dcgan(Zoo(path).write())
    converted = path.with_suffix(".safetensors")
    hub.save_dcgan(model, converted)
    content = bytearray(converted.read_bytes())
    content[-5] ^= 1
    converted.write_bytes(content)
    with pytest.raises(io.CheckpointError, match="digest does not match"):
        hub.load_dcgan(converted)
    io.save_state(nn.Linear(2, 2), converted)
    with pytest.raises(io.CheckpointError, match=r"is no file of hub.save_dcgan; give one, or a GAN-zoo .pth") as e:
        hub.load_dcgan(converted)
    assert e.value.reason == "unsupported"
    with pytest.raises(ValueError, match=r"path must end in .safetensors, got '.*DCGAN.pth'"):
        hub.save_dcgan(model, path)


@pytest.mark.parametrize("how", ["half", "bfloat16", "double", "compiled", "compiled part", "parallel"])
def test_a_model_that_was_converted_or_wrapped_comes_back(how: str, path: Path) -> None:
    """In its own precision, by the names it has without a wrapper."""
    model: Any = hub.load_dcgan(Zoo(path).write())  # on a GPU where there is one, as DataParallel wants it
    converted, given = path.with_suffix(".safetensors"), model
    if how in ("half", "bfloat16", "double"):
        model.to(getattr(torch, how))
    elif how == "compiled":
        given = torch.compile(model)
    elif how == "parallel":
        given = nn.DataParallel(model)
    expected = copy.deepcopy(model)
    if how == "compiled part":
        model.netG = torch.compile(model.netG)
    hub.save_dcgan(given, converted)
    same = hub.load_dcgan(converted)
    assert equal(same, expected.to(next(same.parameters()).device))
    assert same.netG.formatLayer.weight.dtype == expected.netG.formatLayer.weight.dtype


def test_a_model_that_could_not_be_loaded_is_not_saved(path: Path) -> None:
    """Values that are not finite, and another dtype, are named; the file that is there stays."""
    model = hub.load_dcgan(Zoo(path).write())
    converted = path.with_suffix(".safetensors")
    hub.save_dcgan(model, converted)
    before = converted.read_bytes()
    nn.init.constant_(model.avgG.formatLayer.weight, torch.nan)
    with pytest.raises(ValueError, match=r"load_dcgan could not read what .* not finite in 'formatLayer.weight'"):
        hub.save_dcgan(model, converted)
    model = hub.load_dcgan(path).to(torch.float8_e5m2)
    with pytest.raises(ValueError, match=r"load_dcgan could not read what .* has dtype torch.float8_e5m2, needs"):
        hub.save_dcgan(model, converted)
    assert converted.read_bytes() == before


@pytest.mark.parametrize("text", ["[" * 100_000, "null", "{", '{"gan_zoo": []}'], ids=["deep", "null", "cut", "list"])
def test_metadata_of_any_other_kind_is_refused(text: str, path: Path) -> None:
    """Brackets without end, no object, no JSON: none of them brings down the process."""
    fields = {"kind": "state", "model": "", "config": "{}", "history": "null", "metadata": text}
    _safetensors.write(path.with_suffix(".safetensors"), {"a": torch.ones(1)}, fields)
    with pytest.raises(io.CheckpointError, match=r"is no file of hub.save_dcgan") as caught:
        hub.load_dcgan(path.with_suffix(".safetensors"))
    assert caught.value.reason == "unsupported"


def test_it_can_be_copied_and_pickled(path: Path) -> None:
    """It is an ordinary module."""
    model = hub.load_dcgan(Zoo(path).write())

    assert equal(copy.deepcopy(model), model)
    assert equal(pickle.loads(pickle.dumps(model)), model)


def test_a_checkpoint_without_average_or_with_a_dict_is_read_as_upstream_does(path: Path) -> None:
    """The average is then the network itself."""
    model = hub.load_dcgan(Zoo(path).write(as_dict=True, without="avgG"))

    assert equal(model.netG, model.avgG)
    assert not any(p.requires_grad for p in model.avgG.parameters())


def test_a_checkpoint_that_a_gpu_wrote_is_read_without_one(path: Path) -> None:
    """As the published file, of torch 1.0, may be: its storages say cuda:0, and go to the CPU."""
    zoo = Zoo(path)
    content = zoo.write(legacy=True).read_bytes()
    name, other = (b"X" + len(n).to_bytes(4, "little") + n for n in (b"cpu", b"cuda:0"))
    assert name in content
    path.write_bytes(content.replace(name, other))

    noise, _ = (model := hub.load_dcgan(path)).buildNoiseData(2)

    assert torch.equal(model.test(noise), zoo.net(noise).detach())


@pytest.mark.parametrize("device", ["cpu", "auto", torch.device("cpu")], ids=["name", "auto", "device"])
def test_the_device_is_chosen(path: Path, device: Any) -> None:
    """It stands for upstream's useGPU."""
    model = hub.load_dcgan(Zoo(path).write(), device=device)
    wanted = torchbasics.device(device).type

    assert model.test(model.buildNoiseData(2)[0], toCPU=False).device.type == wanted
    assert model.sample(2).device.type == "cpu"


def test_the_device_is_a_gpu_where_there_is_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default, as "auto" says."""
    monkeypatch.setattr("torchbasics._env.device", lambda name: {"auto": torch.device("meta")}[name])

    model = hub.load_dcgan(Zoo(path).write())

    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_the_default_device_of_torch_is_no_matter(path: Path) -> None:
    """Under ``torch.device("meta")``, which makes tensors without values, the weights are read."""
    model = hub.load_dcgan(Zoo(path).write())
    with torch.device("meta"):
        same = hub.load_dcgan(path, device="cpu")

    assert equal(same, model)


@pytest.fixture(autouse=True)
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bits are compared with those of the CPU."""
    monkeypatch.setattr("torchbasics._env._accelerators", list)


class Runs:
    """Runs code when unpickled."""

    def __reduce__(self) -> Any:
        return print, ("run",)


def write(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def pickled(path: Path, **config: bytes) -> Path:
    return pk.write_zip(path, pk.dictionary(config=pk.dictionary(**config), netG=b"}"))


REFUSED: dict[str, tuple[Any, str, str]] = {
    "code": (lambda p: Zoo(p).write(tmp=Runs()), "unsafe", r"asks to run \S*print, which no"),
    "plain state": (lambda p: write(p, nn.Linear(2, 2).state_dict()), "unsupported", "has 'weight', 'bias', not 'config' and 'netG'"),
    "a tensor": (lambda p: write(p, torch.zeros(2)), "unsupported", "it has Tensor, not 'config'"),
    "text": (lambda p: p.write_text("hello") and p, "not-a-checkpoint", "is (nothing|no state_dict) that torch can read"),
    "nothing": (lambda p: p.write_text("") or p, "truncated", "is (nothing that torch can read|empty)"),
    "plain pickle": (lambda p: p.write_bytes(pickle.dumps(3)) and p, "not-a-checkpoint", "is (nothing|no state_dict) that torch can read"),
    "a folder": (lambda p: p.mkdir() or p, "not-a-checkpoint", "is no regular file"),
    "loss": (lambda p: Zoo(p, loss="Hinge").write(), "unsupported", "lossCriterion='Hinge'; needed: a number, one of"),
    "noise": (lambda p: Zoo(p, noiseVectorDim="7").write(), "unsupported", "noiseVectorDim='7'"),
    "noise length": (lambda p: Zoo(p, noiseVectorDim=9).write(), "mismatch", "a generator of 12 inputs, but its configuration tells of 14"),
    "attributes": (lambda p: Zoo(p, attribKeysOrder={"a": 3}).write(), "unsupported", "has attribKeysOrder=dict, which is no table"),
    "order is a tensor": (lambda p: Zoo(p, attribKeysOrder={"a": {"order": torch.zeros(2), "values": ["b"]}}).write(), "unsupported", "which is no table of labels"),
    "attributes are a list": (lambda p: Zoo(p, attribKeysOrder=["a"]).write(), "unsupported", "attribKeysOrder=list, which is no"),
    "configuration": (lambda p: Zoo(p).write(config=3), "unsupported", "noiseVectorDim=None"),
    "order": (lambda p: Zoo(p, attribKeysOrder={"a": {"order": 4, "values": []}}).write(), "unsupported", "numbers its attributes 4, not from 0"),
    "other network": (lambda p: Zoo(p).write(netG=nn.Linear(2, 2).state_dict()), "unsupported", "holds no generator of the GAN zoo's DCGAN"),
    "network of nothing": (lambda p: Zoo(p).write(netG=3), "unsupported", "holds no generator"),
    "a number": (lambda p: Zoo(p).write(netG={"formatLayer.weight": 3}), "unsafe", "holds 'formatLayer.weight', which is no plain dense tensor"),
    "a bomb": (lambda p: Zoo(p).write(netG={"formatLayer.weight": torch.zeros(1).expand(9, 9, 9, 9)}), "unsafe", "no plain dense tensor"),
    "no values": (lambda p: Zoo(p, attribKeysOrder={"a": {"order": 0, "values": []}}).write(), "unsupported", "gives its label 'a' the values list, which are no list of"),
    "objects as values": (lambda p: Zoo(p, attribKeysOrder={"a": {"order": 0, "values": [None]}}).write(), "unsupported", "the values list, which are no"),
    "another width": (lambda p: Zoo(p).write(netG={"formatLayer.weight": torch.zeros(12, 7, 4, 4), "main.outlayer.weight": torch.zeros(4, 3, 4, 4)}), "unsupported", "its widths are 7 and 4"),
    "a network of 137 GB": (lambda p: Zoo(p).write(netG={"formatLayer.weight": torch.zeros(12, 2**16, 1, 1), "main.convTranspose1.weight": torch.zeros(1), "main.outlayer.weight": torch.zeros(2**15, 1, 1, 1)}), "mismatch", "does not fit Generator: .*'formatLayer.weight' has shape"),
    "sparse": (lambda p: Zoo(p).write(netG={"formatLayer.weight": torch.eye(3).to_sparse()}), "unsafe", "no plain dense tensor"),
    "another dtype": (lambda p: Zoo(p).write(avgG={k: v.double() for k, v in Zoo(p).net.state_dict().items()}), "mismatch", "has dtype torch.float64, needs torch.float32"),
    "not finite": (lambda p: Zoo(p).write(avgG={k: v / 0 if k == "main.outlayer.weight" else v for k, v in Zoo(p).net.state_dict().items()}), "mismatch", "values that are not finite in 'main.outlayer.weight'; nothing was loaded"),
    "a web as labels": (lambda p: pickled(p, attribKeysOrder=pk.web(24)), "unsupported", "has attribKeysOrder=tuple, which is no"),
    "a web as loss": (lambda p: pickled(p, lossCriterion=pk.web(24)), "unsupported", "noiseVectorDim=None, lossCriterion=tuple;"),
    "a web as noise": (lambda p: pickled(p, noiseVectorDim=pk.web(24)), "unsupported", "noiseVectorDim=tuple, lossCriterion=None;"),
    "a web as values": (lambda p: pickled(p, lossCriterion=pk.text("MSE"), noiseVectorDim=b"K\x01", attribKeysOrder=pk.dictionary(a=pk.dictionary(order=b"K\x00", values=b"](" + pk.web(24) + b"e"))), "unsupported", "gives its label 'a' the values list, which"),
    "a long label": (lambda p: Zoo(p, attribKeysOrder={"a" * 10**6: {"order": 0, "values": []}}).write(), "unsupported", "gives its label 'a{80}...' the"),
    "many keys": (lambda p: write(p, {f"{i}": i for i in range(1000)}), "unsupported", "it has '0', .*, '7', 992 more, not 'config'"),
    "a state that is set again": (lambda p: pk.write_zip(p, pk.name("models.utils.config.BaseConfig") + b")\x81" + pk.dictionary(a=b"N") + b"q\x00b" + b"h\x00b"), "unsafe", "sets attributes of Made, which"),
    "missing key": (lambda p: Zoo(p).write(avgG={k: v for k, v in Zoo(p).net.state_dict().items() if "Norm1" not in k}), "mismatch", "does not fit Generator: missing 'main.batchNorm1.weight'"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_such_checkpoint_is_refused(case: str, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the reason; nothing in it was run."""
    make, reason, message = REFUSED[case]

    written = make(path)
    begin = time.process_time()
    with pytest.raises(io.CheckpointError, match=message) as e:
        hub.load_dcgan(written)
    assert time.process_time() - begin < 5  # seconds, of hundredths

    assert e.value.reason == reason
    assert len(str(e.value)) < 1000 + len(str(path))
    assert capsys.readouterr().out == ""


def test_mistakes_in_the_call_are_told(path: Path) -> None:
    """A path that is not there, and a network that is none."""
    with pytest.raises(
        FileNotFoundError, match=r"no file '.*DCGAN.pth'; give the path of a GAN-zoo checkpoint, or 'fashi"
    ):
        hub.load_dcgan(path)
    with pytest.raises(ValueError, match="unknown network 'avg'"):
        hub.load_dcgan(path, which="avg")  # type: ignore[call-overload]
    model = hub.load_dcgan(Zoo(path).write())
    with pytest.raises(ValueError, match="source='upstream' has neither weights nor which"):
        hub.load_dcgan(path, source="upstream")  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="unknown source 'upstraem'; did you mean 'upstream'"):
        hub.load_dcgan(path, source="upstraem")  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        model.buildNoiseData(0)
    with pytest.raises(ValueError, match=r"noise has shape \(2, 3\), but DCGAN\(latent_dim=12\) needs \(N, 12\)"):
        model.test(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"noise has shape \(2, 4, 3\), but DCGAN\(latent_dim=12\) needs"):
        model.test(torch.zeros(2, 4, 3))
    with pytest.raises(TypeError, match=r"noise has dtype torch.float64, but the weights have torch.float32"):
        model.test(torch.zeros(2, 12).double())


def test_mistakes_in_labels_are_told(path: Path) -> None:
    """Each names the nearest, or what there is."""
    model = hub.load_dcgan(Zoo(path).write())
    with pytest.raises(ValueError, match=r"unknown label 'gendr'; did you mean 'gender'\?"):
        model.sample(2, labels={"gendr": "Men"})
    with pytest.raises(ValueError, match=r"unknown value of 'gender' 'Woman'; did you mean 'Women'\?"):
        model.sample(2, labels={"gender": "Woman"})
    with pytest.raises(ValueError, match="unknown value of 'pose' 7; choose from 'id_gridfs_1', 'id_gridfs_2'"):
        model.buildNoiseDataWithConstraints(2, {"pose": 7})
    with pytest.raises(ValueError, match=r"inputLabels have shape \(2,\) of torch.int64, needed are integers \(2, 2\)"):
        model.buildNoiseData(2, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"inputLabels have shape \(1, 2\) of torch.float32"):
        model.buildNoiseData(1, torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"inputLabels are beyond the values, of which there are \[2, 3\]"):
        model.buildNoiseData(1, torch.tensor([[2, 0]]))
    plain = hub.load_dcgan(Zoo(path, labels=False).write())
    with pytest.raises(ValueError, match=r"this DCGAN knows no labels, got \{'gender': 'Men'\}; leave them out"):
        plain.sample(2, labels={"gender": "Men"})
