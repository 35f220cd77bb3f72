"""The images and runs that a study looks at, their scores, and the ranges of options."""

import pytest

from inversion.core.errors import InputError
from inversion.results import trained
from inversion.studies.subject import Subject, check_range


def test_images_that_arent_there_are_refused(subject):
    with pytest.raises(InputError, match="part=train must be val or test"):
        subject.on("train")
    with pytest.raises(InputError, match="images=0 must be a whole number, at least 1"):
        subject.on("val", 0)
    assert len(subject.on("test", 1000).images) == 6 and len(subject.on("test", 2).files) == 2


@pytest.mark.parametrize("other", [{"split": "another"}, {"native_size": 32}])
def test_runs_of_other_images_are_not_studied_together(sweep, monkeypatch, other):
    def changed(folder, weights):
        run = load(folder, weights)
        if run.layer == "fc8":
            run.metadata = run.metadata | other
            run.decoder.native_size = other.get("native_size", run.native_size)
        return run

    load = trained.load
    monkeypatch.setattr(trained, "load", changed)
    with pytest.raises(InputError, match="different draws or sizes of images"):
        Subject(str(sweep), device="cpu")


def test_ranges_of_options():
    check_range(0, 1, share=1, shares=[0, 0.5])
    with pytest.raises(InputError, match="^steps=0 must be at least 1.$"):
        check_range(1, steps=0)
    with pytest.raises(InputError, match="^shares=.0, 2. must lie between 0 and 1.$"):
        check_range(0, 1, shares=[0, 2])
    for value in ("all", ["a"], None):
        with pytest.raises(InputError, match="^images=.* must be at least 1.$"):
            check_range(1, images=value)
