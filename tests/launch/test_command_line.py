"""Mistakes on the command line and in the data, each told in one sentence before anything is trained."""

import pytest
from conftest import run_train
from test_image_folder import fill


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["layer=conv9"], "choose one of conv1, conv2, conv3, conv4, conv5, fc6, fc7, fc8"),
        (["-m", "layer=conv5,conv9"], "layer=conv9: no such layer"),
        (["layer=null"], "choose one of conv1"),
        (["decoder=big"], "choose one of compact, published"),
        (["loss=l3"], "choose one of l1, mse"),
        (["experiment=nothing"], "choose one of demo, published"),
        (["trainer.max_epoch=3"], "did you mean trainer.max_epochs"),
        (["layr=conv5"], "there is no option layr"),
        (["trainer.max_epochs=three"], "must be a whole number"),
        (["trainer.max_epochs=2.5"], "must be a whole number"),
        (["optimizer.lr=fast"], "must be a number"),
        (["test=perhaps"], "must be true or false"),
        (["seed=true"], "must be a whole number"),
        (["seed=null"], "must be a whole number"),
        (["hydra/launcher=rocket"], "hydra/launcher"),
        (["layer=conv2,conv5"], "add -m"),
        (["conv5"], "key=value"),
        (["data=folder"], "data.root"),
        (["data.root=~/x"], "quotes"),
        (["~loss"], "choose one of l1, mse"),
        (["~encoder.weights"], "can't be left out"),
        (["experiment=published,demo"], "add -m"),
        (["layer=glob(conv*)"], "add -m"),
        (["-m", "layer=glob(conv9*)"], "no values"),
        (["-m", "optimizer.lr=interval(0,1)"], "write out the values"),
        (["experiment=null", "layer=conv9"], "layer=conv9"),
    ],
)
def test_mistyped_options(arguments, expected, one_line, tmp_path):
    place = f"hydra.sweep.dir={tmp_path / 'out'}" if "-m" in arguments else f"hydra.run.dir={tmp_path / 'out'}"
    outcome = run_train(*arguments, place)
    assert outcome.code != 0
    assert expected in one_line(outcome.said)


def test_impossible_values(quick, one_line, tmp_path):
    for options, expected in [
        (["data.batch_size=1"], "data.batch_size=1"),
        (["data.native_size=abc"], "data.native_size=abc"),
        (["seed=-1"], "seed=-1"),
        (["data.feature_type=int8"], "data.feature_type=int8"),
        (["data.resident=1"], "data.resident=1"),
        (["data.cache=/dev/null/x"], "data.cache=/dev/null/x"),
        (["scheduler=step", "scheduler.step_size=0"], "scheduler"),
        (["+optimizer.foreach=true"], "optimizer"),
        (["~callbacks.best"], "callbacks.best"),
        (["callbacks.last=null"], "callbacks.last"),
        (["callbacks.best.filename=other"], "callbacks.best"),
        (["+trainer.fast_dev_run=true"], "fast_dev_run"),
        (["+trainer.limit_val_batches=0"], "limit_val_batches"),
        (["data.classes=21"], "data.classes=21"),
        (["data.val_per_class=6"], "has 6 images"),
        (["trainer.max_epochs=0"], "trainer.max_epochs=0"),
        (["trainer.accelerator=abacus"], "trainer"),
        (["trainer.devices=2"], "choose trainer=ddp"),
        (["trainer.precision=bf16-true"], "bf16-mixed"),
        (["samples=0"], "samples=0"),
        (["callbacks.grid.images=0"], "callbacks.grid.images=0"),
        (["encoder.weights=nowhere.pt"], "no such file"),
        (["encoder.input_stats=mine"], "encoder.input_stats=mine"),
        (["decoder.channels=[8,8]"], "decoder.depth"),
        (["standardize=maybe"], "standardize=maybe"),
        (["layer=fc8", "decoder.hidden=0"], "decoder.hidden=0"),
        (["layer=fc8", "decoder.dropout=1.0"], "decoder.dropout=1.0"),
        (["optimizer.lr=-1"], "optimizer"),
        (["+optimizer.speed=3"], "optimizer"),
        ([f"data.archive={__file__}", f"data.root={tmp_path / 'data'}"], "be read as a zip"),
    ]:
        outcome = run_train("layer=conv5", *quick, *options, f"hydra.run.dir={tmp_path / 'out'}")
        assert outcome.code != 0, options
        assert expected in one_line(outcome.said), options
        assert not (tmp_path / "out" / "checkpoints").exists()


def test_a_broken_image_among_ones_own(tmp_path, one_line):
    fill(tmp_path / "photos", 10)
    for path in (tmp_path / "photos").iterdir():
        path.write_bytes(path.read_bytes()[:60])
    options = ["data=folder", f"data.root={tmp_path / 'photos'}", f"data.cache={tmp_path / 'cache'}"]
    options += ["encoder.weights=random", "data.native_size=32"]
    outcome = run_train("layer=conv5", *options, f"hydra.run.dir={tmp_path / 'out'}")
    assert outcome.code != 0 and "broken image" in one_line(outcome.said) and ".png" in outcome.said


def test_an_output_folder_that_cannot_be_written(tmp_path, one_line):
    (tmp_path / "file").write_text("in the way")
    outcome = run_train("layer=conv5", f"hydra.run.dir={tmp_path / 'file' / 'out'}")
    assert outcome.code != 0 and "can't be written" in one_line(outcome.said)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["-m", "layer=conv5,fc8", "seed=1"], "fc8"),
        (["-m", "layer=conv5,fc8", "seed=1,2"], "fc8_seed-2"),
        (["experiment=published"], "fc6"),
    ],
)
def test_a_file_in_the_way_of_a_job(arguments, name, quick, tmp_path, one_line):
    (tmp_path / name).write_text("in the way")
    outcome = run_train(*arguments, *quick, f"hydra.sweep.dir={tmp_path}")
    said = one_line(outcome.said)
    assert outcome.code != 0 and f"{tmp_path / name} can't be written (a file is in the way)" in said
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_full_output_folder(quick, tmp_path, one_line, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 10**6, 10**6))
    outcome = run_train("layer=conv5", *quick, f"hydra.run.dir={tmp_path / 'out'}")
    assert outcome.code != 0 and "MiB free" in one_line(outcome.said)
    assert not (tmp_path / "out" / "checkpoints").exists()
