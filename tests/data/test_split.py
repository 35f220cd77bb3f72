import json
from pathlib import Path

import pytest

from inversion.core.errors import InputError
from inversion.data.split import Split, draw_classes, hold_out

IDS = [f"n{i:08d}" for i in range(200)]


def test_classes_are_drawn_by_the_seed_whatever_the_order():
    assert draw_classes(IDS, 20, 3) == draw_classes(IDS[::-1], 20, 3)
    assert draw_classes(IDS, 20, 3) != draw_classes(IDS, 20, 4)
    assert draw_classes(IDS, 20, 3) == sorted(set(draw_classes(IDS, 20, 3)))
    assert draw_classes(IDS, None, 3) == IDS


@pytest.mark.parametrize("number", [0, -1, 201])
def test_an_impossible_number_of_classes_is_refused(number):
    with pytest.raises(InputError, match="between 1 and 200"):
        draw_classes(IDS, number, 0)


def test_hold_out_is_seeded_disjoint_and_complete():
    files = [f"{i}.JPEG" for i in range(500)]
    kept, held = hold_out(files, 50, 0, "n1")
    assert len(kept) == 450 and len(held) == 50
    assert sorted(kept + held) == sorted(files)
    assert hold_out(files[::-1], 50, 0, "n1") == (kept, held)
    assert hold_out(files, 50, 1, "n1") != (kept, held)
    assert hold_out(files, 50, 0, "n2") != (kept, held)


@pytest.mark.parametrize("number", [0, 5, 6])
def test_hold_out_leaves_something_on_both_sides(number):
    with pytest.raises(InputError, match=f"has 5 images, of which {number} can't be held out .data.val_per_class"):
        hold_out(list("abcde"), number, 0, "n1")


def test_save_writes_classes_and_files(tmp_path):
    split = Split(tmp_path, {"n1": "goldfish"}, ["a"], ["b"], ["c"], {"seed": 0})
    split.save(tmp_path / "split.json")
    content = json.loads((tmp_path / "split.json").read_text())
    assert content["classes"] == [{"id": "n1", "name": "goldfish"}]
    assert (content["train"], content["val"], content["test"]) == (["a"], ["b"], ["c"])


def test_a_file_may_lie_elsewhere_without_changing_the_split(tmp_path):
    here, there = Split(tmp_path, {}, ["a"], ["b"], ["c"]), Split(tmp_path, {}, ["a"], ["b"], ["c"], paths={"a": "x/a.png"})
    assert (there.path("a"), there.path("b")) == (tmp_path / "x" / "a.png", tmp_path / "b")
    assert there.digest == here.digest


def test_a_source_of_ones_own_may_have_no_test_images():
    with pytest.raises(InputError, match=r"here has no test images: give some, or train with test=false\."):
        Split(Path("here"), {"n1": "n1"}, ["a"], ["b"], []).files("test")


def test_missing_test_images_are_told_when_they_are_asked_for():
    split = Split(Path(), {"n1": "n1"}, ["a"], ["b"], [], class_of={"a": "n1", "b": "n1"}, no_test="There are none.")
    assert split.files("train") == ["a"] and split.labels("val") == [0]
    for ask in (split.files, split.labels):
        with pytest.raises(InputError, match="There are none"):
            ask("test")
