"""Finished runs: their names, their figure and table, and the program that puts them side by side."""

import csv
import json
import math
import shutil
from dataclasses import replace

import pytest
from conftest import Outcome, run_experiment, run_train
from PIL import Image

from inversion.core.errors import InputError
from inversion.results import report as reports
from inversion.results import runs
from inversion.training import outcome


@pytest.fixture(scope="session")
def other_sweep(sweep, tmp_path_factory):
    """The same sweep once more, in another folder."""
    folder = tmp_path_factory.mktemp("other") / "again"
    shutil.copytree(sweep, folder)
    return folder


def load(*folders):
    return [runs.FinishedRun.load(folder) for folder in folders]


def test_the_table_names_every_layer_and_the_mean_image(sweep):
    table = reports.format_table(load(sweep / "fc8", sweep / "conv5"))
    assert [line.split()[:2] for line in table.splitlines()[1:]] == [
        ["val", "conv5"],
        ["val", "fc8"],
        ["val", "mean"],
        ["test", "conv5"],
        ["test", "fc8"],
        ["test", "mean"],
    ]


def test_runs_of_the_same_name_are_told_apart_by_their_sweep(sweep, other_sweep, tmp_path):
    found = load(sweep / "fc8", sweep / "conv5", other_sweep / "fc8")
    names = runs.labels(found)
    assert names == {sweep / "fc8": "out/fc8", sweep / "conv5": "conv5", other_sweep / "fc8": "again/fc8"}
    reports.publish(tmp_path, found)
    table = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert [row["run"] for row in table] == ["conv5", "again/fc8", "out/fc8"]
    (path,) = reports.write_figures(tmp_path, found)
    with Image.open(path) as figure:
        assert figure.width > 4 * 227  # original, conv5 and both fc8


def test_samples_of_other_images_get_a_figure_of_their_own(sweep, tmp_path):
    (run,) = load(sweep / "fc8")
    fewer = outcome.Samples(["x"], run.samples.originals[:1], run.samples.reconstructions[:1])
    others = outcome.Samples(run.samples.files, 255 - run.samples.originals, run.samples.reconstructions)
    found = [run, replace(run, samples=fewer), replace(run, samples=others)]
    paths = reports.write_figures(tmp_path, found)
    assert [path.name for path in paths] == ["samples.png", "samples_2.png", "samples_3.png"]


def test_samples_that_another_machine_rounded_share_the_figure(sweep, tmp_path):
    (run,) = load(sweep / "fc8")
    rounded = run.samples.originals.clone()
    rounded[0, 0, 0, :9] ^= 1
    others = outcome.Samples(run.samples.files, rounded, run.samples.reconstructions)
    (path,) = reports.write_figures(tmp_path, [run, replace(run, samples=others)])
    assert path.name == "samples.png"


def test_metrics_that_are_not_finite_become_null(tmp_path):
    outcome.write_metrics(tmp_path, {"val": {"mse": math.nan, "psnr": math.inf, "ssim": 0.5}})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"val": {"mse": None, "psnr": None, "ssim": 0.5}}


@pytest.mark.parametrize(("name", "content"), [("metrics.json", b"{"), ("samples.pt", b"PK")])
def test_a_damaged_run_is_named(sweep, tmp_path, name, content):
    shutil.copytree(sweep / "fc8", tmp_path / "run")
    (tmp_path / "run" / name).write_bytes(content)
    with pytest.raises(InputError, match=name):
        load(tmp_path / "run")


def test_the_report_puts_runs_of_several_sweeps_side_by_side(sweep, other_sweep, tmp_path, capsys):
    outcome = run_experiment("report", f"runs=[{sweep},{other_sweep / 'fc8'},{sweep / 'fc8'}]", f"hydra.run.dir={tmp_path}")
    assert outcome == Outcome(0, "")
    assert [row["run"] for row in csv.DictReader((tmp_path / "metrics.csv").open())] == ["conv5", "again/fc8", "out/fc8"]
    said = capsys.readouterr().out
    assert "again/fc8" in said and str(tmp_path / "samples.png") in said


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "runs must be given"),
        (["runs="], "runs is empty"),
        (["runs=null"], "runs is empty"),
        (["runs=nowhere"], "is no folder"),
        (["runs=[~/a,~/b]"], "/home/of mine/a is no folder"),
    ],
)
def test_a_report_on_nothing(arguments, expected, tmp_path, one_line, monkeypatch):
    monkeypatch.setenv("HOME", "/home/of mine")
    outcome = run_experiment("report", *arguments, f"hydra.run.dir={tmp_path}")
    assert outcome.code == 1 and expected in one_line(outcome.said)


def test_a_copied_sweep_whose_jobs_are_refused_reports_its_own_finished_runs(sweep, quick, tmp_path):
    folder = shutil.copytree(sweep, tmp_path / "copy")
    (folder / "metrics.csv").unlink()
    options = ["layer=conv5,fc8", *quick, "test=true", "trainer.max_epochs=3", f"hydra.sweep.dir={folder}"]
    outcome = run_train("-m", *options)
    assert outcome.code == 1 and "2 of the sweep's jobs failed" in outcome.said
    assert [row["run"] for row in csv.DictReader((folder / "metrics.csv").open())] == ["conv5", "fc8"]


def test_a_report_that_fails_fails_the_sweep(sweep, quick, monkeypatch):
    """The sweep's jobs are finished already, so only its report is made again."""
    monkeypatch.setattr(
        reports, "write_figures", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device", "x.png"))
    )
    outcome = run_train("-m", "layer=conv5,fc8", *quick, "test=true", f"hydra.sweep.dir={sweep}")
    assert outcome.code == 1 and "x.png can't be used" in outcome.said
