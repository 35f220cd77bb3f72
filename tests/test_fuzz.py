"""Files damaged at random: each is taken, or refused in one sentence. Nothing else may be raised.

A quick slice always runs; INVERSION_FUZZ says how many cases of each kind the long one tries.
"""

import io
import os
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from test_weights import Tiny

from inversion.core.errors import InputError
from inversion.core.images import read_image
from inversion.data import tiny_imagenet
from inversion.encoders.weights import find_weights, fitting
from inversion.results import trained
from inversion.training import checkpoints

QUICK = 20
LONG = int(os.environ.get("INVERSION_FUZZ", "600"))
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM")


@st.composite
def damages(draw) -> Callable[[bytes], bytes]:
    """Some changes of a file's bytes: cut, flipped, overwritten, put in, taken out, doubled."""
    steps = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["cut", "flip", "write", "insert", "remove", "double"]),
                st.floats(0, 1, exclude_max=True),
                st.binary(min_size=1, max_size=24),
            ),
            min_size=1,
            max_size=4,
        )
    )

    def damage(content: bytes) -> bytes:
        for kind, place, data in steps:
            at = int(place * len(content))
            if kind == "cut":
                content = content[:at]
            elif kind == "flip" and content:
                content = content[:at] + bytes([content[at] ^ data[0]]) + content[at + 1 :]
            elif kind == "write":
                content = content[:at] + data + content[at + len(data) :]
            elif kind == "insert":
                content = content[:at] + data + content[at:]
            elif kind == "remove":
                content = content[:at] + content[at + len(data) :]
            elif kind == "double":
                content = content[:at] + content[at // 2 :]
        return content

    return damage


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 70),
    st.floats(),
    st.text(max_size=12),
    st.lists(st.integers(0, 9), max_size=3),
    st.dictionaries(st.text(max_size=4), st.integers(0, 9), max_size=2),
    st.builds(torch.zeros, st.lists(st.integers(0, 4), max_size=4)),
    st.just(torch.full((3,), torch.nan)),
)


@st.composite
def changes(draw) -> Callable[[object], None]:
    """Some changes of what a file holds: keys renamed, removed and added, values replaced, at any depth."""
    seed, steps = (
        draw(st.integers(0, 2**32)),
        draw(st.lists(st.tuples(st.sampled_from("rda"), VALUES), min_size=1, max_size=3)),
    )

    def change(content: object) -> None:
        rng = random.Random(seed)
        for kind, value in steps:
            inner = content
            while isinstance(inner, dict) and (deeper := [v for v in inner.values() if isinstance(v, dict) and v]):
                if rng.random() < 0.3:
                    break
                inner = rng.choice(deeper)
            key = rng.choice(list(inner)) if inner else "new"
            if kind == "d":
                inner.pop(key, None)
            else:
                inner[key if kind == "r" else f"{key} more"] = value

    return change


def taken_or_refused(call: Callable[..., object], *arguments: object) -> None:
    try:
        call(*arguments)
    except InputError as error:
        said = str(error)
        assert "\n" not in said and said.endswith((".", "?")) and len(said) < 700, said


def many(test):
    """Runs the test on a few cases always, and on many in the long slice."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    options = {"deadline": None, "suppress_health_check": checks, "database": None}
    slices = [pytest.param(QUICK, id="few"), pytest.param(LONG, id="many", marks=pytest.mark.slow)]

    @pytest.mark.parametrize("cases", slices)
    @pytest.mark.filterwarnings("ignore")
    def run(cases, request, tmp_path):
        settings(max_examples=cases, derandomize=cases == QUICK, **options)(test(request, tmp_path))()

    run.__doc__ = test.__doc__
    return run


@many
def test_archives(request, tmp_path):
    source = tmp_path / "whole.zip"
    with zipfile.ZipFile(request.getfixturevalue("archive")) as old, zipfile.ZipFile(source, "w") as new:
        names = [name for name in old.namelist() if name.endswith(".txt") or "n90000000_1" in name or "val_1." in name]
        for i, name in enumerate(names):
            new.writestr(name, old.read(name), zipfile.ZIP_DEFLATED if i % 2 else zipfile.ZIP_STORED)
    content = source.read_bytes()

    def use(path: Path, root: Path) -> None:
        tiny_imagenet.read_split(tiny_imagenet.provide(root, path, "", ""), 1, 1, 0)

    @given(damages())
    def check(damage):
        root = tmp_path / "data"
        shutil.rmtree(root, ignore_errors=True)
        (tmp_path / "damaged.zip").write_bytes(damage(content))
        taken_or_refused(use, tmp_path / "damaged.zip", root)
        left = {path.name for path in root.iterdir()} if root.is_dir() else set()
        assert left <= {".lock", "tiny-imagenet-200"}
        assert {path.name for path in tmp_path.iterdir()} <= {"whole.zip", "damaged.zip", "data"}

    return check


@many
def test_images(request, tmp_path):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 31, 3), dtype=np.uint8))
    whole = {}
    for name in FORMATS:
        picture.save(buffer := io.BytesIO(), name)
        whole[name] = buffer.getvalue()

    @given(st.sampled_from(FORMATS), damages())
    def check(name, damage):
        (tmp_path / "image").write_bytes(damage(whole[name]))
        taken_or_refused(read_image, tmp_path / "image", 16)

    return check


@many
def test_weights(request, tmp_path):
    state = Tiny().state_dict()
    torch.save(state, tmp_path / "whole.pt")
    content = (tmp_path / "whole.pt").read_bytes()
    path = tmp_path / "weights.pt"

    def use() -> None:
        fitting(find_weights(str(path), list(state)), state, list(state), str(path))

    @given(st.one_of(damages(), changes()))
    def check(harm):
        if harm.__name__ == "damage":
            path.write_bytes(harm(content))
        else:
            changed = dict(state)
            harm(changed)
            torch.save(changed, path)
        taken_or_refused(use)

    return check


@many
def test_checkpoints(request, tmp_path):
    monkeypatch = request.getfixturevalue("monkeypatch")
    folder = shutil.copytree(REPOSITORY / "tests" / "fixtures" / "run", tmp_path / "run")
    path = checkpoints.path_of(folder, checkpoints.BEST)
    content = path.read_bytes()
    encoder = trained.load(folder, any_weights=True).encoder
    build = trained.build
    monkeypatch.setattr(
        trained, "build", lambda name, *args, **options: encoder if name == "encoder" else build(name, *args, **options)
    )

    @given(st.one_of(damages(), changes()))
    def check(harm):
        if harm.__name__ == "damage":
            path.write_bytes(harm(content))
        else:
            whole = torch.load(io.BytesIO(content), weights_only=True)
            harm(whole)
            torch.save(whole, path)
        taken_or_refused(trained.load, folder)

    return check
