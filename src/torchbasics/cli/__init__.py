"""The command ``torchbasics``. Free of torch until a command that needs it runs."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import os
import select
import sys
import warnings
from typing import TYPE_CHECKING, Any, NoReturn

import torchbasics
from torchbasics import _zoo
from torchbasics.cli._options import add_data_options, add_recipe_options, share

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

EXAMPLES = """
torchbasics info --json
torchbasics info cnn                            # what is known of the pretrained weights
torchbasics list
torchbasics verify                              # the weights in the package are what their cards say
torchbasics reproduce cnn --root /usr/share/datasets   # train them again; minutes
torchbasics train cnn                           # on images in the package; saves to runs/cnn
torchbasics check cnn                           # mistakes in model and data, found in seconds
torchbasics train mlp --set hidden=64,32 --epochs 5 --lr 0.01
torchbasics train cnn --data fashion_mnist --root /usr/share/datasets/fashion-mnist --epochs 3
torchbasics train cnn --data photos --size 32   # photos/cat/1.jpg, photos/dog/1.jpg, ...
torchbasics train cnn --resume                  # goes on where Ctrl-C, a signal or a crash ended the last run
torchbasics evaluate runs/cnn/model.safetensors
torchbasics evaluate cnn --data fashion_mnist   # the pretrained one
torchbasics predict shoe.png --invert           # by the pretrained cnn
torchbasics predict runs/cnn/model.safetensors shoe.png
torchbasics generate -o grid.png                # by the pretrained dcgan
torchbasics generate runs/dcgan/model.safetensors -n 64 -o grid.png
torchbasics inspect runs/cnn/model.safetensors
torchbasics convert weights.pt weights.safetensors   # a state_dict of torch.save; nothing in it is run
torchbasics convert --key state_dict checkpoint.pt weights.safetensors
torchbasics export runs/cnn/model.safetensors cnn.pt2
torchbasics export cnn cnn.onnx                 # the pretrained one
"""

SAVED = "a file that train or io.save wrote, or the name of weights such as cnn or cnn/fashion_mnist"

# What a user can cause: told in one line. Anything else is our fault, and shown with its traceback.
MISTAKES = (ValueError, TypeError, OSError, ImportError, ArithmeticError)


class Parser(argparse.ArgumentParser):
    """A parser that tells a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        """Print *message* and the way to the help, and exit with 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with *arguments*, by default those of the process.

    Returns:
        0; 2 after a mistake of the user, told in one line on stderr; 130 after Ctrl-C; 141 where nobody
        reads stdout any more.

    Raises:
        SystemExit: training was ended by a signal: 130 after Ctrl-C, 143 after SIGTERM; or a wrong argument: 2.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # rather a ? than no answer where a sign cannot be written
    with warnings.catch_warnings(record=True) as told:  # of packages whose models cannot be listed
        warnings.simplefilter("always")
        parser = make_parser()
    for warning in told:
        print(f"torchbasics: {warning.message}", file=sys.stderr)
    args = parser.parse_args(arguments)
    args.line = list(sys.argv[1:] if arguments is None else arguments)
    try:
        # With --json, stdout is for the one object; the progress of training goes to stderr, other words nowhere.
        aside = sys.stderr if args.command == "train" else io.StringIO()
        with contextlib.redirect_stdout(aside if args.json else sys.stdout):
            report = importlib.import_module(f"torchbasics.cli._{args.command}").run(args)
        if args.json and report is not None:  # of torchrun's processes one prints
            print(json.dumps(report))  # indented, lists in lists of a file would be a thousand times as long
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt:
        print("torchbasics: interrupted", file=sys.stderr)
        return 130
    except Exception as e:
        if isinstance(e, BrokenPipeError) and _unread():
            return 141
        # Another process under torchrun has failed (training.DistributedError, which only torch could import).
        if not isinstance(e, MISTAKES) and type(e).__name__ != "DistributedError":
            raise
        print(f"torchbasics {args.command}: {' '.join(str(e).split())}", file=sys.stderr)
        return 2
    return 0


def _unread() -> bool:
    """Tell whether nobody reads stdout any more, as after ``| head``, and let go of what is still to be written."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), select.POLLOUT)
    except (AttributeError, OSError, ValueError):  # Windows has no poll, and not every stdout is a file
        return False
    if not any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains as it ends
    return True


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command and its subcommands."""
    layout: Any = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    text = "Train, evaluate and use small models."
    parser = Parser("torchbasics", description=text, epilog=_examples(""), **layout)
    parser.add_argument("--version", action="version", version=f"torchbasics {torchbasics.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (text, add_options) in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text, epilog=_examples(name), **layout)
        command.add_argument("--json", action="store_true", help="print one JSON object on stdout")
        add_options(command)
    return parser


def _examples(command: str) -> str:
    lines = [line for line in EXAMPLES.split("\n") if line.startswith(f"torchbasics {command}")]
    return "\n  ".join(["examples:", *lines])


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="NAME", help=f"one of {', '.join(_zoo.list_models())}")
    command.add_argument(
        *("--set",), nargs="+", action="extend", default=[], metavar="NAME=VALUE",
        help="arguments of the model: --set hidden=64,32 dropout=0.1",
    )  # fmt: skip


def _add_info(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", nargs="?", metavar="NAME", help="a model, or its weights: cnn, cnn/fashion_mnist")


def _add_verify(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", nargs="?", metavar="NAME", help="a model, or its weights (default: all)")


def _add_reproduce(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", metavar="NAME", help="a model, for its default weights, or weights: cnn/fashion_mnist")
    command.add_argument("--root", metavar="FOLDER", help="where the files of the data are")
    command.add_argument("--seed", type=int, metavar="SEED", help="another one than the card's")
    command.add_argument("--out", metavar="FOLDER", help="where to save (default: runs/reproduce-MODEL-WEIGHTS)")
    command.add_argument("--long", action="store_true", help="four times the epochs: more accurate, of other bits")


def _add_check(command: argparse.ArgumentParser) -> None:
    _add_model(command)
    add_data_options(command)


def _add_train(command: argparse.ArgumentParser) -> None:
    _add_model(command)
    command.add_argument("--validation", type=share, metavar="SHARE", help="share of the training data to hold out")
    command.add_argument("--out", metavar="FOLDER", help="where to save (default: runs/NAME, runs/NAME-2, ...)")
    command.add_argument("--resume", action="store_true", help="go on with the run in --out, or the model's last one")
    add_data_options(command)
    add_recipe_options(command)


def _add_evaluate(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", metavar="MODEL", help=SAVED)
    command.add_argument("--batch-size", type=int, metavar="N", help="samples of a forward pass")
    add_data_options(command)


def _add_predict(command: argparse.ArgumentParser) -> None:
    text = f"PNG or JPEG files of any size; in front of them a model: {SAVED} (default: cnn)"
    command.add_argument("images", nargs="+", metavar="[MODEL] IMAGE", help=text)
    command.add_argument("--invert", action="store_true", help="swap dark and bright: for dark things on white")
    command.add_argument("--top", type=int, default=3, metavar="N", help="classes to show (default: 3)")
    command.add_argument("--device", default="auto", help="cpu, cuda, mps, ... (default: auto)")


def _add_inspect(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", metavar="FILE", help=".safetensors, .pt, .pth or .pkl")


def _add_generate(command: argparse.ArgumentParser) -> None:
    text = "a file that train or io.save wrote, or the name of weights (default: dcgan)"
    command.add_argument("file", nargs="?", default="dcgan", metavar="MODEL", help=f"what draws images: {text}")
    command.add_argument(
        "-n", "--number", type=int, default=64, metavar="N", help="how many images, 1,000 at most (default: 64)"
    )
    command.add_argument("-o", "--out", required=True, metavar="PICTURE", help="where to write them, such as grid.png")
    command.add_argument("--seed", type=int, default=0, metavar="SEED", help="another one gives others (default: 0)")


def _add_convert(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", metavar="IN", help="a state_dict that torch.save wrote: .pt, .pth or .pkl")
    command.add_argument("out", metavar="OUT", help="the file to write: .safetensors, for io.load_state")
    command.add_argument("--key", metavar="KEY", help="where the state_dict is in a checkpoint, such as state_dict")


def _add_export(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", metavar="MODEL", help=SAVED)
    command.add_argument("out", metavar="OUT", help="the file to write: .pt2 (torch.export) or .onnx")


COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], object]]] = {
    "info": ("Show what there is to compute with, or what is known of pretrained weights.", _add_info),
    "list": ("List the models and their weights.", lambda command: None),
    "verify": ("Check the weights in the package: files, golden outputs, accuracy.", _add_verify),
    "reproduce": ("Train weights of the package again, as they were trained.", _add_reproduce),
    "check": ("Look for common mistakes before training: in the model, in the data.", _add_check),
    "train": ("Train a model, evaluate it and save it.", _add_train),
    "evaluate": ("Measure a saved model on the test part of the data.", _add_evaluate),
    "predict": ("Classify image files with a saved model.", _add_predict),
    "generate": ("Draw images with a saved model.", _add_generate),
    "inspect": ("Show what is in a model file; nothing in it is run.", _add_inspect),
    "convert": ("Turn a pickled state_dict into safetensors; nothing in it is run.", _add_convert),
    "export": ("Write a saved model for programs that do not have its code.", _add_export),
}
