"""Cached features: what a frozen encoder makes of images that never change is computed once and mapped from disk."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from inversion.core import pixels
from inversion.core.errors import InputError
from inversion.data.cache import Cache, Entry
from inversion.encoders.alexnet import Encoder

log = logging.getLogger(__name__)

MIRRORED = "mirrored train"
"""The training images, left for right."""


class Part(NamedTuple):
    """The images of one part of the split, uint8 (N, 3, n, n), and a fingerprint of all that they were made from."""

    images: Tensor
    fingerprint: str


class FeatureCache:
    """Features of a data set's images in a cache, as float16 or float32, unless those of one part take over `limit_gib`."""

    def __init__(self, cache: Cache, dtype: str, limit_gib: float) -> None:
        if dtype not in ("float16", "float32"):
            raise InputError(f"data.feature_type={dtype} must be float16 or float32.")
        self.cache, self.dtype, self.limit_gib = cache, dtype, limit_gib

    def load(
        self, parts: Mapping[str, Part], encoder: Encoder, layers: Sequence[str], device: torch.device, batch_size: int
    ) -> dict[tuple[str, str], Tensor]:
        """The features, mapped from disk: (part, layer) -> (N, *feature_shape); nothing if those of `layers[0]` take too much
        room, and without the other layers' if they do.

        Where they aren't cached yet, the encoder, which is on `device` and at least as deep as every layer, computes them
        first, in one pass. The part `MIRRORED` is mirrored on the way.
        Raises InputError for features too large for float16, or a cache that can't be written.
        """
        entries = {(part, layer): self._entry(part, parts[part], encoder, layer) for layer in layers for part in parts}
        own = {(part, layer): entry for (part, layer), entry in entries.items() if layer == layers[0]}
        if not self._fits(own):
            size = sum(entry.nbytes for entry in own.values()) / 2**30
            log.info(
                f"{layers[0]} features of {', '.join(parts)} images would take {size:.1f} GiB, more than data.feature_gib or "
                "the disk allow: they are computed with every batch instead."
            )
            return {}
        small = own | {key: entry for key, entry in entries.items() if entry.nbytes <= self.limit_gib * 2**30}
        chosen = small if self._fits(small) else own

        def fill(arrays: dict[str, np.ndarray]) -> None:
            for part in parts:
                wanted = {layer: arrays[entries[part, layer].name] for layer in layers if entries[part, layer].name in arrays}
                if wanted:
                    self._encode(part, parts[part].images.split(batch_size), encoder, wanted, device)

        return dict(zip(chosen, self.cache.get(list(chosen.values()), fill), strict=True))

    def holds(self, parts: Mapping[str, Part], encoder: Encoder) -> bool:
        """Whether the encoder's features of all parts are cached, or too large to be."""
        entries = {part: self._entry(part, parts[part], encoder, encoder.layer) for part in parts}
        return self.cache.holds([*entries.values()]) or not self._fits(entries)

    def _fits(self, entries: Mapping[Any, Entry]) -> bool:
        largest = max(entry.nbytes for entry in entries.values())
        return largest <= self.limit_gib * 2**30 and self.cache.has_room([*entries.values()])

    def _entry(self, name: str, part: Part, encoder: Encoder, layer: str) -> Entry:
        key = {"images": part.fingerprint, "encoder": encoder.digest_of(layer)}
        if name == MIRRORED:
            key["mirrored"] = "left for right"
        return Entry(f"{layer} {name} features", key, (len(part.images), *encoder.shape_of(layer)), self.dtype)

    @torch.no_grad()
    def _encode(
        self, part: str, batches: Sequence[Tensor], encoder: Encoder, arrays: Mapping[str, np.ndarray], device: torch.device
    ) -> None:
        start = 0
        for batch in tqdm(batches, desc=f"Encoding {part} images", unit="batch", leave=False, disable=None):
            native = batch.to(device).flip(-1) if part == MIRRORED else batch.to(device)
            for layer, features in encoder.features(pixels.to_input(native), list(arrays)).items():
                stored = features.to(getattr(torch, self.dtype)).cpu()
                if not stored.isfinite().all():
                    raise InputError(f"Features of {layer} are too large for data.feature_type={self.dtype}: use float32.")
                arrays[layer][start : start + len(batch)] = stored.numpy()
            start += len(batch)
