"""Files made to do harm: none runs code, none fills memory or disk, each is told in one sentence."""

import shutil
import struct
import zlib

import pytest
import torch
from conftest import run_train
from PIL import Image
from test_checkpoints import half_done
from test_weights import Touch

from inversion.core.errors import InputError
from inversion.core.images import read_image
from inversion.results import runs, trained
from inversion.training import checkpoints


def refused(call, *arguments):
    with pytest.raises(InputError) as error:
        call(*arguments)
    return str(error.value)


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def huge_png(path):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b""))


def huge_jpeg(path):
    Image.new("RGB", (64, 64)).save(path, "JPEG")
    content = bytearray(path.read_bytes())
    struct.pack_into(">HH", content, content.index(b"\xff\xc0") + 5, 50_000, 50_000)
    path.write_bytes(content)


@pytest.mark.parametrize("write", [huge_png, huge_jpeg])
def test_an_image_of_50000_by_50000_pixels_is_refused_unread(tmp_path, one_line, write):
    write(tmp_path / "huge.JPEG")
    said = refused(read_image, tmp_path / "huge.JPEG", 64)
    assert "huge.JPEG" in one_line(said) and "more than 178,956,970 pixels" in said


def test_a_web_page_called_jpeg_is_no_image(tmp_path, one_line):
    (tmp_path / "page.JPEG").write_text("<!DOCTYPE html><html><body>404</body></html>")
    assert "page.JPEG can't be read (a web page" in one_line(refused(read_image, tmp_path / "page.JPEG", 64))


@pytest.fixture
def run(sweep, tmp_path):
    return shutil.copytree(sweep / "fc8", tmp_path / "run")


def change(path, change):
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


def test_code_in_a_checkpoint_never_runs(run, tmp_path, one_line):
    best, marker = checkpoints.path_of(run, checkpoints.BEST), tmp_path / "marker"
    change(best, lambda content: content["state_dict"].update(code=Touch(marker)))
    assert "damaged, or no checkpoint (UnpicklingError)" in one_line(refused(trained.load, run))
    torch.save({"files": Touch(marker)}, run / runs.SAMPLES_FILE)
    assert "samples.pt" in one_line(refused(runs.FinishedRun.load, run))
    assert not marker.exists()
    torch.load(best, weights_only=False)["state_dict"]["code"].close()
    assert marker.exists()  # it would have, had it run


@pytest.mark.parametrize("name", ["encoder", "decoder", "data"])
def test_a_config_in_a_checkpoint_can_name_no_command(run, tmp_path, one_line, name):
    marker = tmp_path / "marker"
    command = {"_target_": "os.system", "command": f"touch {marker}"}
    best = checkpoints.path_of(run, checkpoints.BEST)
    for place in ({name: command}, {name: {"_target_": "torch.nn.Identity", "more": [command]}}):
        change(best, lambda content, place=place: content[checkpoints.METADATA]["config"].update(place))
        assert "doesn't say what run it is of" in one_line(refused(trained.load, run))
    assert not marker.exists()


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (lambda content: content["state_dict"].popitem(), "doesn't fit"),
        (lambda content: content["state_dict"].update(more=torch.zeros(1)), "doesn't fit"),
        (lambda content: content["state_dict"].update({next(iter(content["state_dict"])): torch.zeros(3)}), "doesn't fit"),
        (lambda content: content.update(state_dict=[1, 2]), "holds no weights"),
        (lambda content: content["inversion"].update(format=1), "of an older version of this project"),
        (lambda content: content["inversion"].pop("encoder"), "other encoder weights"),
        (lambda content: content["inversion"]["config"].pop("decoder"), "doesn't say what run"),
    ],
)
def test_checkpoints_of_another_shape_are_refused(run, one_line, harm, expected):
    change(checkpoints.path_of(run, checkpoints.BEST), harm)
    assert expected in one_line(refused(trained.load, run))


def test_one_byte_changed_among_a_checkpoints_weights_is_found(run, one_line):
    best = checkpoints.path_of(run, checkpoints.BEST)
    content = bytearray(best.read_bytes())
    content[len(content) // 2] ^= 1
    best.write_bytes(content)
    torch.load(best, weights_only=True)  # sees nothing
    assert "damaged, or no checkpoint (BadZipFile)" in one_line(refused(trained.load, run))


@pytest.mark.parametrize("harm", [lambda content: content["state_dict"].popitem(), lambda content: content.pop("loops")])
def test_a_run_does_not_go_on_from_what_does_not_fit(sweep, quick, tmp_path, one_line, harm):
    folder = half_done(sweep, tmp_path)
    change(checkpoints.path_of(folder, checkpoints.LAST), harm)
    outcome = run_train("layer=fc8", *quick, f"hydra.run.dir={folder}")
    assert outcome.code == 1 and "last.ckpt doesn't fit its run" in one_line(outcome.said)
