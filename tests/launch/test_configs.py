"""Every option under conf/ composes, and builds what it names."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from conftest import REPOSITORY
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_class, get_method
from omegaconf import DictConfig, ListConfig, OmegaConf, read_write
from torch import nn

from inversion.encoders.alexnet import TAPS
from inversion.launch import sweep
from inversion.training.building import build, build_decoder

CONF = REPOSITORY / "conf"
FILES = [path for path in CONF.glob("*/*.yaml") if path.stem != "loading" and path.parent.name != "study"]
OPTIONS = sorted(f"{path.parent.name}={path.stem}" for path in FILES)
NEEDED = {"data=folder": ["data.root=photos"]}


@pytest.fixture(autouse=True)
def registered():
    sweep.register_resolvers()


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides), return_hydra_config=True)


def pretend_to_run(config: DictConfig) -> None:
    """Sets what Hydra sets when a run starts, for configs that name the run's folder."""
    HydraConfig.instance().set_config(config)
    with read_write(HydraConfig.instance().cfg.hydra.runtime):
        HydraConfig.instance().cfg.hydra.runtime.output_dir = "somewhere"


def targets(node):
    if isinstance(node, DictConfig):
        if "_target_" in node:
            yield node
        for key in node:
            yield from targets(node[key])
    elif isinstance(node, ListConfig):
        for item in node:
            yield from targets(item)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_and_names_what_exists(option):
    config = composed(option, *NEEDED.get(option, []))
    pretend_to_run(config)
    options = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
    OmegaConf.resolve(options)
    found = list(targets(options))
    assert len(found) >= 10
    for node in found:
        assert get_class(node._target_) or get_method(node._target_)


def test_there_is_an_option_for_every_layer():
    assert {path.stem for path in (CONF / "layer").glob("*.yaml")} == set(TAPS)


@pytest.mark.parametrize("layer", TAPS)
@pytest.mark.parametrize("decoder", ["compact", "published"])
def test_every_layer_builds_with_every_decoder(layer, decoder):
    config = composed(f"layer={layer}", f"decoder={decoder}")
    assert config.layer.name == config.encoder.layer == layer
    encoder = SimpleNamespace(feature_shape=TAPS[layer].shape)
    assert isinstance(build_decoder(config.decoder, encoder, 64), nn.Module)


def test_losses_optimiser_scheduler_and_callbacks_build():
    config = composed()
    pretend_to_run(config)
    for loss in (path.stem for path in (CONF / "loss").glob("*.yaml")):
        images = torch.rand(2, 3, 227, 227)
        assert build("loss", composed(f"loss={loss}", "encoder.weights=random").loss)(images, images) == 0
    for name in (path.stem for path in (CONF / "optimizer").glob("*.yaml")):
        optimizer = build("optimizer", composed(f"optimizer={name}").optimizer)(nn.Linear(1, 1).parameters())
    for name in (path.stem for path in (CONF / "scheduler").glob("*.yaml")):
        assert build("scheduler", composed(f"scheduler={name}").scheduler)(optimizer)
    assert len(build("callbacks", config.callbacks)) == len(config.callbacks)


def test_the_published_experiment_is_the_published_table():
    config = composed("experiment=published", "layer=fc8")
    assert (config.data.classes, config.data.val_per_class, config.data.batch_size) == (20, 50, 64)
    assert config.loss._target_ == "inversion.decoders.losses.MSELoss"
    assert OmegaConf.to_container(config.optimizer) == {
        "_target_": "torch.optim.Adam",
        "_partial_": True,
        "lr": 1e-3,
        "betas": [0.9, 0.99],
        "weight_decay": 1e-4,
        "fused": True,
    }
    assert (config.scheduler._target_, config.scheduler.step_size, config.scheduler.gamma) == (
        "torch.optim.lr_scheduler.StepLR",
        4,
        0.5,
    )
    assert config.trainer.max_epochs == 30 and config.data.flip is False
    assert (config.encoder.weights, config.encoder.input_stats) == ("imagenet", "published")
    assert config.decoder._target_.endswith("PublishedDecoder")


@pytest.mark.parametrize("path", sorted(CONF.glob("**/*.yaml")), ids=lambda path: str(path.relative_to(CONF)))
def test_every_config_says_what_it_is_for(path):
    """In a comment, unless it only passes on another's content."""
    text = path.read_text()
    keys = set(yaml.safe_load(text)) - {"defaults"}
    assert not keys or any(line.lstrip().startswith("# ") for line in text.splitlines())


@pytest.mark.parametrize(
    ("overrides", "mode"),
    [
        (["experiment=published"], "MULTIRUN"),
        (["experiment=demo"], "MULTIRUN"),
        (["experiment=published", "layer=fc8"], "RUN"),
        (["experiment=published", "seed=3"], "MULTIRUN"),
    ],
)
def test_an_experiment_is_a_sweep_unless_one_layer_is_chosen(overrides, mode):
    config = composed(*overrides)
    assert config.hydra.mode.name == mode
    assert config.hydra.sweeper.params.layer == "conv2,conv5,fc6,fc8"


def test_default_folders_never_collide():
    dirs = {composed().hydra.run.dir for _ in range(3)} | {composed().hydra.sweep.dir for _ in range(3)}
    assert len(dirs) == 6
    assert all(Path(folder).parent == REPOSITORY / "outputs" for folder in dirs)
