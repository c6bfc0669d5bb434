from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.core.errors import InputError
from edge.vision import load_image
from edge.vision.image import MAX_PIXELS

LOSSLESS = (".png", ".bmp", ".tiff", ".ppm")


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)


def encoded(suffix: str, array: np.ndarray, *options: int) -> bytes:
    done, data = cv2.imencode(suffix, array, options)
    assert done
    return bytes(data)


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_path_and_bytes_give_the_pixels_that_were_written(
    suffix: str, picture: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / f"photo{suffix}"
    path.write_bytes(encoded(suffix, picture))
    np.testing.assert_array_equal(load_image(path), picture)
    np.testing.assert_array_equal(load_image(str(path)), picture)
    np.testing.assert_array_equal(load_image(path.read_bytes()), picture)


def test_gray_becomes_three_equal_channels(picture: np.ndarray) -> None:
    gray = picture[:, :, 0]
    for source in (gray, gray[:, :, None], encoded(".png", gray)):
        np.testing.assert_array_equal(load_image(source), np.repeat(gray[:, :, None], 3, axis=2))


def test_alpha_is_dropped(picture: np.ndarray) -> None:
    with_alpha = np.dstack((picture, np.full((7, 5), 9, np.uint8)))
    for source in (with_alpha, encoded(".png", with_alpha)):
        np.testing.assert_array_equal(load_image(source), picture)


def test_sixteen_bits_become_eight(picture: np.ndarray) -> None:
    deep = picture.astype(np.uint16) * 257
    np.testing.assert_array_equal(load_image(encoded(".png", deep)), picture)


def test_exif_orientation_is_applied() -> None:
    array = np.zeros((8, 16, 3), np.uint8)
    array[:, :8] = 255
    data = encoded(".jpg", array, cv2.IMWRITE_JPEG_QUALITY, 100)
    entry = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)  # orientation 6: turn right to view
    tiff = b"II*\0" + struct.pack("<IH", 8, 1) + entry + b"\0\0\0\0"
    exif = b"Exif\0\0" + tiff
    turned = load_image(data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:])
    assert turned.shape == (16, 8, 3)
    assert turned[:6].min() > 200
    assert turned[10:].max() < 50


def test_array_of_the_right_form_is_not_copied(picture: np.ndarray) -> None:
    assert np.shares_memory(load_image(picture), picture)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((4, 4, 3), np.float32), "uint8"),
        (np.zeros((4, 4, 2), np.uint8), "shape"),
        (np.zeros((1, 4, 4, 3), np.uint8), "shape"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
    ],
)
def test_array_of_another_form_is_refused(array: np.ndarray, says: str) -> None:
    with pytest.raises(InputError, match=says):
        load_image(array)


@pytest.mark.parametrize("suffix", [*LOSSLESS, ".jpg", ".webp"])
def test_cut_off_picture_is_refused_by_name(suffix: str, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(suffix, array)
    path = tmp_path / f"photo{suffix}"
    for kept in (1, 5, 20, len(data) // 2, len(data) - 40):
        path.write_bytes(data[:kept])
        with pytest.raises(InputError, match=f"photo{suffix}"):
            load_image(path)


def test_jpeg_that_only_a_lenient_decoder_would_read_is_refused() -> None:
    data = encoded(".jpg", np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(InputError, match="cut off"):
        load_image(data[:-2])


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"not a picture at all", "no picture"),
        (b"RIFF\0\0\0\0WAVEfmt " + b"\0" * 40, "no picture"),
    ],
)
def test_what_is_no_picture_is_refused_by_name(data: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    with pytest.raises(InputError, match=f"photo.jpg.*{says}"):
        load_image(path)


def test_missing_file_and_folder_are_refused_by_name(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.jpg", tmp_path):
        with pytest.raises(InputError, match=path.name):
            load_image(path)


def test_picture_that_claims_too_many_pixels_is_not_decoded(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 2**14, MAX_PIXELS >> 13, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n"
    for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(9999))), (b"IEND", b"")):
        bomb += struct.pack(">I", len(body)) + kind + body
        bomb += struct.pack(">I", zlib.crc32(kind + body))
    (tmp_path / "bomb.png").write_bytes(bomb)
    # In a process of its own: OpenCV reads its bound when it is imported.
    code = "from edge.vision import load_image; load_image('bomb.png')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "InputError: can not read picture bomb.png" in done.stderr
    assert "CV_IO_MAX_IMAGE_PIXELS" in done.stderr


@pytest.mark.parametrize("suffix", [*LOSSLESS, ".jpg", ".webp"])
def test_flipped_bytes_give_a_picture_or_our_error(suffix: str) -> None:
    array = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    data = encoded(suffix, array)
    random = np.random.default_rng(1)
    for _ in range(60):
        broken = bytearray(data)
        for at in random.integers(0, min(len(data), 400), 3):
            broken[at] = random.integers(256)
        try:
            assert load_image(bytes(broken)).ndim == 3
        except InputError:
            continue
