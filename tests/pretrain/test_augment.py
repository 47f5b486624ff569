"""A view is what torchvision makes of the same draws, and depends on (seed, position) alone."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as ops

from pretrain.augment import CLIP_MEAN, CLIP_STD, Views, draw_views, normalise, render
from pretrain.config import DataSettings, MixtureSettings


def settings(**changes):
    return DataSettings(mixture=(MixtureSettings(path="x"),), **changes)


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def rendered(image, views, place, pad):
    out = np.full_like(image, 77)  # what the slot held before must not show
    render(image, views, place, pad, out)
    return out


def by_torchvision(image, views, place, pad):
    """The recipe's steps one after the other, with the draws of a view."""
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)
    height, width, _ = image.shape
    if views.flip[place]:
        pixels = ops.horizontal_flip(pixels)
    pixels = ops.crop(ops.pad(pixels, [pad]), int(views.top[place]), int(views.left[place]), height, width)
    top, left, tall, wide = views.erased[place].tolist()
    if tall:
        colour = torch.tensor(CLIP_MEAN).mul(255).round().to(torch.uint8).view(3, 1, 1)
        pixels = ops.erase(pixels, top, left, tall, wide, colour)
    return pixels.permute(1, 2, 0).numpy()


@given(st.integers(2, 40), st.integers(2, 40), st.integers(0, 12), st.integers(0, 2**40))
def test_one_pass_gives_what_torchvision_gives_step_by_step(height, width, pad, first):
    strong = settings(flip=0.5, pad=pad, erase=0.8)
    views = draw_views(strong, (height, width), 3, first, 12)
    image = picture(height, width)
    for place in range(12):
        assert (rendered(image, views, place, pad) == by_torchvision(image, views, place, pad)).all()


@pytest.mark.parametrize("shift", [0, 3, 20])
def test_the_outermost_crops_are_torchvisions_too(shift):
    image = picture(12, 9)
    views = Views(
        flip=np.array([True]), top=np.array([shift]), left=np.array([20 - shift]), erased=np.zeros((1, 4), int)
    )
    assert (rendered(image, views, 0, 10) == by_torchvision(image, views, 0, 10)).all()


@given(st.integers(0, 2**40), st.lists(st.integers(1, 7), min_size=1, max_size=5))
def test_a_position_has_one_view_however_positions_are_shared_out(first, parts):
    strong, size = settings(flip=0.5, pad=5, erase=0.5), (48, 24)
    whole = draw_views(strong, size, 1, first, sum(parts))
    starts = np.cumsum([0, *parts[:-1]])
    pieces = [draw_views(strong, size, 1, first + int(s), count) for s, count in zip(starts, parts, strict=True)]
    for name in ("flip", "top", "left", "erased"):
        assert (np.concatenate([getattr(piece, name) for piece in pieces]) == getattr(whole, name)).all()


def test_draws_are_as_frequent_and_as_large_as_torchvisions():
    """Shares of the area, aspects and places of 4,000 rectangles against RandomErasing's own."""
    views = draw_views(settings(flip=0.3, pad=10, erase=0.5), (384, 128), 0, 0, 8000)
    assert views.flip.mean() == pytest.approx(0.3, abs=0.02)
    assert (views.top.min(), views.top.max(), views.left.min(), views.left.max()) == (0, 20, 0, 20)
    top, left, tall, wide = views.erased[views.erased[:, 2] > 0].T
    assert len(top) / 8000 == pytest.approx(0.5, abs=0.02)
    assert (top + tall <= 384).all()
    assert (left + wide <= 128).all()
    torch.manual_seed(0)
    eraser = v2.RandomErasing(p=1.0, scale=(0.02, 0.4), ratio=(0.3, 3.3))
    drawn = [eraser.make_params([torch.zeros(3, 384, 128)]) for _ in range(4000)]
    theirs = np.array([[one["i"], one["j"], one["h"], one["w"]] for one in drawn]).T
    for ours, other in ((tall * wide, theirs[2] * theirs[3]), (np.log(tall / wide), np.log(theirs[2] / theirs[3]))):
        low, middle, high = np.quantile(other, [0.1, 0.5, 0.9])
        assert np.quantile(ours, [0.1, 0.5, 0.9]) == pytest.approx([low, middle, high], abs=0.06 * (high - low))
    assert top.mean() == pytest.approx(theirs[0].mean(), rel=0.05)


def test_without_augmentation_an_image_stays_as_it_is():
    image = picture(48, 24)
    views = draw_views(settings(flip=0.0, pad=0, erase=0.0), (48, 24), 0, 0, 3)
    assert all((rendered(image, views, place, 0) == image).all() for place in range(3))


@pytest.mark.parametrize("channels_last", [False, True])
def test_normalisation_is_clips(channels_last):
    pixels = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    if channels_last:
        pixels = pixels.contiguous(memory_format=torch.channels_last)
    mean, std = torch.tensor(CLIP_MEAN).view(3, 1, 1), torch.tensor(CLIP_STD).view(3, 1, 1)
    assert torch.allclose(normalise(pixels) * std + mean, pixels / 255, atol=1e-6)
