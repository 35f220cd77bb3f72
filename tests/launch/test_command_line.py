"""Mistakes on the command line and in the data, each reported in one sentence before anything is trained."""

import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from conftest import REPOSITORY, run_experiment, run_train
from test_configs import composed, pretend_to_run
from test_image_folder import fill
from torch import nn

from inversion.core.errors import InputError
from inversion.encoders.alexnet import TAPS
from inversion.launch import command_line, sweep
from inversion.training import building


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["layer=conv9"],
            "layer/conv9: there is no such option; choose one of conv1, conv2, conv3, conv4, conv5, fc6, fc7, fc8.",
        ),
        (["-m", "layer=conv5,conv9"], "layer/conv9: there is no such option"),
        (["layer=null"], "choose one, or leave this option out"),
        (["decoder=big"], "choose one of compact, flow, published"),
        (["loss=l3"], "choose one of l1, mse"),
        (["experiment=nothing"], "choose one of demo, published"),
        (["+experiment=nothing"], "choose one of demo, published"),
        (["trainer.max_epoch=3"], "did you mean trainer.max_epochs"),
        (["layr=conv5"], "there is no option layr; did you mean layer?"),
        (["lr=1e-3"], "did you mean optimizer.lr?"),
        (["note=it is, mine"], "write 'note=\"it is, mine\"' if it is one."),
        (["--config-dir", "conf", "seed=one"], "must be a whole number"),
        (["+foo=1"], "there is no option foo"),
        (["++foo.bar=1"], "there is no option foo.bar"),
        (["-m", "layr=conv5,fc6"], "did you mean layer?"),
        (["-m", "layer=conv5,fc6", "hydra.sweep.dri=x"], "Could not override 'hydra.sweep.dri'"),
        (["+data.root=x"], "already at 'data.root'"),
        (["trainer.max_epochs=three"], "must be a whole number"),
        (["trainer.max_epochs=2.5"], "must be a whole number"),
        (["-m", "trainer.max_epochs=2,2.5"], "must be a whole number"),
        (["optimizer.lr=fast"], "must be a number"),
        (["trainer.max_epochs=${layer.name}"], "must be a whole number"),
        (["trainer.max_epochs=${nothing}"], "Interpolation key 'nothing' not found"),
        (["optimizer.betas=0.9"], "must be a list"),
        (["test=perhaps"], "must be true or false"),
        (["test=1"], "must be true or false"),
        (["seed=true"], "must be a whole number"),
        (["seed=null"], "must be a whole number"),
        (["hydra/launcher=rocket"], "(for others see docs/options.md)"),
        (["layer=conv2,conv5"], "add -m"),
        (["conv5"], "key=value"),
        (["data=folder"], "data.root must be given"),
        (["data=folder", "data.root="], "data.root is empty; give it a value."),
        (["encoder.weights="], "encoder.weights is empty; give it a value."),
        (["layer=[conv5,conv2]"], "sweep over several, as in -m layer=conv2,conv5."),
        (["encoder.weights=random", "data=folder", "data.root=~/x"], "/home/of mine/x: no such folder"),
        (["data.root=~x/y"], "write 'data.root=\"~x/y\"'."),
        (["data.root=/a (b)/c"], "write 'data.root=\"/a (b)/c\"'."),
        (["data.root=/a=b"], "write 'data.root=\"/a=b\"'."),
        (["data.root=/ü"], "write 'data.root=\"/ü\"'."),
        (["data.root=/a,b/c"], "write 'data.root=\"/a,b/c\"' if it is one."),
        (["~loss"], "choose one, or leave this option out"),
        (["~encoder.weights"], "can't be left out"),
        (["experiment=published,demo"], "add -m"),
        (["layer=glob(conv*)"], "add -m"),
        (["-m", "layer=glob(conv9*)"], "no job was started"),
        (["-m", "optimizer.lr=interval(0,1)"], "does not support sweep type"),
        (["experiment=null"], "leave this option out"),
    ],
)
def test_mistyped_options(arguments, expected, one_line, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/of mine")
    folder = f"hydra.sweep.dir={tmp_path / 'out'}" if "-m" in arguments else f"hydra.run.dir={tmp_path / 'out'}"
    outcome = run_train(*arguments, folder)
    assert outcome.code != 0
    assert expected in one_line(outcome.said)


@pytest.mark.parametrize(
    "arguments",
    [
        ["trainer.devices=[1]"],
        ["trainer.devices=auto"],
        ["data.classes=null"],
        ["data.cache=null"],
        ["trainer.max_epochs=${layer.compact.members}"],
        ["-m", "layer=conv5,fc6", "seed=${hydra:job.num}"],
        ['decoder.bottleneck="${oc.decode:${oc.env:WIDTH,64}}"'],
        ["data.classes=present"],
        ["optimizer.fused=null"],
        ["~optimizer.fused"],
        ["+optimizer.foreach=true"],
        ["+callbacks.ema._target_=lightning.pytorch.callbacks.EMAWeightAveraging"],
        ["callbacks.grid=null"],
        ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
        ["-m", "optimizer.lr=interval(0,1)"],
        ["-m", "layer=glob(conv*,exclude=conv1)", "seed=range(3)", "optimizer.lr=choice(1e-3,2e-3)"],
        ['data.root="/a (b)=c, ü"'],
    ],
)
def test_what_hydra_and_lightning_understand_is_left_to_them(arguments):
    sweep.register_resolvers()
    command_line.check(arguments)


def test_an_experiment_of_ones_own(tmp_path, one_line):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: -5\n")
    outcome = run_train(f"hydra.searchpath=[{tmp_path}]", "+experiment=mine", f"hydra.run.dir={tmp_path / 'out'}")
    assert outcome.code != 0 and "seed=-5" in one_line(outcome.said)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("lr: 1e-4", "lr, which its file sets; did you mean optimizer.lr?"),
        ("layer: {compact: {chanels: [3]}}", "there is no option layer.compact.chanels"),
        ("seed: one", "seed must be a whole number"),
        ("seed: 1\n\ttest: false", "isn't YAML"),
        ("width: 7\ndata: {classes: '${width}'}", None),
        ("callbacks: {grid: {nothing: 1}}", None),  # for the class to refuse
    ],
)
def test_what_an_experiments_file_sets_is_checked(content, expected, tmp_path, one_line):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{content}\n")
    arguments = ["--config-dir", str(tmp_path), "experiment=mine"]
    if expected is None:
        sweep.register_resolvers()
        command_line.check([f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine"])
    else:
        outcome = run_train(*arguments, f"hydra.run.dir={tmp_path / 'out'}")
        assert outcome.code == 1 and expected in one_line(outcome.said)


def test_only_trainings_are_swept(one_line):
    outcome = run_experiment("report", "-m", "runs=a,b")
    assert outcome.code == 1 and "Only train.py sweeps" in one_line(outcome.said)


def test_a_sweeps_config_is_not_shown(one_line):
    outcome = run_train("-m", "layer=conv5,fc8", "--cfg", "job")
    assert outcome.code == 1 and "leave -m out" in one_line(outcome.said)


def test_a_large_sweep_is_checked_at_once():
    sweep.register_resolvers()
    before = time.process_time()
    command_line.check(["-m", "layer=conv2,conv5,fc6,fc8", "seed=range(100)"])
    assert time.process_time() - before < 3


def test_help_needs_no_torch():
    """It takes seconds to import."""
    code = (
        "import sys, train; sys.argv[1:] = ['leyer=conv5']\ntry: train.command()\nfinally: assert 'torch' not in sys.modules"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True).stderr
    assert said == "error: leyer=conv5: there is no option leyer; did you mean layer?\n"


@pytest.mark.parametrize("program", ["train", "experiments.invert", "experiments.benchmark", "experiments.train_encoder"])
def test_torch_is_loaded_when_it_is_known_how_its_threads_wait(program):
    code = (
        "import os, sys\nclass Torch:\n    def find_spec(self, name, *_):\n"
        "        assert name != 'torch' or os.environ['GOMP_SPINCOUNT'] == '10000'\n"
        f"sys.meta_path.insert(0, Torch())\nimport {program}"
    )
    environment = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"}
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, env=environment, check=True)


def test_impossible_values(quick, one_line, tmp_path):
    """One of each kind; more of them at the parts that refuse them, below."""
    for options, expected in [
        (["seed=-1"], "seed=-1"),
        (["samples=0"], "samples=0"),
        (["data.batch_size=1"], "data.batch_size=1"),
        (["data.cache=/dev/null/x"], "data.cache=/dev/null/x"),
        (["data.classes=21"], "data.classes=21"),
        (["data.val_per_class=6"], "has 6 images"),
        (["encoder.weights=nowhere.pt"], "no such file"),
        (["trainer.max_epochs=0"], "trainer.max_epochs=0"),
        (["decoder.channels=[8,8]"], "decoder.depth"),
        (["scheduler=step", "scheduler.step_size=0"], "scheduler"),
        (["+optimizer.foreach=true"], "optimizer"),
        ([f"data.archive={__file__}", f"data.root={tmp_path / 'data'}"], "be read as a zip"),
    ]:
        outcome = run_train("layer=conv5", *quick, *options, f"hydra.run.dir={tmp_path / 'out'}")
        assert outcome.code != 0, options
        assert expected in one_line(outcome.said), options
        assert not (tmp_path / "out" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("group", "options", "expected"),
    [
        ("data", ["data.native_size=abc"], "data.native_size=abc"),
        ("data", ["data.feature_type=int8"], "data.feature_type=int8"),
        ("data", ["data.resident=1"], "data.resident=1"),
        ("trainer", ["callbacks.last=null"], "callbacks.last"),
        ("trainer", ["callbacks.best.filename=other"], "callbacks.best"),
        ("trainer", ["callbacks.grid.images=0"], "callbacks.grid.images=0"),
        ("trainer", ["trainer.accelerator=abacus"], "trainer"),
        ("trainer", ["trainer.devices=2", "trainer.accelerator=cpu"], "trainer.devices=2 comes to 2 devices"),
        ("trainer", ["+trainer.num_nodes=3", "trainer.accelerator=cpu"], "comes to 3 devices"),
        ("trainer", ["trainer.precision=bf16-true"], "bf16-mixed"),
        ("encoder", ["encoder.weights=random", "encoder.input_stats=mine"], "encoder.input_stats=mine"),
        ("decoder", ["layer=fc8", "decoder.hidden=0"], "decoder.hidden=0"),
        ("decoder", ["layer=fc8", "decoder.dropout=1.0"], "decoder.dropout=1.0"),
        ("standardize", ["standardize=maybe"], "standardize=maybe"),
        ("optimizer", ["optimizer.lr=-1"], "optimizer"),
        ("optimizer", ["+optimizer.speed=3"], "optimizer"),
    ],
)
def test_values_that_a_part_refuses(group, options, expected, one_line, tmp_path):
    sweep.register_resolvers()
    config = composed(*options)
    encoder = SimpleNamespace(feature_shape=TAPS[config.layer.name].shape, weights="imagenet")

    def module(*_, optimizer, scheduler, **__):
        def configure_optimizers():
            return {"lr_scheduler": {"scheduler": scheduler(optimizer(nn.Linear(1, 1).parameters()))}}

        return SimpleNamespace(configure_optimizers=configure_optimizers)

    builders = {
        "trainer": lambda: building.build_trainer(config, tmp_path),
        "decoder": lambda: building.build_decoder(config.decoder, encoder, 64),
        "standardize": lambda: building.build_standardize(config, encoder),
        "optimizer": lambda: building.build_module(module, config, encoder, 64),
    }
    pretend_to_run(config)
    with pytest.raises(InputError) as error:
        builders.get(group, lambda: building.build(group, config[group]))()
    assert expected in one_line(str(error.value))


def test_a_broken_image_among_ones_own(tmp_path, one_line):
    fill(tmp_path / "photos", 10)
    for path in (tmp_path / "photos").iterdir():
        path.write_bytes(path.read_bytes()[:60])
    options = ["data=folder", f"data.root={tmp_path / 'photos'}", f"data.cache={tmp_path / 'cache'}"]
    options += ["encoder.weights=random", "data.native_size=32"]
    outcome = run_train("layer=conv5", *options, f"hydra.run.dir={tmp_path / 'out'}")
    assert outcome.code != 0 and "10 images are broken" in one_line(outcome.said) and ".png" in outcome.said


@pytest.mark.parametrize("option", ["hydra.run.dir", "hydra.sweep.dir"])
def test_an_output_folder_that_cannot_be_written(tmp_path, one_line, option):
    (tmp_path / "file").write_text("in the way")
    outcome = run_train(*(["-m", "seed=1,2"] if "sweep" in option else []), f"{option}={tmp_path / 'file' / 'out'}")
    assert outcome.code != 0 and f"{tmp_path / 'file' / 'out'} can't be used (Not a directory)" in one_line(outcome.said)


def test_a_file_in_the_way_of_a_job(tmp_path, one_line):
    (tmp_path / "fc8").write_text("in the way")
    outcome = run_train("-m", "layer=fc8", f"hydra.sweep.dir={tmp_path}")
    assert outcome.code != 0 and f"{tmp_path / 'fc8'} can't be used (File exists)" in one_line(outcome.said)


def test_a_full_output_folder(quick, tmp_path, one_line, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 10**6, 10**6))
    outcome = run_train("layer=conv5", *quick, f"hydra.run.dir={tmp_path / 'out'}")
    assert outcome.code != 0 and "MiB free" in one_line(outcome.said)
    assert not (tmp_path / "out" / "checkpoints").exists()
