"""Which pictures are inverted, and what the reconstructions' files are called."""

from pathlib import Path

from conftest import experiment
from test_image_folder import fill


def test_a_folders_pictures_are_found_as_ones_own_images_are(tmp_path, monkeypatch):
    fill(tmp_path / "sub", 1)
    fill(tmp_path, 1)
    (tmp_path / "0.png").rename(tmp_path / "a.png")
    (tmp_path / "._a.png").write_bytes(b"\0\x05\x16\x07")
    (tmp_path / "b.jpg").mkdir()
    wanted = [tmp_path / "a.png", tmp_path / "sub" / "0.png"]
    assert experiment("invert").pictures([str(tmp_path)]) == wanted
    assert experiment("invert").pictures([str(tmp_path / "a.png"), str(tmp_path)]) == wanted  # each once
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").rename("2024")
    assert experiment("invert").pictures([2024]) == [Path("2024/0.png")]  # as Hydra takes image=2024


def test_names_never_clash_and_fit_every_file_system():
    long = "\U0001f600" * 60
    paths = [Path(f"{name}.jpg") for name in ("a", "b/a", "A", "2-a", long, f"{long}x")]
    names = experiment("invert").names_of(paths)
    assert names[:4] == ["1-a", "2-a", "3-A", "4-2-a"]
    assert len({name.lower() for name in names}) == len(paths)
    assert all(len(name.encode()) < 200 for name in names)
    assert experiment("invert").names_of(paths[2:4]) == ["A", "2-a"]
