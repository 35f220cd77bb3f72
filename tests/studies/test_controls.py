"""What decoders are compared with."""

from types import SimpleNamespace

import pytest
import torch

from inversion.core import pixels
from inversion.encoders.alexnet import Encoder
from inversion.studies import controls
from inversion.studies.subject import Subject
from inversion.training import provenance
from inversion.training.metrics import image_scores


def test_the_nearest_is_found_whichever_batch_it_is_in(monkeypatch):
    class Means:
        """A run whose features are the colours' means."""

        layer, device = "conv5", torch.device("cpu")

        def encode(self, images):
            return images.mean(dim=(2, 3))

    monkeypatch.setattr(controls, "BATCH", 2)
    images = (25 * torch.arange(5, dtype=torch.uint8)).view(5, 1, 1, 1).expand(5, 3, 8, 8)
    wanted = Means().encode(pixels.to_input(images)).flip(0) + 0.01
    assert torch.equal(controls.nearest_images(Means(), wanted, images), images.flip(0))


def test_the_features_error_is_0_for_the_same_and_1_for_their_mean():
    features = torch.rand(5, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    error = controls.feature_error
    assert error(features, features) == 0
    assert error(features.mean(0).expand_as(features), features) == pytest.approx(1)


def test_a_control_has_its_runs_recipe_but_for_what_is_compared(subject):
    run = subject.runs["FC8"]
    config = controls.config_of(run, 7, "random")
    assert config.decoder == run.metadata["config"]["decoder"] and config.data == run.metadata["config"]["data"]
    assert config.trainer.max_epochs == config.scheduler.T_max == 7 and not config.test
    assert config.trainer.accelerator == "cpu"  # as the study's device
    assert run.metadata["config"]["trainer"]["max_epochs"] == 2


def test_what_a_study_trains_tells_of_the_studys_command(monkeypatch):
    hydra = SimpleNamespace(job=SimpleNamespace(config_name="study"), overrides=SimpleNamespace(task=["study=controls"]))
    monkeypatch.setattr(provenance, "HydraConfig", SimpleNamespace(initialized=lambda: True, get=lambda: hydra))
    assert provenance.command_line("train.py") == "python experiments/study.py study=controls"


def test_controls_train_what_they_compare_and_resume(sweep, tmp_path):
    subject = Subject(str(sweep / "conv5"), device="cpu")
    result = controls.controls(subject, tmp_path, epochs=None, autoencoder=True, lr=5e-4, shown=2)
    rows = {row["method"]: row for row in result.rows}
    assert list(rows) == ["Decoder", "Untrained encoder", "Autoencoder", "Nearest image", "Mean image"]
    assert rows["Nearest image"]["feature_error"] < rows["Mean image"]["feature_error"]
    last = {path.name: path / "checkpoints" / "last.ckpt" for path in (tmp_path / "conv5").iterdir()}
    assert last.keys() == {"untrained", "autoencoder"}
    of_decoder, of_autoencoder = (
        torch.load(last[name], weights_only=True)["state_dict"] for name in ("untrained", "autoencoder")
    )
    assert not any("encoder." in key.replace("decoder.", "") for key in of_decoder)
    started = Encoder("conv5", "random").network.state_dict()
    assert any(not torch.equal(of_autoencoder[f"encoder.network.{key}"], value) for key, value in started.items())
    before = {path: path.stat().st_mtime_ns for path in last.values()}
    again = controls.trained_methods(subject.runs["Conv5"], tmp_path / "conv5", epochs=None, autoencoder=True, lr=5e-4)
    assert {path: path.stat().st_mtime_ns for path in last.values()} == before
    assert again["Autoencoder"].encoder.mixed
    (scores,) = image_scores([subject.native_reconstructions(again["Autoencoder"])], subject.truth())
    assert float(scores["mse"].mean()) == pytest.approx(rows["Autoencoder"]["mse"])
