"""experiments/train_encoder.py: what it learns from, what it leaves, that it goes on."""

import json
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from conftest import REPOSITORY, Outcome, run_experiment
from torch import nn
from torchvision.models import alexnet

from inversion.core.errors import InputError
from inversion.data.tiny_imagenet import read_split
from inversion.encoders.alexnet import Encoder
from inversion.training import classifier
from inversion.training.classifier import Classifier


def train_encoder(*arguments):
    return run_experiment("train_encoder", *arguments)


def narrow_alexnet(num_classes):
    """Hidden layers of 128 units instead of 4096: most of AlexNet's weights are there."""
    network = alexnet(num_classes=num_classes)
    for place, width in {1: (9216, 128), 4: (128, 128), 6: (128, num_classes)}.items():
        network.classifier[place] = nn.Linear(*width)
    return network


@pytest.fixture(scope="module", autouse=True)
def narrow():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier, "alexnet", narrow_alexnet)
        yield


@pytest.fixture(scope="module")
def options(synthetic_root, tmp_path_factory):
    return [
        f"data.root={synthetic_root}",
        f"data.cache={tmp_path_factory.mktemp('cache')}",
        "data.classes=3",
        "data.val_per_class=2",
        "data.batch_size=4",
        "trainer.accelerator=cpu",
        "trainer.precision=32-true",
    ]


@pytest.fixture(scope="module")
def trained(options, tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder") / "out"
    assert train_encoder(*options, "trainer.max_epochs=2", f"hydra.run.dir={folder}") == Outcome(0, "")
    return folder


def test_what_it_leaves(trained):
    metrics = json.loads((trained / "metrics.json").read_text())
    for part in ("val", "test"):
        assert 0 <= metrics[part]["top1"] <= 1 and metrics[part]["loss"] > 0
    assert metrics["epochs"] == 2 and len(metrics["classes"]) == 3
    state = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["epoch"] == 1 and state["global_step"] == 6


def test_its_weights_are_an_encoder(trained):
    weights = torch.load(trained / "alexnet.pt", weights_only=True)
    assert list(weights) == list(alexnet().state_dict())
    encoder = Encoder("conv5", str(trained / "alexnet.pt"))
    assert torch.equal(encoder.network[0].weight, weights["features.0.weight"])


def test_it_goes_on_where_it_was_cut(trained, options, tmp_path, capsys):
    """A checkpoint of its last epoch, but no result yet."""
    folder = tmp_path / "out"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last.ckpt").write_bytes((trained / "checkpoints" / "last.ckpt").read_bytes())
    assert train_encoder(*options, "trainer.max_epochs=2", f"hydra.run.dir={folder}") == Outcome(0, "")
    said = capsys.readouterr().out
    assert "Resuming from" in said and f"encoder.weights={folder / 'alexnet.pt'}" in said
    whole, again = (torch.load(path / "alexnet.pt", weights_only=True) for path in (trained, folder))
    assert all(torch.equal(whole[key], again[key]) for key in whole)  # it was at its end
    assert train_encoder(*options, "trainer.max_epochs=2", f"hydra.run.dir={folder}") == Outcome(0, "")
    assert "holds this run, finished" in capsys.readouterr().out


@pytest.mark.slow  # tests/launch/test_killed.py does the same to train.py
def test_killed_in_its_second_epoch_it_ends_as_if_it_was_not(trained, options, tmp_path, capsys):
    """Its dropout and crops are drawn again as they were."""
    program = REPOSITORY / "experiments" / "train_encoder.py"
    script = f"""
import os, runpy, signal, sys
sys.path[:0] = {[str(REPOSITORY / "tests"), str(REPOSITORY / "tests" / "training")]}
from inversion.training import classifier
from test_train_encoder import narrow_alexnet
classifier.alexnet = narrow_alexnet
Classifier = classifier.Classifier
step = Classifier.training_step
def deadly(self, batch, batch_idx):
    if self.trainer.current_epoch == 1 and batch_idx == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch, batch_idx)
Classifier.training_step = deadly
sys.argv[0] = {str(program)!r}
runpy.run_path({str(program)!r}, run_name="__main__")
"""
    arguments = [*options, "trainer.max_epochs=2", f"hydra.run.dir={tmp_path / 'out'}"]
    killed = subprocess.run([sys.executable, "-c", script, *arguments], cwd=REPOSITORY, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    outcome = train_encoder(*arguments)
    assert outcome == Outcome(0, ""), outcome.said
    assert "Resuming from" in capsys.readouterr().out
    whole, again = (torch.load(path / "alexnet.pt", weights_only=True) for path in (trained, tmp_path / "out"))
    assert all(torch.equal(whole[key], again[key]) for key in whole)


@pytest.mark.parametrize(
    ("option", "expected"), [("trainer.max_epochs=3", "trainer.max_epochs=2, not 3"), ("classifier.lr=1", "classifier.lr")]
)
def test_another_training_is_not_continued(trained, options, tmp_path, one_line, option, expected):
    folder = tmp_path / "out"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last.ckpt").write_bytes((trained / "checkpoints" / "last.ckpt").read_bytes())
    done = train_encoder(*options, "trainer.max_epochs=2", option, f"hydra.run.dir={folder}")
    assert done.code == 1 and expected in one_line(done.said)


def test_it_learns(synthetic_root):
    """A few images by heart."""
    from inversion.data.tiny_imagenet import TinyImageNet

    torch.manual_seed(0)
    data = TinyImageNet(str(synthetic_root), classes=2, val_per_class=2, batch_size=4)
    data.setup("fit")
    model = Classifier(2, "published", lr=3e-4, weight_decay=0.0, label_smoothing=0.0, smallest_crop=1.0)
    model.log = model.log_dict = lambda *arguments, **options: None
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    losses = []
    for _ in range(16):
        loss = model.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0], losses


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ({"smallest_crop": 0}, "smallest_crop"),
        ({"label_smoothing": 1}, "label_smoothing"),
        ({"classes": 1}, "at least 2"),
        ({"lr": -1}, "classifier.lr=-1"),
    ],
)
def test_impossible_options_are_refused(option, expected, one_line):
    options = {
        "classes": 3,
        "input_stats": "imagenet",
        "lr": 1e-3,
        "weight_decay": 0,
        "label_smoothing": 0,
        "smallest_crop": 1,
    }
    with pytest.raises(InputError, match=expected) as error:
        Classifier(**{**options, **option})
    one_line(str(error.value))


def test_labels_are_the_files_own_classes(synthetic_root):
    split = read_split(synthetic_root, 3, 2, 0)
    for part in ("train", "val"):
        ids = [list(split.classes)[label] for label in split.labels(part)]
        assert ids == [file.split("/")[1] for file in split.files(part)]
    annotations = dict(
        line.split("\t")[:2] for line in (synthetic_root / "val" / "val_annotations.txt").read_text().splitlines()
    )
    ids = [list(split.classes)[label] for label in split.labels("test")]
    assert ids == [annotations[file.split("/")[-1]] for file in split.files("test")]


def test_it_learns_from_ones_own_images(tmp_path, options, capsys):
    """With the program's own data.classes; and a trial leaves nothing."""
    from test_image_folder import fill  # not at the top: a process below imports this file by itself

    fill(tmp_path / "data" / "a", 6)
    fill(tmp_path / "data" / "b", 6)
    own = ["data=folder", f"data.root={tmp_path / 'data'}", "data.batch_size=4", "data.cache=null", "+trainer.fast_dev_run=1"]
    assert train_encoder(*own, *options[-2:], f"hydra.run.dir={tmp_path / 'out'}") == Outcome(0, "")
    said = capsys.readouterr().out
    assert "of 2 classes" in said and "nothing was saved or scored" in said
    assert not (tmp_path / "out" / "alexnet.pt").exists() and not (tmp_path / "out" / "metrics.json").exists()


def test_present_takes_the_classes_whose_images_are_there(synthetic_root, tmp_path):
    root = tmp_path / "part"
    shutil.copytree(synthetic_root, root)
    gone = sorted(path.name for path in (root / "train").iterdir())[:17]
    for name in gone:
        shutil.rmtree(root / "train" / name)
    split = read_split(root, "present", 2, 0)
    assert len(split.classes) == 3 and not set(split.classes) & set(gone)
    assert set(split.val) < set(read_split(synthetic_root, None, 2, 0).val)  # the same images of a class are set aside
