"""What the tests of Tiny ImageNet share."""

import hashlib

from inversion.data import tiny_imagenet

FOLDER = "tiny-imagenet-200"


NO_URL = "http://127.0.0.1:9/tiny-imagenet-200.zip"  # nothing listens on port 9


def provide(root, archive=None, url=NO_URL, md5=""):
    return tiny_imagenet.provide(root, archive, url, md5)


def md5_of(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def annotations(root):
    return [line.split("\t") for line in (root / "val" / "val_annotations.txt").read_text().splitlines()]
