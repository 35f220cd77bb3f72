"""Fixtures: small synthetic images, one finished two-layer sweep for all to look at, and train.py run in this process."""

import copy
import functools
import importlib
import logging
import os
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from hydra.core.hydra_config import HydraConfig

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared"
ARCHIVE = SHARED / "data" / "tiny-imagenet-200-part.zip"
TRAINED = SHARED / "encoders" / "alexnet-tiny-imagenet.pt"
needs_real_data = pytest.mark.skipif(not ARCHIVE.is_file(), reason=f"real Tiny ImageNet is not at {ARCHIVE}")
needs_trained_encoder = pytest.mark.skipif(not TRAINED.is_file(), reason=f"no trained encoder at {TRAINED}")

sys.path.insert(0, str(REPOSITORY))
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # the tests are for the CPU, and alike everywhere
yaml.SafeLoader = yaml.CSafeLoader  # twice as fast: Hydra reads conf/ three times a run
os.environ |= {f"WIDTH_{layer}": "32" for layer in ("fc6", "fc7", "fc8")}
NARROW = ['layer.compact.bottleneck="${oc.decode:${oc.env:WIDTH_${layer.name},null}}"', "layer.compact.members=1"]
"""A single decoder, for vectors with 32 hidden units instead of 1024: its checkpoints are a hundredth as large."""


@dataclass(frozen=True)
class Outcome:
    code: int
    """The exit code."""
    said: str
    """What was printed, and the error's text."""


def run_train(*arguments: str) -> Outcome:
    """`python train.py <arguments>` in this process, without its start-up time."""
    import train

    return run_command("train.py", train.command, arguments)


def experiment(name: str) -> ModuleType:
    """experiments/<name>.py."""
    return importlib.import_module(f"experiments.{name}")


def run_experiment(name: str, *arguments: str) -> Outcome:
    """`python experiments/<name>.py <arguments>` in this process. What it prints goes to stdout, and is not in the outcome."""
    from inversion.launch import command_line

    return run_command(f"{name}.py", lambda: command_line.run(getattr(experiment(name), name), name), arguments)


def run_command(program: str, command: Callable[[], None], arguments: Sequence[str]) -> Outcome:
    """`python <program> <arguments>` in this process, where `command` is what the program does."""
    before = sys.argv
    sys.argv = [program, *arguments]
    try:
        with _logging_put_back():
            command()
    except SystemExit as error:
        if isinstance(error.code, str):
            return Outcome(1, error.code)
        return Outcome(error.code or 0, "")
    finally:
        sys.argv = before
        HydraConfig.instance().cfg = None  # ${hydra:...} in a later test would still find it
    return Outcome(0, "")


@contextmanager
def _logging_put_back() -> Iterator[None]:
    """Hydra logs to a file in the run's folder, and would go on to when the test and its folder are gone."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        for handler in set(root.handlers) - set(handlers):
            handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)


@pytest.fixture(scope="session")
def synthetic_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made images in Tiny ImageNet's layout: 20 classes of 6 train and 2 test images."""
    from inversion.data import synthetic

    root = tmp_path_factory.mktemp("data") / "made"
    synthetic.provide(root, train_per_class=6, test_per_class=2, seed=0)
    return root


@pytest.fixture
def own_copy(synthetic_root: Path, tmp_path: Path) -> Path:
    """A copy of the synthetic images in the official layout of Tiny ImageNet, to be rearranged."""
    root = shutil.copytree(synthetic_root, tmp_path / "copy" / "tiny-imagenet-200")
    (root / ".synthetic.json").unlink()
    return root


@pytest.fixture(scope="session")
def archive(synthetic_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zip of synthetic images in the official layout, with test images as the official one has."""
    path = tmp_path_factory.mktemp("archive") / "tiny-imagenet-200.zip"
    with zipfile.ZipFile(path, "w") as file:
        for source in sorted(synthetic_root.rglob("*")):
            file.write(source, f"tiny-imagenet-200/{source.relative_to(synthetic_root)}")
        file.writestr("tiny-imagenet-200/test/images/test_0.JPEG", b"not needed")
    return path


@pytest.fixture(scope="session")
def drawn_once() -> Iterator[None]:
    """Random encoders are copies of one: to draw an AlexNet's weights takes longer than much of a small run."""
    from inversion.encoders import alexnet

    draw = functools.cache(alexnet.random_alexnet)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alexnet, "random_alexnet", lambda seed: copy.deepcopy(draw(seed)))
        yield


@pytest.fixture(scope="session")
def quick(synthetic_root: Path, tmp_path_factory: pytest.TempPathFactory, drawn_once: None) -> list[str]:
    """Options that make a run small: 3 classes of 4 train, 2 val and 2 test images, an untrained encoder, 2 epochs. Test
    images are scored in `sweep` alone.
    """
    return [
        f"data.root={synthetic_root}",
        f"data.cache={tmp_path_factory.mktemp('cache')}",
        "data.classes=3",
        "data.val_per_class=2",
        "data.batch_size=4",
        "encoder.weights=random",
        *NARROW,
        "test=false",
        "trainer.max_epochs=2",
        "trainer.accelerator=cpu",
    ]


@pytest.fixture(scope="session")
def sweep(quick: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished sweep over conv5 and fc8."""
    folder = tmp_path_factory.mktemp("sweep") / "out"
    outcome = run_train("-m", "layer=conv5,fc8", *quick, "test=true", f"hydra.sweep.dir={folder}")
    assert outcome == Outcome(0, "")
    return folder


@pytest.fixture(scope="session")
def subject(sweep: Path) -> Any:
    """What a study of the sweep's runs looks at: their validation images."""
    from inversion.studies.subject import Subject

    return Subject(str(sweep), "val", device="cpu")


@pytest.fixture(scope="session")
def images() -> Any:
    """Six images of noise, (6, 3, 32, 32) in [0, 1]."""
    import torch

    return torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def one_line() -> Callable[[str], str]:
    """Checks that an error's text is one sentence on one line, and gives it back."""

    def check(text: str) -> str:
        assert "\n" not in text.strip()
        assert "Traceback" not in text
        assert text.rstrip().endswith((".", "?"))
        return text

    return check
