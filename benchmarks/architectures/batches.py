"""Inputs of the tiny models.  Made on the host, from a fixed seed; the run moves them."""

from __future__ import annotations

from collections.abc import Callable

import torch

Batch = dict[str, torch.Tensor]

VOCABULARY = 90
"""Token ids stay below this: what comes after is a model's special tokens."""
LENGTH = 12
IMAGE_TOKEN = 90


def _ids(batch: int = 2, length: int = LENGTH) -> torch.Tensor:
    return torch.randint(4, VOCABULARY, (batch, length))


def tokens() -> Batch:
    """A language model's: labels are the ids."""
    ids = _ids()
    return {"input_ids": ids, "labels": ids.clone()}


def masked() -> Batch:
    return tokens() | {"attention_mask": _padding()}


def _padding() -> torch.Tensor:
    mask = torch.ones(2, LENGTH, dtype=torch.long)
    mask[1, 9:] = 0
    return mask


def classes() -> Batch:
    return {"input_ids": _ids(), "labels": torch.tensor([0, 1])}


def padded() -> Batch:
    return classes() | {"attention_mask": _padding()}


def seq2seq() -> Batch:
    return {"input_ids": _ids(), "attention_mask": _padding(), "labels": _ids(length=8)}


def image() -> Batch:
    return {"pixel_values": torch.randn(2, 3, 32, 32)}


def pixels() -> Batch:
    return image() | {"labels": torch.tensor([0, 1])}


def segments() -> Batch:
    return image() | {"labels": torch.randint(0, 2, (2, 32, 32))}


def spectrogram() -> Batch:
    return {"input_features": torch.randn(2, 8, 32), "labels": _ids(length=8)}


def audio_values() -> Batch:
    return {"input_values": torch.randn(2, 16, 16), "labels": torch.tensor([0, 1])}


def waveform() -> Batch:
    return {"input_values": torch.randn(2, 400), "labels": torch.tensor([0, 1])}


def text_and_image() -> Batch:
    ids = _ids()
    ids[:, -1] = 2  # CLIP reads its text at the end token
    return {"input_ids": ids} | image()


def caption() -> Batch:
    return tokens() | image()


def image_in_text() -> Batch:
    ids = _ids(length=24)
    ids[:, 2:18] = IMAGE_TOKEN  # one per patch: (32 / 8) ** 2
    return {"input_ids": ids, "labels": ids.clone()} | image()


MAKERS: dict[str, Callable[[], Batch]] = {
    f.__name__: f
    for f in (
        tokens, masked, classes, padded, seq2seq, image, pixels, segments, spectrogram, audio_values,
        waveform, text_and_image, caption, image_in_text,
    )
}  # fmt: skip
