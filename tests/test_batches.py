"""The views in which training images are shown."""

import torch

from inversion.batches import ImageSet, Views


def by_hand(image, move, mirrored):
    """A view of an image (3, n, n), drawn slowly: moved by pixels (down, right) with reflected borders, then mirrored."""
    padded = torch.nn.functional.pad(image[None].float(), (8, 8, 8, 8), mode="reflect")[0].to(torch.uint8)
    down, right = move
    moved = padded[:, 8 + down : 72 + down, 8 + right : 72 + right]
    return moved.flip(-1) if mirrored else moved


def test_a_view_is_the_image_moved_and_mirrored():
    images = torch.randint(0, 256, (9, 3, 64, 64), dtype=torch.uint8)
    views = Views(9, flip=True, shifted=2, shift=6)
    data = ImageSet(images, range(9), views=views)
    for place, view in enumerate(views.views):
        batch = data.__getitems__([9 * place + i for i in range(9)])
        for i, image in enumerate(batch.images):
            assert torch.equal(image, by_hand(images[i], views._moves[view.copy, i].tolist(), view.mirrored))
        assert batch.labels.tolist() == list(range(9))
    mixed = [9 * place + i for i, place in enumerate((3, 0, 5, 1, 2, 4))]
    for image, index in zip(data.__getitems__(mixed).images, mixed, strict=True):
        assert torch.equal(image, data[index].images[0])


def test_features_are_those_of_the_view():
    features = [torch.full((4, 2), float(view)) for view in range(6)]
    data = ImageSet(torch.zeros(4, 3, 16, 16, dtype=torch.uint8), range(4), features, Views(4, True, 2, 1))
    assert data.__getitems__([0, 21, 10, 6, 15]).features[:, 0].tolist() == [0, 5, 2, 1, 3]


def test_copies_are_moved_by_up_to_a_share_of_the_side():
    moves = Views(1000, shifted=2, shift=3)._moves
    assert not moves[0].any() and (moves[1] != moves[2]).any()
    for copy in (1, 2):
        assert set(moves[copy].flatten().tolist()) == set(range(-3, 4))
    assert torch.equal(moves[:, :10], Views(10, shifted=2, shift=3)._moves)  # an image's own, whatever comes after it
