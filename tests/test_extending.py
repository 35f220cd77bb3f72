"""docs/extending.md: its files and commands work as they stand there."""

import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPOSITORY, Outcome, run_experiment, run_train

INTRODUCTION, *SECTIONS = (REPOSITORY / "docs" / "extending.md").read_text().split("\n## ")
FILES = re.findall(r"^`(my_project/\S+)`\n\n```\w+\n(.*?)^```$", "".join(SECTIONS), re.MULTILINE | re.DOTALL)
COMMANDS = {text.partition("\n")[0]: re.findall(r"^python (.*)$", text, re.MULTILINE) for text in SECTIONS}


@pytest.fixture(scope="module")
def project(synthetic_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that the page's commands are run in, with its `my_project` and its `photos`."""
    folder = tmp_path_factory.mktemp("project")
    for name, text in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "photos").mkdir()
    for i, path in enumerate(sorted(synthetic_root.glob("train/*/images/*"))[:12]):
        shutil.copy(path, folder / "photos" / f"{('cat', 'dog')[i % 2]}_{i}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        yield folder


@pytest.fixture(scope="module")
def finished_run(project: Path, quick: list[str]) -> Path:
    """The folder of a run with the page's decoder."""
    assert train("A decoder", *quick, "hydra.run.dir=outputs/tiny") == Outcome(0, "")
    return project / "outputs" / "tiny"


def train(section: str, *options: str) -> Outcome:
    """The section's command, with options that make it quick."""
    ((program, *arguments),) = map(shlex.split, COMMANDS[section])
    assert program == "train.py"
    return run_train(*arguments, *options, "trainer.max_epochs=1")


def metrics(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def test_the_files_are_those_that_the_introduction_lists():
    assert sorted(name for name, _ in FILES) == sorted(re.findall(r"my_project/\S+\.(?:py|yaml)", INTRODUCTION))


def test_a_run_whose_decoder_is_not_found_is_not_to_be_trained_anew(finished_run, project, monkeypatch):
    import inversion

    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", str(project))])
    for name in [name for name in sys.modules if name.startswith("my_project")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(inversion.core.errors.InputError, match="my_project.tiny.TinyDecoder.*: set PYTHONPATH"):
        inversion.load(finished_run)


def test_a_decoder_can_be_trained_and_loaded(finished_run):
    import inversion

    assert metrics(finished_run)["decoder"] == "TinyDecoder"
    run = inversion.load(finished_run)
    assert run.decoder.layers[1].out_features == 64
    images = inversion.read_images(["photos/cat_0.png"], run.native_size)
    assert run.reconstruct(images).shape == images.shape


def test_an_option_of_ones_own_is_checked(project, quick, one_line):
    outcome = train("A decoder", *quick, "decoder.widht=32")
    assert outcome.code == 1 and "decoder.width" in one_line(outcome.said)


def test_a_loss(project, quick):
    assert train("A loss", *quick, "hydra.run.dir=outputs/loss") == Outcome(0, "")
    assert metrics(project / "outputs" / "loss")["loss"] == "charbonnier"


def test_a_source_of_images(project, quick):
    options = [option for option in quick if not option.startswith(("data.root", "data.classes", "data.val_per_class"))]
    assert train("A source of images", *options, "hydra.run.dir=outputs/named") == Outcome(0, "")
    split = json.loads((project / "outputs" / "named" / "split.json").read_text())
    assert [entry["id"] for entry in split["classes"]] == ["cat", "dog"]
    assert [len(split[part]) for part in ("train", "val", "test")] == [4, 4, 4]


def test_an_experiment(project, quick):
    assert train("An experiment", *quick, "hydra.run.dir=outputs/small") == Outcome(0, "")
    found = metrics(project / "outputs" / "small")
    assert (found["decoder"], found["loss"], found["lr"]) == ("TinyDecoder", "L1Loss", 1e-3)


def test_a_study(project, finished_run):
    ((program, *arguments),) = map(shlex.split, COMMANDS["A study"])
    assert program == "experiments/study.py" and arguments[0] == "runs=outputs/<sweep>"
    arguments[0] = f"runs={finished_run}"
    assert run_experiment("study", *arguments, "part=val", "hydra.run.dir=outputs/study") == Outcome(0, "")
    assert (project / "outputs" / "study" / "brightness" / "brightness.png").is_file()
    assert "Do the layers keep how bright an image is?" in (project / "outputs" / "study" / "report.html").read_text()
