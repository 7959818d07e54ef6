"""On a CUDA GPU: models, training, exact resume, files, the command line. Skipped where there is none."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torchmetrics
from torch import Tensor, nn

from tests.helpers import CrashAt, CrashError, Squares, blobs, equal, small_images
from torchbasics import _env, _weights, data, hub, io, models, training
from torchbasics.training import NonFiniteError, evaluate, fit, frechet_distance, predict

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU here")

CLASSIFIERS = [str(card) for card in _weights.all_cards() if "accuracy" in card.metrics]


@pytest.fixture(autouse=True)
def _of_all_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute convolutions in float32, not TF32, so that results compare with the CPU's; and the same at each run."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


def quiet(model: nn.Module, *arguments: Any, **options: Any) -> training.History:
    """Train without a word."""
    return fit(model, *arguments, **{"progress": False, "seed": 0, "batch_size": 5, **options})


def net(seed: int = 0) -> nn.Module:
    """Return a small net with all that has a state: batch norm, and dropout, which draws on the GPU."""
    torch.manual_seed(seed)
    return models.MLP(6, (16, 16), 3, batch_norm=True, dropout=0.3)


class Poisoned(Squares):
    """Blobs of which one sample has a value that is not finite."""

    def __init__(self, sample: int) -> None:
        self.inputs, self.targets = blobs(40)
        self.sample = sample

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.inputs[i] + (math.nan if i == self.sample else 0.0), self.targets[i]


def on_gpu(model: nn.Module) -> bool:
    """Whether all of a model is there."""
    return all(value.is_cuda for value in model.state_dict().values())


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_pretrained_models_answer_as_on_the_cpu(name: str) -> None:
    """Logits and accuracy of the packaged images."""
    model: Any = models.get_model(*name.split("/")[:1], weights=name.split("/")[1])
    _, test = data.fashion_mnist_mini()
    expected, measured = predict(model, test), evaluate(model, test)

    found = predict(model, test, device="cuda")
    assert found.device.type == "cpu"
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert evaluate(model, test, device="cuda")["accuracy"] == pytest.approx(measured["accuracy"], abs=2e-3)
    assert not any(value.is_cuda for value in model.state_dict().values()), "it stays where it was"


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_stacked_cells_compute_what_cudnn_does(cell: Any) -> None:
    """Outputs and gradients of StackedRNN, on the GPU, with the same weights."""
    ours: Any = models.StackedRNN(7, 9, 2, cell=cell, batch_first=True).cuda()
    kind: Any = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[cell]
    theirs = kind(7, 9, 2, batch_first=True).cuda()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(4, 5, 7, device="cuda")

    a, b = ours(x)[0], theirs(x)[0]
    torch.testing.assert_close(a, b)  # of float32
    a.square().sum().backward()
    b.square().sum().backward()
    other = dict(theirs.named_parameters())
    for key, mine in ours.named_parameters():
        torch.testing.assert_close(mine.grad, other[key].grad, rtol=1e-4, atol=1e-5)  # sums of 20


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fused": True},
        {"accumulate": 2, "batch_size": 8},
        {"clip_norm": 0.5},
        {"ema": 0.9},
        {"optimizer": "sgd", "lr": 0.1},
    ],
    ids=str,
)
def test_training_computes_what_it_does_on_the_cpu(options: dict[str, Any]) -> None:
    """The same batches, losses and weights, in float64."""
    inputs, targets = blobs()
    torch.manual_seed(0)
    here: Any = models.MLP(6, (16,), 3, batch_norm=True).double()
    there = copy.deepcopy(here)

    expected = quiet(here, inputs.double(), targets, epochs=3, validation=0.2, **options)
    found = quiet(there, inputs.double(), targets, epochs=3, validation=0.2, device="cuda", **options)

    assert on_gpu(there)
    for name in ("loss", "validation_loss", "validation_accuracy"):
        assert [row[name] for row in found] == pytest.approx([row[name] for row in expected], rel=1e-9)
    for key, value in here.state_dict().items():
        torch.testing.assert_close(there.state_dict()[key].cpu(), value, rtol=1e-8, atol=1e-8)


def cnn() -> nn.Module:
    """Return a CNN for `small_images`."""
    torch.manual_seed(0)
    return models.CNNModel(image_size=8, num_classes=4, channels=(8,), kernel_size=3, hidden=16, batch_norm=True)


def test_images_are_augmented_as_on_the_cpu() -> None:
    """The same shifts and flips, drawn by the same generator."""
    options: dict[str, Any] = {"epochs": 2, "batch_size": 20, "augment": ("flip", "shift1")}
    expected = quiet(cnn(), small_images(), **options)
    found = quiet(cnn(), small_images(), device="cuda", **options)

    assert [row["loss"] for row in found] == pytest.approx([row["loss"] for row in expected], rel=1e-3)


def test_a_cnn_learns_in_bfloat16() -> None:
    """With what makes it fast: it learns where the bright patch is."""
    model = cnn()
    quiet(model, small_images(200), epochs=8, batch_size=20, device="auto", precision="bfloat16", fused=True, ema=0.9)

    assert on_gpu(model)
    assert evaluate(model, small_images(40))["accuracy"] > 0.9


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("stop", [4, 17])
def test_a_run_that_crashed_ends_on_the_same_bits(precision: Any, fused: Any, stop: int, tmp_path: Path) -> None:
    """Dropout's generator on the GPU, optimizer, scaler and average of the weights go on as they were."""
    options: dict[str, Any] = {"precision": precision, "fused": fused, "epochs": 3, "ema": 0.9, "device": "cuda"}
    options["metrics"] = ["accuracy", "f1", torchmetrics.Accuracy("multiclass", num_classes=3)]
    histories = []

    def go(folder: Path, at: int) -> nn.Module:
        model = net()
        history = quiet(model, *blobs(), checkpoint=folder, checkpoint_every=3, callbacks=[CrashAt(at)], **options)
        histories.append([{**epoch, "seconds": 0} for epoch in history])
        return model

    whole = go(tmp_path / "whole", 0)
    with pytest.raises(CrashError):
        go(tmp_path / "crashed", stop)

    assert equal(go(tmp_path / "crashed", 0), whole)
    assert histories[0] == histories[1]


def test_without_the_gpus_generator_the_comparison_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Positive control: dropout draws there."""
    whole = net()
    quiet(whole, *blobs(), epochs=3, device="cuda")
    options: dict[str, Any] = {"epochs": 3, "device": "cuda", "checkpoint": tmp_path, "checkpoint_every": 3}
    with pytest.raises(CrashError):
        quiet(net(), *blobs(), callbacks=[CrashAt(17)], **options)

    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda *_: None)
    resumed = net()
    quiet(resumed, *blobs(), **options)

    assert not equal(resumed, whole)


def test_a_run_of_a_gpu_goes_on_elsewhere_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """On the CPU other bits come out."""
    with pytest.raises(CrashError):
        quiet(net(), *blobs(), epochs=2, device="cuda", checkpoint=tmp_path, callbacks=[CrashAt(14)])

    model = net()
    assert len(quiet(model, *blobs(), epochs=2, checkpoint=tmp_path)) == 2
    assert not on_gpu(model)
    assert "not to the same last bits: device was" in caplog.text


@pytest.mark.parametrize(
    "options", [{}, {"fused": True}, {"clip_norm": 1.0}, {"fused": True, "accumulate": 2}], ids=str
)
@pytest.mark.parametrize("sample", [2, 13, 39])
def test_a_poisoned_batch_is_named_and_changes_nothing(sample: int, options: dict[str, Any]) -> None:
    """A fused optimizer is told a step late, and skips its updates on the device meanwhile."""
    model = net().cuda()
    before: dict[int, nn.Module] = {0: copy.deepcopy(model)}

    class Keep:
        def on_step(self, state: training.State) -> None:
            before[state.step] = copy.deepcopy(model)

    options = {"shuffle": False, "epochs": 2, "callbacks": [Keep()], **options}
    size = 10 if "accumulate" in options else 5
    with pytest.raises(NonFiniteError, match=f"samples .*the inputs of samples \\[{sample}\\]") as caught:
        quiet(model, Poisoned(sample), batch_size=size, **options)

    assert caught.value.step == sample // size + 1
    assert equal(model, before[caught.value.step - 1])


def test_float16_learns() -> None:
    """Its updates are made, with the scale of torch's scaler."""
    model = net()
    history = quiet(model, *blobs(), epochs=20, batch_size=10, precision="float16", device="cuda")

    assert history[-1]["loss"] < 0.7 * history[0]["loss"]
    assert evaluate(model, *blobs(), precision="float16")["accuracy"] > 0.8


def test_workers_read_for_a_model_on_the_gpu() -> None:
    """The same samples as without."""
    found, expected = (quiet(net().cuda(), Squares(), epochs=1, workers=workers)[0] for workers in (1, 0))
    assert found["loss"] == expected["loss"]


def test_a_loss_and_a_metric_of_ones_own_go_to_the_gpu(tmp_path: Path) -> None:
    """With tensors of theirs, also after a crash within an epoch; the loss' weights of classes count."""

    class Right:
        def __init__(self) -> None:
            self.there: Any = 0  # on the GPU from the first batch on
            self.here = torch.zeros(())

        def update(self, outputs: Tensor, targets: Tensor) -> None:
            right = (outputs.argmax(1) == targets).sum()
            self.there += right
            self.here += right.cpu()

        def compute(self) -> float:
            assert float(self.there) == float(self.here)
            return float(self.here)

    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5]))

    def go(folder: Path, at: int, device: str = "cuda") -> Any:
        options: dict[str, Any] = {"metrics": {"own": Right()}, "checkpoint": folder, "checkpoint_every": 5}
        torch.manual_seed(0)
        model = models.MLP(6, (16,), 3, batch_norm=True).double()
        inputs, targets = blobs()
        given: dict[str, Any] = {"loss": loss.double(), "device": device, "callbacks": [CrashAt(at)], **options}
        return quiet(model, inputs.double(), targets, epochs=2, **given)

    whole = go(tmp_path / "whole", 0)
    with pytest.raises(CrashError):
        go(tmp_path / "crashed", 17)
    resumed = go(tmp_path / "crashed", 0)

    assert resumed[-1]["own"] == whole[-1]["own"]
    on_cpu = go(tmp_path / "cpu", 0, "cpu")
    assert [row["loss"] for row in whole] == pytest.approx([row["loss"] for row in on_cpu], rel=1e-9)
    assert loss.weight is not None
    assert loss.weight.device.type == "cpu", "one's own stays where it is"


def test_data_on_the_gpu_trains_a_model_wherever_it_is() -> None:
    """Tensors and images are used where they are, or brought."""
    inputs, targets = blobs()
    history = quiet(net(), inputs.cuda(), targets.cuda(), epochs=1)
    assert history[0]["loss"] == pytest.approx(quiet(net(), inputs, targets, epochs=1)[0]["loss"])

    images = small_images()
    there = data.Images(images.images.cuda(), images.targets.cuda())
    found, expected = (quiet(cnn().cuda(), given, epochs=1, batch_size=8)[0] for given in (there, images))
    assert found["loss"] == expected["loss"]


def test_a_gan_learns_and_goes_on(tmp_path: Path) -> None:
    """Two optimizers, noise drawn for the GPU; after a crash to the same bits."""
    images = torch.rand(40, 1, 16, 16)

    def go(folder: Path, at: int) -> Any:
        torch.manual_seed(0)
        gan = models.DCGAN(latent_dim=8, width=4, depth=1)
        quiet(gan, images, epochs=3, device="cuda", checkpoint=folder, checkpoint_every=5, callbacks=[CrashAt(at)])
        return gan

    whole = go(tmp_path / "whole", 0)
    with pytest.raises(CrashError):
        go(tmp_path / "crashed", 17)
    assert equal(go(tmp_path / "crashed", 0), whole)

    generator = torch.Generator().manual_seed(1)
    there = whole.sample(3, generator=generator)
    here = whole.cpu().sample(3, generator=generator.manual_seed(1))
    torch.testing.assert_close(there.cpu(), here, rtol=1e-4, atol=1e-4)


def test_a_file_of_a_model_on_the_gpu_is_loaded_on_the_cpu(tmp_path: Path) -> None:
    """Its bits are those of the same model on the CPU."""
    model = net().cuda()
    io.save(model, tmp_path / "gpu.safetensors")
    loaded = io.load(tmp_path / "gpu.safetensors")
    assert not any(value.is_cuda for value in loaded.state_dict().values())
    assert equal(loaded, model.cpu())

    io.save(model, tmp_path / "cpu.safetensors")
    assert (tmp_path / "gpu.safetensors").read_bytes() == (tmp_path / "cpu.safetensors").read_bytes()


def test_a_distance_is_the_one_of_the_cpu() -> None:
    """Of features on the GPU."""
    a, b = torch.randn(300, 8), torch.randn(300, 8) * 1.5 + 1
    assert frechet_distance(a.cuda(), b.cuda()) == pytest.approx(frechet_distance(a, b), rel=1e-6)


def test_the_other_calls_work_there() -> None:
    """find_lr, check, features, summary, predict."""
    model = net().cuda()
    search = training.find_lr(model, *blobs(), batch_size=10)
    assert search.suggestion > 0
    assert training.check(model, *blobs()) == []
    assert on_gpu(model)

    cnn: Any = models.get_model("cnn", weights="DEFAULT").cuda()
    images = torch.rand(2, 1, 28, 28, device="cuda")
    seen = models.features(cnn, "fc1")(images)
    assert seen.is_cuda
    assert "54,840" in str(models.summary(cnn, (2, 1, 28, 28)))
    labels: Tensor = predict(cnn, images.cpu()).argmax(1)
    assert labels.tolist() == cnn(images).argmax(1).tolist()


@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning")  # a hint of the compiler's
def test_a_compiled_run_learns() -> None:
    """By Triton's kernels."""
    model = net()
    history = quiet(model, *blobs(), epochs=8, compile=True, device="cuda", batch_size=10)
    assert history[-1]["loss"] < history[0]["loss"]


def test_the_commands_take_the_gpu_by_themselves(tmp_path: Path) -> None:
    """``torchbasics train``, ``evaluate`` and ``info``."""

    def run(*arguments: str) -> Any:
        command = [sys.executable, "-m", "torchbasics", *arguments, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
        return json.loads(done.stdout)

    assert run("info")["devices"][0]["name"] == torch.cuda.get_device_name(0)
    assert str(_env.device()) == "cuda"
    run("train", "cnn", "--data", "mini", "--epochs", "2", "--out", str(tmp_path / "run"))
    assert run("evaluate", str(tmp_path / "run" / "model.safetensors"), "--data", "mini")["accuracy"] > 0.6


def test_a_gan_of_the_hub_goes_to_the_gpu(tmp_path: Path) -> None:
    """As the tutorial's ``useGPU`` did."""
    networks = (models.DCGAN(latent_dim=8, width=4, depth=1).generator for _ in range(2))
    made = hub.PretrainedDCGAN(*networks, noise_dim=8, loss="DCGAN", attributes={})
    hub.save_dcgan(made, tmp_path / "gan.safetensors")
    gan = hub.load_dcgan(tmp_path / "gan.safetensors")

    assert on_gpu(gan)
    noise, _ = gan.buildNoiseData(4)
    assert gan.test(noise).shape == (4, 1, 16, 16)
    assert gan.sample(2).isfinite().all()
