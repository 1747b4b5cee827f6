"""Every kind of file a camera or a labelling tool may leave, whole and broken."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from sdi.runtime.common.errors import InputError
from sdi.runtime.common.images import decode_image, list_images, read_gray, read_image, resize_image, write_image

SUFFIXES = (".png", ".bmp", ".jpg", ".tif")


def _encode(suffix: str, image: np.ndarray) -> bytes:
    return cv2.imencode(suffix, image)[1].tobytes()


def _with_app1(jpeg: bytes, payload: bytes) -> bytes:
    """The JPEG with one more APP1 segment after its start marker."""
    return jpeg[:2] + b"\xff\xe1" + (len(payload) + 2).to_bytes(2, "big") + payload + jpeg[2:]


def _exif(orientation: int) -> bytes:
    """A TIFF header and one directory with one entry, tag 0x0112, type SHORT."""
    entry = b"\x12\x01\x03\x00\x01\x00\x00\x00" + orientation.to_bytes(2, "little") + b"\x00\x00"
    return b"Exif\x00\x00II\x2a\x00\x08\x00\x00\x00\x01\x00" + entry + b"\x00\x00\x00\x00"


@pytest.mark.parametrize(
    ("suffix", "channels", "depth"),
    [
        (suffix, channels, depth)
        for suffix in SUFFIXES
        for channels in ("gray", "colour", "alpha")
        for depth in (np.uint8, np.uint16)
        if (channels != "alpha" or suffix != ".jpg") and (depth is np.uint8 or suffix in (".png", ".tif"))
    ],
)
def test_read_image_reads_every_kind(
    suffix: str, channels: str, depth: type, tmp_path: Path, picture: Callable[..., np.ndarray]
) -> None:
    colour = picture(1)
    stored = colour
    if channels == "gray":
        stored = colour[..., 0]
        colour = np.repeat(stored[..., None], 3, axis=2)
    elif channels == "alpha":
        stored = np.dstack([colour, np.arange(colour[..., 0].size, dtype=np.uint8).reshape(colour.shape[:2])])
    stored = stored.astype(depth) * (257 if depth is np.uint16 else 1)
    path = tmp_path / f"strip{suffix}"
    path.write_bytes(_encode(suffix, stored))

    image = read_image(path)

    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.shape == colour.shape
    tolerance = 12 if suffix == ".jpg" else 0
    assert int(np.abs(image.astype(int) - colour).max()) <= tolerance
    assert read_gray(path).shape == colour.shape[:2]


def test_sixteen_bit_maps_its_full_range_whatever_the_picture_holds(tmp_path: Path) -> None:
    levels = np.array([[0, 128, 129, 257, 32767, 32896, 65406, 65407, 65535]], np.uint16)
    path = tmp_path / "dark.png"
    path.write_bytes(_encode(".png", levels))
    assert read_gray(path)[0].tolist() == [round(int(v) / 257) for v in levels[0]]
    path.write_bytes(_encode(".png", np.full((4, 4), 500, np.uint16)))
    assert read_image(path).max() == 2  # not stretched


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda image: image),
        (2, lambda image: image[:, ::-1]),
        (3, lambda image: image[::-1, ::-1]),
        (4, lambda image: image[::-1]),
        (5, lambda image: image.swapaxes(0, 1)),
        (6, lambda image: np.rot90(image, -1)),
        (7, lambda image: image.swapaxes(0, 1)[::-1, ::-1]),
        (8, lambda image: np.rot90(image)),
    ],
)
def test_exif_orientation_is_applied(
    orientation: int,
    upright: Callable[[np.ndarray], np.ndarray],
    tmp_path: Path,
    picture: Callable[..., np.ndarray],
) -> None:
    jpeg = _encode(".jpg", picture(2))
    stored = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    path = tmp_path / "phone.jpg"
    path.write_bytes(_with_app1(jpeg, _exif(orientation)))
    assert np.array_equal(read_image(path), upright(stored))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.995])
def test_truncated_file_is_refused(
    suffix: str, part: float, tmp_path: Path, picture: Callable[..., np.ndarray]
) -> None:
    data = _encode(suffix, picture(3, (150, 200)))
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(InputError, match=r"cut\.\w+.*(truncated|corrupt)"):
        read_image(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_one_missing_byte_is_noticed(suffix: str, tmp_path: Path, picture: Callable[..., np.ndarray]) -> None:
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(_encode(suffix, picture(3))[:-1])
    with pytest.raises(InputError, match="truncated"):
        read_image(path)


def test_a_thumbnail_does_not_hide_that_the_picture_is_cut(tmp_path: Path, picture: Callable[..., np.ndarray]) -> None:
    """The thumbnail in a camera's JPEG has an end marker of its own."""
    whole = _with_app1(_encode(".jpg", picture(4, (90, 120))), b"Exif\x00\x00" + _encode(".jpg", picture(4, (30, 40))))
    path = tmp_path / "camera.jpg"
    path.write_bytes(whole)
    assert read_image(path).shape == (90, 120, 3)
    path.write_bytes(whole[:-300])
    with pytest.raises(InputError, match="truncated"):
        read_image(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_padding_after_the_end_is_no_fault(suffix: str, tmp_path: Path, picture: Callable[..., np.ndarray]) -> None:
    path = tmp_path / f"padded{suffix}"
    data = _encode(suffix, picture(5))
    path.write_bytes(data)
    plain = read_image(path)
    path.write_bytes(data + bytes(10_000))
    assert np.array_equal(read_image(path), plain)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_corrupt_bytes_give_a_picture_or_an_input_error(
    suffix: str, tmp_path: Path, picture: Callable[..., np.ndarray]
) -> None:
    data = _encode(suffix, picture(6))
    rng = np.random.default_rng(0)
    path = tmp_path / f"corrupt{suffix}"
    refused = 0
    for _ in range(60):
        broken = bytearray(data)
        for place in rng.integers(0, len(broken), 4):
            broken[place] = int(rng.integers(0, 256))
        path.write_bytes(broken)
        try:
            assert read_image(path).dtype == np.uint8
        except InputError:
            refused += 1
    assert refused > 0


def test_png_with_a_damaged_middle_is_refused(tmp_path: Path, picture: Callable[..., np.ndarray]) -> None:
    data = bytearray(_encode(".png", picture(7, (150, 200))))
    data[len(data) // 2 : len(data) // 2 + 100] = bytes(100)
    path = tmp_path / "damaged.png"
    path.write_bytes(data)
    with pytest.raises(InputError, match="corrupt"):
        read_image(path)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "is empty"),
        (b"not a picture at all", "corrupt, or no 8 or 16 bit BMP, PNG, JPEG or TIFF"),
        (bytes(5000), "corrupt"),
        (b"\x89PNG\r\n\x1a\n", "truncated"),
        (b"\xff\xd8\xff", "truncated"),
        (b"BM", "corrupt"),
        (b"II\x2a\x00", "corrupt"),
    ],
)
def test_no_picture_at_all(data: bytes, text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(data)
    with pytest.raises(InputError, match=text):
        read_image(path)


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read image .*gone\.png: No such file"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(InputError, match="cannot read image"):
        read_image(tmp_path)
    with pytest.raises(InputError, match="cannot read image"):
        read_image(tmp_path / ("x" * 300 + ".png"))


def _tiff(image: np.ndarray) -> bytes:
    """A TIFF 6.0 file of (H, W, 3) values of any kind, uncompressed, in one strip."""
    height, width, channels = image.shape
    bits, kind = 8 * image.itemsize, {"u": 1, "i": 2, "f": 3}[image.dtype.kind]
    entries = [(256, width), (257, height), (258, bits), (259, 1), (262, 2), (273, 0), (277, channels)]
    entries += [(278, height), (279, image.nbytes), (339, kind)]
    data_at = 8 + 2 + 12 * len(entries) + 4
    values = dict(entries) | {273: data_at}
    head = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in values.items())
    return head + table + bytes(4) + image.astype(image.dtype.newbyteorder("<")).tobytes()


@pytest.mark.parametrize("depth", [np.float32, np.int16, np.int32])
def test_other_depths_are_refused(depth: type, tmp_path: Path, picture: Callable[..., np.ndarray]) -> None:
    path = tmp_path / "depth.tif"
    path.write_bytes(_tiff(picture(8).astype(depth)))
    name = np.dtype(depth).name  # where OpenCV knows no such picture, it tells no depth either
    expected = rf"depth\.tif( holds {name} values; expected 8 or 16 bit|: it is corrupt, or no 8 or 16 bit BMP)"
    with pytest.raises(InputError, match=expected):
        read_image(path)


def test_the_drawn_tiff_is_one(tmp_path: Path, picture: Callable[..., np.ndarray]) -> None:
    path = tmp_path / "whole.tif"
    path.write_bytes(_tiff(picture(8)[:, :, ::-1]))
    assert np.array_equal(read_image(path), picture(8))


@pytest.mark.parametrize("name", ["[red].png", "ü ä ß.bmp", "100%d.png", "über strip/日本.tif"])
def test_unusual_names(name: str, tmp_path: Path, picture: Callable[..., np.ndarray]) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    write_image(path, picture(9))
    assert np.array_equal(read_image(path), picture(9))


def test_write_image_keeps_gray_bit_for_bit_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    write_image(tmp_path / "map.png", gray)
    assert np.array_equal(read_gray(tmp_path / "map.png"), gray)
    assert [path.name for path in tmp_path.iterdir()] == ["map.png"]


def test_write_image_says_what_is_wrong(tmp_path: Path) -> None:
    gray = np.zeros((4, 4), np.uint8)
    with pytest.raises(InputError, match=r"'\.xyz' is no image format"):
        write_image(tmp_path / "map.xyz", gray)
    with pytest.raises(InputError, match="cannot write"):
        write_image(tmp_path / "no folder" / "map.png", gray)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InputError, match="cannot write"):
        write_image(tmp_path / "folder.png", gray)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


def test_list_images_orders_numbers_and_leaves_out_what_is_no_picture(tmp_path: Path) -> None:
    for name in ("In_10.png", "In_2.BMP", "In_1.jpeg", "notes.txt", ".hidden.png"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["In_1.jpeg", "In_2.BMP", "In_10.png"]


def test_list_images_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no image in folder"):
        list_images(tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        list_images(tmp_path / "gone")
    with pytest.raises(InputError, match="cannot read folder"):
        list_images(tmp_path / ("x" * 300))


def test_resize_image(picture: Callable[..., np.ndarray]) -> None:
    image = picture(10)
    assert resize_image(image, (32, 48)) is image
    assert resize_image(image, (64, 50)).shape == (64, 50, 3)
    ramp = np.array([[0, 100]], np.float32)
    # Corners not aligned: centres of the four new pixels lie at -.25, .25, .75, 1.25 of the old ones.
    assert resize_image(ramp, (1, 4))[0].tolist() == [0, 25, 75, 100]


def test_bytes_are_decoded_as_their_file_is(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 65536, (9, 7), dtype=np.uint16)  # gray, 16 bit
    path = tmp_path / "a.png"
    assert cv2.imwrite(str(path), picture)
    assert np.array_equal(decode_image(path.read_bytes()), read_image(path))


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"", "is empty"), (b"no picture", "cannot decode image"), (b"\xff\xd8\xff\xe0cut", "is truncated")],
)
def test_bytes_that_are_no_picture_are_named(data: bytes, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        decode_image(data, "of line 7")
    assert "image of line 7" in str(caught.value)
