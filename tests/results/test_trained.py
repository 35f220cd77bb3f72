"""Loading finished runs, and one's own pictures through them."""

import shutil

import pytest
import torch
from conftest import REPOSITORY, Outcome, run_experiment
from PIL import Image

from inversion.core import pixels
from inversion.core.errors import InputError
from inversion.encoders.alexnet import random_alexnet
from inversion.results import runs
from inversion.results.trained import load, read_images


@pytest.mark.parametrize("layer", ["conv5", "fc8"])
def test_a_loaded_run_reconstructs_as_it_did_when_it_was_trained(sweep, layer):
    samples = runs.FinishedRun.load(sweep / layer).samples
    run = load(sweep / layer)
    assert run.layer == layer and run.native_size == 64
    images = pixels.normalize(samples.originals)
    pictures = pixels.to_uint8(pixels.denormalize(run.reconstruct(images)))
    assert (pictures.int() - samples.reconstructions.int()).abs().max() <= 3  # the originals were rounded to bytes
    assert torch.equal(run.decode(run.encode(images)), run.reconstruct(images))


def test_other_weights_than_the_runs_are_refused(sweep, tmp_path, one_line):
    torch.save(random_alexnet(0).state_dict(), tmp_path / "same.pt")
    torch.save(random_alexnet(1).state_dict(), tmp_path / "other.pt")
    assert load(sweep / "fc8", str(tmp_path / "same.pt")).layer == "fc8"
    with pytest.raises(InputError, match="other encoder weights") as error:
        load(sweep / "fc8", str(tmp_path / "other.pt"))
    one_line(str(error.value))


def test_other_weights_can_be_asked_for(sweep, tmp_path):
    torch.save(random_alexnet(1).state_dict(), tmp_path / "other.pt")
    run = load(sweep / "fc8", str(tmp_path / "other.pt"), any_weights=True)
    assert run.encoder.digest != run.metadata["encoder"]


def test_a_checkpoint_of_november_2026_opens_and_reconstructs_as_it_did():
    """It stays as it is as long as the format of checkpoints does."""
    run = load(REPOSITORY / "tests" / "fixtures" / "run", any_weights=True)  # other machines may draw other random weights
    assert (run.layer, run.native_size, run.metadata["config"]["encoder"]["weights"]) == ("conv5", 16, "random")
    assert run.metadata["encoder"].startswith("c04cc66881230b75")
    images = run.decode(torch.linspace(0, 1, 256 * 36).reshape(1, 256, 6, 6))
    expected = torch.tensor([0.02330798, -0.33158505, 0.32929960])
    assert torch.allclose(images.mean(dim=(0, 2, 3)), expected, atol=1e-4)
    assert torch.allclose(images[0, :, 113, 113], torch.tensor([0.02140450, -0.49969462, 0.55846155]), atol=1e-4)


def test_a_decoder_can_be_exported_more_than_once():
    """As docs/python.md says."""
    run = load(REPOSITORY / "tests" / "fixtures" / "run", any_weights=True)
    decoder, features = torch.nn.Sequential(run.standardize, run.decoder).eval(), torch.rand(3, 256, 6, 6)
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    exported = [torch.export.export(decoder, (features[:2],), dynamic_shapes=shapes).module() for _ in range(2)]
    assert all(torch.allclose(one(features), decoder(features), atol=1e-6) for one in exported)


def test_a_folder_without_a_run_is_refused(sweep, tmp_path, one_line):
    with pytest.raises(InputError, match="holds no trained run") as error:
        load(tmp_path)
    one_line(str(error.value))
    shutil.copytree(sweep / "fc8", tmp_path / "cut")
    best = tmp_path / "cut" / "checkpoints" / "best.ckpt"
    best.write_bytes(best.read_bytes()[:1000])
    with pytest.raises(InputError, match="damaged, or no checkpoint") as error:
        load(tmp_path / "cut")
    one_line(str(error.value))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK", "I;16", "P", "L", "1", "LA"])
@pytest.mark.parametrize("size", [(1, 1), (300, 40), (64, 64)])
def test_pictures_of_any_mode_and_size_are_read(tmp_path, mode, size):
    path = tmp_path / ("x.tiff" if mode in ("CMYK", "I;16") else "x.png")
    Image.new(mode, size, 0).save(path)
    images = read_images([path], 64)
    assert images.shape == (1, 3, 227, 227)
    expected = 1 if mode in ("RGBA", "LA", "CMYK") else -1  # nothing of it, on white; and black
    assert torch.allclose(images, torch.tensor(float(expected)), atol=0.02)


def test_the_first_frame_of_an_animation_is_taken(tmp_path):
    frames = [Image.new("RGB", (80, 80), colour) for colour in ("white", "black")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert read_images(tmp_path / "x.gif", 64).min() > 0.95


def test_the_middle_square_is_cut_out(tmp_path):
    picture = Image.new("RGB", (300, 100), "black")
    picture.paste("white", (90, 0, 210, 100))
    picture.save(tmp_path / "x.png")
    assert read_images([tmp_path / "x.png"], 64).min() > 0.9


def test_ones_own_pictures_become_a_figure_and_single_images(sweep, tmp_path, capsys):
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    for name, colour in (("a.png", "red"), ("b.jpg", "blue")):
        Image.new("RGB", (120, 90), colour).save(folder / name)
    assert run_experiment("invert", f"image=[{folder}]", f"runs={sweep}", f"hydra.run.dir={out}") == Outcome(0, "")
    assert str(out / "inversions.png") in capsys.readouterr().out
    names = {path.name for path in out.glob("*.png")}
    assert names == {"inversions.png"} | {f"{image}_{title}.png" for image in "ab" for title in ("original", "conv5", "fc8")}
    with Image.open(out / "inversions.png") as figure:
        assert figure.width > 3 * 227 and 2 * 227 < figure.height < 3 * 227
    with Image.open(out / "a_original.png") as original:
        assert original.size == (227, 227) and original.getpixel((100, 100)) == (255, 0, 0)


def test_what_cant_be_inverted_is_said(sweep, tmp_path, one_line):
    photo = tmp_path / "photo.png"
    Image.new("RGB", (50, 50)).save(photo)
    (tmp_path / "page.jpg").write_text("<html>")
    (tmp_path / "empty").mkdir()
    for arguments, expected in (
        ([f"image={tmp_path / 'none.png'}", f"runs={sweep}"], "no such file"),
        ([f"image={tmp_path / 'page.jpg'}", f"runs={sweep}"], "page.jpg"),
        ([f"image={tmp_path / 'empty'}", f"runs={sweep}"], "without images"),
        ([f"image={photo}", f"runs={tmp_path / 'empty'}"], "holds no finished run"),
        ([f"image={photo}", f"runs={sweep}", "size=500"], "size=500"),
    ):
        done = run_experiment("invert", *arguments, f"hydra.run.dir={tmp_path / 'out'}")
        assert done.code == 1 and expected in one_line(done.said)
