"""experiments/study.py: all studies on a small sweep, one that fails, one of the reader's own."""

import csv

import pytest
from conftest import REPOSITORY, Outcome, experiment, run_experiment
from hydra import compose, initialize_config_dir
from PIL import Image

from inversion.core.errors import InputError
from inversion.studies import (
    compare_layers,
    controls,
    interpolate,
    perturb,
    position_colour,
    samples,
)

SMALL = {
    "compare_layers": {"shown": 2, "extremes": 3},
    "frequency": {},
    "channels": {"images": 2, "candidates": 3, "shown": 1},
    "position_colour": {"images": 2, "shown": 1, "shifts": "[8]", "turns": "[90]"},
    "perturb": {"shown": 2, "top": "[1,5]"},
    "interpolate": {"pairs": 1, "steps": 3, "classes": 2},
    "optimise": {"shown": 2, "steps": 2},
}


@pytest.fixture(scope="module")
def report(sweep, tmp_path_factory):
    """The folder in which all studies but controls have ended."""
    folder = tmp_path_factory.mktemp("report")
    options = [f"study.{name}.{key}={value}" for name, own in SMALL.items() for key, value in own.items()]
    arguments = [f"runs={sweep}", f"study=[{','.join(SMALL)}]", "images=3", *options, f"hydra.run.dir={folder}"]
    assert run_experiment("study", *arguments) == Outcome(0, "")
    return folder


@pytest.mark.parametrize("name", SMALL)
def test_a_study_writes_figures_and_table_and_the_page_shows_them(report, name):
    rows = list(csv.DictReader((report / name / "table.csv").open()))
    assert {row["run"] for row in rows} >= {"Conv5", "FC8"}
    page = (report / "report.html").read_text()
    assert f'href="{name}/table.csv"' in page
    figures = list((report / name).glob("*.png"))
    assert figures and list((report / name).glob("events*"))
    for path in figures:
        assert f'src="{name}/{path.name}"' in page
        with Image.open(path) as figure:
            assert figure.width > 250 and len(figure.convert("RGB").getcolors(1 << 24)) > 10


def test_the_page_states_questions_and_findings(report):
    page = (report / "report.html").read_text()
    assert "What is lost, by frequency and by colour?" in page and "R2(f) = 1 - sum" in page
    assert page.count("<li>Conv5") == page.count("<li>FC8") == len(SMALL)


def test_by_default_all_studies_run(sweep):
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        assert set(compose("study", ["runs=x"]).study) == {*SMALL, "controls"}
        assert list(compose("study", ["runs=x", "study=frequency"]).study) == ["frequency"]
    assert {path.stem for path in (REPOSITORY / "conf" / "study").iterdir()} == {*SMALL, "controls", "samples"}


def test_a_study_that_fails_costs_no_other(sweep, tmp_path, one_line):
    options = ["study=[perturb,frequency]", "study.perturb.drop=2", "images=2"]
    done = run_experiment("study", f"runs={sweep / 'conv5'}", *options, f"hydra.run.dir={tmp_path}")
    assert done.code == 1 and "1 of 2 studies failed (perturb: drop=2 must lie between 0 and 1)" in one_line(done.said)
    page = (tmp_path / "report.html").read_text()
    assert "perturb failed: drop=2" in page and "frequency/spectra.png" in page
    assert (tmp_path / "frequency" / "spectra.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["runs=/nowhere"], "/nowhere is no folder"),
        (["device=gpu"], "device=gpu can't be used here"),
        (["images=all"], "images=all must be a whole number, at least 1"),
        (["runs=2024"], "2024 is no folder"),
        (["study.frequency=null"], "No study is left: choose one"),
    ],
)
def test_what_cant_be_studied_is_said(sweep, tmp_path, one_line, arguments, expected):
    done = run_experiment("study", "study=frequency", f"runs={sweep / 'conv5'}", *arguments, f"hydra.run.dir={tmp_path}")
    assert done.code == 1 and expected in one_line(done.said)


@pytest.mark.parametrize(
    ("study", "options", "expected"),
    [
        (perturb.perturb, {"drop": 0.5, "top": [5000], "noise": []}, "top=.5000. must lie between 1 and 1000"),
        (compare_layers.compare_layers, {"extremes": 0}, "extremes=0 must be at least 1"),
        (position_colour.position_colour, {"images": 2, "shifts": [60], "turns": []}, "shifts=.60."),
        (
            position_colour.position_colour,
            {"images": 2, "shifts": [6], "turns": []},
            "turns must each have a number",
        ),
        (
            position_colour.position_colour,
            {"images": 2, "shifts": [6.5], "turns": [9]},
            "shifts=.6.5. must be a list of",
        ),
        (perturb.perturb, {"drop": 0.5, "top": [1.5], "noise": []}, "top=.1.5. must be a list of whole numbers"),
        (interpolate.interpolate, {"pairs": 0, "steps": 3, "classes": 1, "draws": 1}, "pairs=0"),
        (interpolate.interpolate, {"pairs": 1, "steps": 4, "classes": 1, "draws": 1}, "steps=4 must be odd"),
        (samples.samples, {"number": 2, "steps": 1, "seed": 0, "layers": ["conv9"]}, "AlexNet has no conv9"),
        (controls.controls, {"epochs": 0, "autoencoder": False, "lr": 5e-4}, "epochs=0 must be at least 1"),
        (controls.controls, {"epochs": 1, "autoencoder": True, "lr": -1}, "lr=-1 must be at least 0"),
    ],
)
def test_options_out_of_range_are_refused(subject, tmp_path, study, options, expected):
    takes = study.__code__.co_varnames[: study.__code__.co_argcount]
    options |= {"shown": 2} if "shown" in takes else {}
    with pytest.raises(InputError, match=expected):
        study(subject, tmp_path, **options)


MODULE = '''"""How bright are the reconstructions?

The mean pixel of each run's reconstructions, beside that of the images.
"""

from pathlib import Path

from inversion.studies.result import Result, columns_figure
from inversion.studies.subject import Subject


def brightness(subject: Subject, folder: Path, shown: int) -> Result:
    originals = subject.examples(shown)
    columns = {"Original": originals, **{title: run.reconstruct(originals) for title, run in subject.runs.items()}}
    rows = [{"run": title, "brightness": float(images.mean()) / 2 + 0.5} for title, images in columns.items()]
    findings = [f"{row['run']}: mean pixel {row['brightness']:.3f}." for row in rows]
    return Result({"samples": columns_figure(columns)}, rows, findings)
'''


CONFIG = """# @package study.brightness
_target_: brightness.brightness
_partial_: true

# How many images are compared.
shown: 4
"""


def test_a_study_of_ones_own_needs_a_module_and_a_config(sweep, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "brightness.py").write_text(MODULE)
    (tmp_path / "conf" / "study").mkdir(parents=True)
    (tmp_path / "conf" / "study" / "brightness.yaml").write_text(CONFIG)
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        searched = f"hydra.searchpath=[file://{tmp_path / 'conf'}]"
        cfg = compose("study", [f"runs={sweep / 'conv5'}", "study=brightness", "study.brightness.shown=2", searched])
    experiment("study").study(cfg, tmp_path / "out")
    rows = list(csv.DictReader((tmp_path / "out" / "brightness" / "table.csv").open()))
    assert [row["run"] for row in rows] == ["Original", "Conv5"]
    assert "How bright are the reconstructions?" in (tmp_path / "out" / "report.html").read_text()
