"""Every image that a shard may hold comes out as upright RGB of the size asked for, or says why it cannot."""

import io
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as v2

from pretrain.decode import ALIGNED, Scratch, Undecodable, decode, resize
from sharding.packing.images import MOST_PIXELS, ORIENTATION

SIZE = (48, 24)
COLOUR = (200, 40, 40)


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 60), st.integers(1, 60))
def test_resizing_is_torchvisions(height, width, tall, wide):
    image = noise(height, width)
    ours = resize(image, (tall, wide))
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    theirs = v2.resize(pixels, [tall, wide], InterpolationMode.BICUBIC, antialias=True).permute(1, 2, 0).numpy()
    assert ours.shape == (tall, wide, 3)
    assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_nothing_is_resized_where_the_size_is_right():
    image = Image.fromarray(noise(*SIZE))
    data = encoded(image, "JPEG", quality=95)
    assert (decode(data, SIZE) == np.asarray(Image.open(io.BytesIO(data)))).all()
    assert (decode(encoded(image, "PNG"), SIZE) == np.asarray(image)).all()


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_large_photo_is_halved_while_it_is_decoded_and_looks_the_same(factor):
    small = Image.fromarray(noise(12, 6)).resize((24 * factor, 48 * factor), Image.Resampling.BICUBIC)
    data = encoded(small, "JPEG", quality=95)
    whole = resize(np.array(Image.open(io.BytesIO(data))), SIZE)
    assert np.abs(decode(data, SIZE).astype(int) - whole).mean() < 3


@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("RGB", "JPEG", {}),
        ("L", "JPEG", {}),
        ("CMYK", "JPEG", {}),
        ("RGB", "JPEG", {"progressive": True}),
        ("RGB", "JPEG", {"subsampling": 2}),
        ("RGB", "PNG", {}),
        ("RGBA", "PNG", {}),
        ("L", "PNG", {}),
        ("LA", "PNG", {}),
        ("P", "PNG", {}),
        ("P", "PNG", {"transparency": 0}),
        ("1", "PNG", {}),
    ],
)
def test_every_kind_of_image_comes_out_as_rgb_of_the_right_size(mode, kind, options):
    image = Image.new("RGB", (90, 200), COLOUR)
    image.paste((20, 200, 60), (0, 100, 90, 200))
    image = image.convert(mode)
    pixels = decode(encoded(image, kind, **options), SIZE)
    assert pixels.shape == (*SIZE, 3)
    assert pixels.dtype == np.uint8
    expected = np.asarray(image.convert("RGB").resize((24, 48), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(pixels - expected).mean() < 6


def test_sixteen_bits_are_scaled_and_not_clipped():
    steps = np.linspace(0, 65535, 48).astype(np.uint16)
    grey = Image.fromarray(np.repeat(steps[:, None], 24, 1))
    assert grey.mode.startswith("I")
    pixels = decode(encoded(grey, "PNG"), SIZE)
    assert np.abs(pixels.astype(int) - (steps // 256)[:, None, None]).max() <= 1


UNDO = {  # how an upright image is stored that EXIF turns by this orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def turned(image, orientation, kind, **options):
    """The image, stored as a camera that was held so would store it."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = image.transpose(UNDO[orientation]) if orientation > 1 else image
    return encoded(stored, kind, exif=exif, **options)


@pytest.mark.parametrize("scale", [1, 5])
@pytest.mark.parametrize(("kind", "options"), [("JPEG", {}), ("JPEG", {"comment": b"before EXIF"}), ("PNG", {})])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_what_a_camera_took_sideways_stands_upright(kind, options, orientation, scale):
    upright = Image.new("RGB", (24, 48), (0, 0, 0))
    upright.paste((250, 0, 0), (0, 0, 12, 24))  # each quarter another colour
    upright.paste((0, 250, 0), (12, 0, 24, 24))
    upright.paste((0, 0, 250), (0, 24, 12, 48))
    large = upright.resize((24 * scale, 48 * scale), Image.Resampling.NEAREST)
    data = turned(large, orientation, kind)
    if options:  # a segment of another kind comes first
        data = data[:2] + b"\xff\xfe\x00\x06note" + data[2:]
    assert np.abs(decode(data, SIZE).astype(int) - np.asarray(upright)).mean() < 8


@pytest.mark.filterwarnings("ignore")  # Pillow's, of the damage
@pytest.mark.parametrize(
    ("kind", "good", "damaged"),
    [
        ("JPEG", b"MM\0*", b"XX\0*"),  # no TIFF header
        ("PNG", b"MM\0*", b"XX\0*"),
        ("JPEG", b"\x01\x0e\0\x02", b"\x01\x0e\0\x03"),  # a text that calls itself a number
    ],
)
def test_damaged_exif_spoils_no_image(kind, good, damaged):
    exif = Image.Exif()
    exif[ORIENTATION], exif[0x010E] = 1, "a description"
    data = encoded(Image.fromarray(noise(*SIZE)), kind, exif=exif)
    assert data.count(good) == 1
    spoilt = data.replace(good, damaged)
    if kind == "PNG":  # its chunks are checked
        place = spoilt.index(b"eXIf")
        end = place + 4 + int.from_bytes(spoilt[place - 4 : place], "big")
        spoilt = spoilt[:end] + zlib.crc32(spoilt[place:end]).to_bytes(4, "big") + spoilt[end + 4 :]
    assert (decode(spoilt, SIZE) == decode(data, SIZE)).all()


def test_a_large_photo_from_the_side_is_as_sharp_as_an_upright_one():
    wide = Image.fromarray(noise(30, 60)).resize((240, 120), Image.Resampling.BICUBIC)
    upright, sideways = (decode(turned(wide, orientation, "JPEG", quality=95), SIZE) for orientation in (1, 6))
    assert np.abs(upright.astype(int) - sideways).mean() < 3


def test_cmyk_is_understood_inverted_and_not():
    ink = Image.new("CMYK", (24, 48), (0, 230, 230, 20))  # red
    inverted = encoded(ink, "JPEG")  # as Adobe writes it, and says so
    marker = inverted.index(b"\xff\xee")
    after = marker + 2 + int.from_bytes(inverted[marker + 2 : marker + 4], "big")
    plain = encoded(Image.eval(ink, lambda value: 255 - value), "JPEG")  # turned over by hand, and nothing said
    plain = plain[:marker] + plain[after:]
    for data in (inverted, plain):
        assert np.abs(decode(data, SIZE).astype(int) - np.asarray(ink.convert("RGB"))).max() < 6


@pytest.mark.parametrize("kind", ["plain", "grey", "exif"])
def test_a_jpeg_with_its_middle_missing_is_refused(kind):
    """Decoders fill what is missing with grey and only warn."""
    image = Image.fromarray(noise(64, 64))
    data = (
        turned(image, 6, "JPEG") if kind == "exif" else encoded(image.convert("L" if kind == "grey" else "RGB"), "JPEG")
    )
    decode(data, SIZE)
    with pytest.raises(Undecodable, match="Corrupt JPEG data"):
        decode(data[: len(data) * 2 // 3] + b"\xff\xd9", SIZE)


@pytest.mark.parametrize("mode", ["RGB", "P", "L"])
def test_a_png_with_damaged_pixels_is_refused(mode):
    data = bytearray(encoded(Image.fromarray(noise(64, 64)).convert(mode), "PNG"))
    place = data.index(b"IDAT") + 200
    data[place : place + 50] = bytes(50)
    with pytest.raises(Undecodable):
        decode(bytes(data), SIZE)


@pytest.mark.filterwarnings("error")
def test_a_palette_with_transparency_does_not_fill_the_log():
    image = Image.fromarray(noise(*SIZE)).convert("P")
    data = encoded(image, "PNG", transparency=bytes(range(200)))
    assert (decode(data, SIZE) == np.asarray(image.convert("RGB"))).all()


KINDS = [
    turned(Image.fromarray(noise(40, 20)), 6, "JPEG"),
    encoded(Image.fromarray(noise(40, 20)), "JPEG", progressive=True),
    encoded(Image.fromarray(noise(40, 20)).convert("CMYK"), "JPEG"),
    turned(Image.fromarray(noise(40, 20)), 8, "PNG"),
    encoded(Image.fromarray(noise(40, 20)).convert("P"), "PNG", transparency=bytes(200)),
]


@pytest.mark.filterwarnings("ignore")  # Pillow's, of what is damaged
@given(st.sampled_from(KINDS), st.lists(st.tuples(st.integers(0, 250), st.integers(0, 255)), max_size=4), st.data())
def test_damage_of_any_kind_gives_an_image_or_undecodable(whole, changes, draw):
    data = bytearray(whole)
    for place, value in changes:
        data[place] = value
    try:
        pixels = decode(bytes(data[: draw.draw(st.integers(1, len(data)))]), SIZE)
    except Undecodable as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert pixels.shape == (*SIZE, 3)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "cannot identify"),
        (b"\xff\xd8\xff", "."),
        (b"GIF89a" + bytes(40), "cannot identify"),
        (encoded(Image.fromarray(noise(64, 64)), "JPEG")[:900], "."),
        (encoded(Image.fromarray(noise(64, 64)), "PNG")[:900], "."),
        (encoded(Image.new("RGB", (8, 8)), "GIF"), "cannot identify"),
    ],
)
def test_what_is_no_whole_image_says_so_in_one_line(data, reason):
    with pytest.raises(Undecodable, match=reason) as caught:
        decode(data, SIZE)
    assert "\n" not in str(caught.value)


def test_more_pixels_than_a_shard_may_hold_are_refused_by_their_header():
    data = bytearray(encoded(Image.new("RGB", (64, 64)), "JPEG"))
    place = data.index(b"\xff\xc0") + 5  # height and width in the frame header
    data[place : place + 4] = (10_000).to_bytes(2, "big") + (10_000).to_bytes(2, "big")
    with pytest.raises(Undecodable, match=f"more than {MOST_PIXELS:,}"):
        decode(bytes(data), SIZE)


def test_a_scratch_that_is_used_again_shows_nothing_of_the_image_before():
    scratch = Scratch()
    pictures = [encoded(Image.fromarray(noise(h, w, seed=h)), "JPEG") for h, w in ((96, 40), SIZE, (30, 12), SIZE)]
    fresh = [decode(data, SIZE).copy() for data in pictures]
    again = [decode(data, SIZE, scratch).copy() for data in pictures]
    assert all((a == b).all() for a, b in zip(fresh, again, strict=True))


@given(st.lists(st.integers(1, 300_000), min_size=1, max_size=4))
def test_a_scratch_is_large_enough_and_never_aligned(sizes):
    """Aligned, libjpeg-turbo writes it past the caches."""
    scratch = Scratch()
    for size in sizes:
        buffer = scratch.of(size)
        assert len(buffer) >= size
        assert buffer.ctypes.data % ALIGNED == 1


def test_what_libjpeg_only_warns_of_is_shown_where_no_image_may_be_missing():
    whole = encoded(Image.fromarray(noise(64, 64)), "JPEG")
    odd = whole[:-2] + bytes(40) + whole[-2:]  # bytes that belong to nothing, before the end mark
    with pytest.raises(Undecodable, match="xtraneous"):
        decode(odd, SIZE)
    assert (decode(odd, SIZE, strict=False) == decode(whole, SIZE)).all()
