"""The images and runs that a study looks at, their scores, and the ranges of options."""

import pytest
import torch

from inversion.core.errors import InputError
from inversion.studies.subject import check_range, image_scores


def test_each_images_scores(images):
    scores = image_scores(images, images)
    assert torch.equal(scores["mse"], torch.zeros(6)) and torch.equal(scores["psnr"], torch.full((6,), 100.0))
    assert torch.allclose(scores["ssim"], torch.ones(6))
    grey, lighter = torch.full((2, 3, 32, 32), 0.5), torch.stack([torch.full((3, 32, 32), value) for value in (0.6, 0.7)])
    assert torch.allclose(image_scores(grey, lighter)["mse"], torch.tensor([0.01, 0.04]))


def test_images_that_arent_there_are_refused(subject):
    with pytest.raises(InputError, match="part=train must be val or test"):
        subject.on("train")
    with pytest.raises(InputError, match="images=0 must be at least 1"):
        subject.on("val", 0)
    assert len(subject.on("test", 1000).images) == 6 and len(subject.on("test", 2).files) == 2


def test_ranges_of_options():
    check_range(0, 1, share=1, shares=[0, 0.5])
    with pytest.raises(InputError, match="^steps=0 must be at least 1.$"):
        check_range(1, steps=0)
    with pytest.raises(InputError, match="^shares=.0, 2. must lie between 0 and 1.$"):
        check_range(0, 1, shares=[0, 2])
