"""An image in a shard is a JPEG or PNG that any decoder opens as RGB, whole and not too big."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from sharding.packing.images import BadImage, ImagePolicy, prepare_image

PLAIN = ImagePolicy()


def check_image(data):
    return prepare_image(data, PLAIN)


def test_images_go_by_content_and_only_bmp_is_converted(picture):
    jpeg, png, bmp = picture(1), picture(1, "PNG"), picture(1, "BMP")
    assert [(check_image(data).ext, check_image(data).data) for data in (jpeg, png)] == [("jpg", jpeg), ("png", png)]
    converted = check_image(bmp)
    assert (converted.ext, converted.width, converted.height) == ("png", 8, 16)
    assert Image.open(io.BytesIO(converted.data)).tobytes() == Image.open(io.BytesIO(bmp)).tobytes()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP"])
def test_every_truncated_image_is_found(picture, form):
    data = picture(3, form)
    for length in range(len(data) - 1):
        with pytest.raises(BadImage, match=r"truncated|decoded|not a JPEG"):
            check_image(data[:length])


@pytest.mark.parametrize(("width", "height"), [(8000, 6251), (60_000, 60_000)])
def test_a_huge_image_is_refused_by_its_header_alone(picture, width, height):
    png = bytearray(picture(1, "PNG"))
    png[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    png[29:33] = zlib.crc32(png[12:29]).to_bytes(4, "big")
    with pytest.raises(BadImage, match="more than 50,000,000 pixels"):
        check_image(bytes(png))


def test_cmyk_is_refused(picture):
    with pytest.raises(BadImage, match="CMYK"):
        check_image(picture(1, mode="CMYK"))


def test_sixteen_bit_grey_is_refused_because_it_would_be_read_as_white(picture):
    with pytest.raises(BadImage, match="more than 8 bits per channel"):
        check_image(picture(1, "PNG", "I;16"))
    assert check_image(picture(1, "PNG", "L")).ext == "png"


def test_a_cut_jpeg_with_a_thumbnail_is_found_though_the_thumbnail_ends_well(picture):
    thumbnail, image = picture(1), picture(2)
    exif = b"Exif\0\0" + thumbnail
    whole = image[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + image[2:]
    assert check_image(whole).width == 8
    for length in range(len(whole) - len(image), len(whole) - 1):
        with pytest.raises(BadImage, match=r"truncated|decoded"):
            check_image(whole[:length])


def test_the_pixel_limit_is_the_callers(picture):
    assert prepare_image(picture(1), ImagePolicy(most_pixels=128)).height == 16
    for form in ("JPEG", "PNG", "BMP"):
        with pytest.raises(BadImage, match="more than 127 pixels"):
            prepare_image(picture(1, form), ImagePolicy(most_pixels=127))


def test_damage_in_the_middle_is_found_by_decoding_only(picture):
    png = bytearray(picture(1, "PNG"))
    png[50] ^= 255
    assert check_image(bytes(png)).ext == "png"
    with pytest.raises(BadImage, match="cannot be decoded"):
        prepare_image(bytes(png), ImagePolicy(decode=True))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP"])
def test_resizing_gives_a_jpeg_of_that_height_and_width(form):
    pixels = np.linspace(0, 255, 60 * 20 * 3).reshape(60, 20, 3).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    resized = prepare_image(buffer.getvalue(), ImagePolicy(resize=(384, 128), quality=90))
    image = Image.open(io.BytesIO(resized.data))
    assert (resized.ext, resized.height, resized.width, image.size, image.format) == (
        "jpg",
        384,
        128,
        (128, 384),
        "JPEG",
    )
    there = np.asarray(Image.fromarray(pixels).resize((128, 384), Image.Resampling.BICUBIC), dtype=float)
    assert np.abs(np.asarray(image, dtype=float) - there).mean() < 4


def test_damaged_exif_data_stops_no_resizing(picture):
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = exif.tobytes()
    for position in range(6, len(whole)):
        buffer = io.BytesIO()
        damaged = whole[:position] + bytes([whole[position] ^ 255]) + whole[position + 1 :]
        Image.new("RGB", (8, 16)).save(buffer, "JPEG", exif=damaged)
        assert prepare_image(buffer.getvalue(), ImagePolicy(resize=(16, 8))).height == 16


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_as_pillow_turns_it(orientation):
    pixels = np.linspace(0, 255, 30 * 10 * 3).reshape(30, 10, 3).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(buffer.getvalue())))
    expected = np.asarray(upright.resize((20, 40), Image.Resampling.BICUBIC), dtype=float)
    resized = prepare_image(buffer.getvalue(), ImagePolicy(resize=(40, 20), quality=100))
    assert np.abs(np.asarray(Image.open(io.BytesIO(resized.data)), dtype=float) - expected).mean() < 3


def test_resizing_turns_an_image_upright(picture):
    image = Image.new("RGB", (30, 10), "red")
    image.paste("blue", (0, 0, 15, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif, quality=95)
    resized = Image.open(io.BytesIO(prepare_image(buffer.getvalue(), ImagePolicy(resize=(30, 10))).data))
    assert resized.getpixel((5, 3))[2] > 200
    assert resized.getpixel((5, 26))[0] > 200
