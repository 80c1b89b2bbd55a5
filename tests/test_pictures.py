"""Still pictures of every kind come out as they are meant to be seen."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from singlelife.pictures import read_picture

GREY = 180


def encoded(picture: Image.Image, form: str, **more) -> io.BytesIO:
    file = io.BytesIO()
    picture.save(file, form, **more)
    file.seek(0)
    return file


def png(depth: int, colour: int, rows: list[bytes], width: int) -> io.BytesIO:
    """A PNG of any bit depth and colour type, which Pillow does not write."""
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", body), (b"IEND", b"")]
    parts = [struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks]
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


DEEP = Image.fromarray(np.full((4, 6), GREY << 8, np.uint16))
PALETTE = Image.new("P", (6, 4), 1)
PALETTE.putpalette([0, 0, 0, GREY, GREY, GREY])


def tiff(bits: int, photometric: int, row: bytes) -> io.BytesIO:
    """Six pixels in each of four rows, as scanners write them."""
    tags = [(256, 6), (257, 4), (258, bits), (259, 1), (262, photometric), (273, 122), (277, 1), (278, 4)]
    tags.append((279, 4 * len(row)))
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    return io.BytesIO(b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + 4 * row)


@pytest.mark.parametrize(
    "source",
    [
        encoded(DEEP, "PNG"),
        encoded(DEEP, "TIFF"),
        encoded(DEEP, "TIFF", compression="tiff_lzw"),
        encoded(DEEP, "JPEG2000", irreversible=False),
        io.BytesIO(b"P5\n6 4\n65535\n" + 24 * struct.pack(">H", GREY << 8)),
        png(16, 2, 4 * [18 * struct.pack(">H", GREY << 8)], 6),
        png(16, 6, 4 * [6 * struct.pack(">4H", *3 * [GREY << 8], 65535)], 6),
        png(16, 4, 4 * [6 * struct.pack(">2H", GREY << 8, 65535)], 6),
        encoded(PALETTE, "PNG"),
        encoded(Image.new("LA", (6, 4), (GREY, 255)), "PNG"),
        encoded(Image.new("CMYK", (6, 4), (0, 0, 0, 255 - GREY)), "JPEG", quality=100),
        Image.new("YCbCr", (6, 4), (GREY, 128, 128)),
        tiff(12, 1, 3 * bytes([0xB4, 0x0B, 0x40])),  # 0xB40 is GREY << 4
        tiff(16, 0, 6 * struct.pack("<H", 65535 - (GREY << 8))),  # 0 is white
        DEEP,
    ],
    ids=lambda _: "",
)
def test_grey_stays_grey_whatever_it_is_stored_as(source):
    picture = read_picture(source)
    assert (picture.mode, picture.size) == ("RGB", (6, 4))
    np.testing.assert_allclose(np.asarray(picture), GREY, atol=1)


def test_what_is_transparent_is_white_and_1_bit_is_black_or_white():
    clear = Image.new("RGBA", (3, 1), (10, 20, 30, 0))
    clear.putpixel((1, 0), (10, 20, 30, 255))
    clear.putpixel((2, 0), (255, 0, 0, 128))
    shown = [[255] * 3, [10, 20, 30], [255, 127, 127]]
    assert np.asarray(read_picture(encoded(clear, "PNG"))).tolist() == [shown]
    assert np.asarray(read_picture(encoded(clear, "WEBP", lossless=True))).tolist() == [shown]
    hole = PALETTE.copy()
    hole.info["transparency"] = 1
    assert np.asarray(read_picture(encoded(hole, "GIF", transparency=1))).min() == 255
    assert np.asarray(read_picture(Image.new("1", (2, 2), 1))).min() == 255


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_all_eight_orientations_come_out_upright(orientation, form):
    """Red and green above blue and white, in every way that a camera may have held it."""
    upright = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8).repeat(16, 0)
    upright = upright.repeat(24, 1)
    undo = [None, None, "FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_90", "TRANSVERSE",
            "ROTATE_270"][orientation]  # fmt: skip
    stored = Image.fromarray(upright)
    stored = stored.transpose(Image.Transpose[undo]) if undo else stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = np.asarray(read_picture(encoded(stored, form, exif=exif)))
    assert picture.shape == upright.shape
    assert np.abs(picture[8::16, 12::24].astype(int) - upright[8::16, 12::24]).max() < 40


def test_what_cannot_be_told_or_held_is_refused(tmp_path):
    for mode, value in (("F", 0.5), ("I", 70_000)):
        with pytest.raises(ValueError, match=f"mode {mode}"):
            read_picture(encoded(Image.new(mode, (4, 4), value), "TIFF"))
    for width, height in ((50_000, 50_000), (40_000_000, 1)):
        with pytest.raises(ValueError, match=r"pixels"):
            read_picture(bomb(width, height))
    file = tmp_path / "cut.jpg"
    file.write_bytes(encoded(Image.new("RGB", (64, 64)), "JPEG").getvalue()[:-200])
    for path in (file, tmp_path / "none.png"):
        with pytest.raises(ValueError, match=path.name):
            read_picture(path)
    with pytest.raises(ValueError, match="not a picture"):
        read_picture(encoded(DEEP, "TIFF"), formats=("PNG",))


def bomb(width: int, height: int) -> io.BytesIO:
    """A PNG whose header alone is large."""
    content = bytearray(png(8, 0, [b"\0"], 1).getvalue())
    content[16:24] = struct.pack(">2I", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    return io.BytesIO(bytes(content))
