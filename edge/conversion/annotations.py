"""What pictures truly show, where ``--eval`` says so: boxes in COCO's JSON, or masks."""

from __future__ import annotations

import hashlib
import struct
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from edge.core.errors import InputError
from edge.core.lazy import require
from edge.vision import Mask
from edge.vision.average_precision import TrueBox
from edge.vision.geometry import OUTSIDE

if TYPE_CHECKING:
    from edge.core.spec import Task
    from edge.core.tensor import Array
    from edge.vision.geometry import Size

Truth = tuple[TrueBox, ...] | Mask
"""The objects in a picture, or the class of each of its pixels."""

MASKS = "masks"
IGNORED = 255
"""What a pixel has that belongs to no class and is not counted, as in Pascal VOC."""


class Annotations(ABC):
    """What is known of the pictures in a folder."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """SHA-256 of all that is known."""

    @abstractmethod
    def covers(self, picture: Path) -> bool: ...

    @abstractmethod
    def of(self, picture: Path, size: Size) -> Truth:
        """What ``picture`` shows, which is of ``size``.

        Raises:
            InputError: It can't be read, or is for a picture of another size.
        """


def open_annotations(folder: Path, task: Task, labels: Sequence[str]) -> Annotations | None:
    """Open what ``folder`` has for ``task``, if anything.

    Boxes: ``annotations.json`` or one ``instances*.json``. Masks: ``masks/<stem>.png``.

    Raises:
        InputError: There are several files, or it can't be read, or names unknown classes.
    """
    if task == "detection":
        own = folder / "annotations.json"
        files = [own] if own.exists() else sorted(folder.glob("instances*.json"))
        if len(files) > 1:
            raise InputError(
                f"{folder} has {len(files)} files of boxes: {', '.join(f.name for f in files)}",
                hint="leave one, or name it annotations.json",
            )
        return CocoBoxes(folder, files[0], labels) if files else None
    if task == "segmentation" and (folder / MASKS).is_dir():
        return MaskFiles(folder, labels)
    return None


class _Image(msgspec.Struct):
    id: int | str
    file_name: str
    width: int | None = None
    height: int | None = None


class _Object(msgspec.Struct):
    image_id: int | str
    category_id: int
    bbox: tuple[float, float, float, float]
    iscrowd: int | bool = 0


class _Category(msgspec.Struct):
    id: int
    name: str


class _Coco(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Object]
    categories: list[_Category]


class CocoBoxes(Annotations):
    """Objects of COCO's JSON; its pictures are found by path, else by their file's name."""

    def __init__(self, folder: Path, file: Path, labels: Sequence[str]) -> None:
        self._folder = folder
        self._file = file
        try:
            data = file.read_bytes()
            known = msgspec.json.decode(data, type=_Coco)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InputError(
                f"can not read the boxes in {file}: {error}",
                hint="it must have images, annotations with bbox, and categories, as COCO's have",
            ) from error
        self._digest = hashlib.sha256(data + repr(tuple(labels)).encode()).hexdigest()
        self._images = _by_name(known.images)
        self._objects = _by_image(known, _indices(known, file, labels))

    @property
    def digest(self) -> str:
        return self._digest

    def covers(self, picture: Path) -> bool:
        return self._image(picture) is not None

    def of(self, picture: Path, size: Size) -> tuple[TrueBox, ...]:
        image = self._image(picture)
        assert image is not None
        said = (image.height or size[0], image.width or size[1])
        if said != size:
            raise InputError(
                f"{self._file.name} is for {picture.name} of {said[1]}x{said[0]} pixels, "
                f"the picture has {size[1]}x{size[0]}",
                hint="pictures are turned as their EXIF orientation says; annotate them so",
            )
        return tuple(self._objects.get(image.id, ()))

    def _image(self, picture: Path) -> _Image | None:
        path = picture.relative_to(self._folder).as_posix()
        return self._images.get(path) or self._images.get(picture.name)


def _by_name(images: Sequence[_Image]) -> dict[str, _Image]:
    """Images by path, and by the last part of it where no other one has the same."""
    names = Counter(PurePosixPath(image.file_name).name for image in images)
    short = {PurePosixPath(image.file_name).name: image for image in images}
    alone = {name: image for name, image in short.items() if names[name] == 1}
    return {**alone, **{image.file_name: image for image in images}}


def _by_image(known: _Coco, indices: dict[int, int]) -> dict[int | str, list[TrueBox]]:
    objects: dict[int | str, list[TrueBox]] = {}
    for each in known.annotations:
        x, y, width, height = each.bbox
        box = TrueBox(x, y, x + width, y + height, indices[each.category_id], bool(each.iscrowd))
        objects.setdefault(each.image_id, []).append(box)
    return objects


def _indices(known: _Coco, file: Path, labels: Sequence[str]) -> dict[int, int]:
    """Class index of each category that has objects: by name in ``labels``, else by order."""
    names = {category.id: category.name for category in known.categories}
    used = {each.category_id for each in known.annotations}
    if used - names.keys():
        raise InputError(f"{file}: no category has the id {min(used - names.keys())}")
    if not labels:
        return {each: index for index, each in enumerate(sorted(names))}
    places = {label.casefold(): index for index, label in enumerate(labels)}
    unknown = sorted(names[each] for each in used if names[each].casefold() not in places)
    if unknown:
        raise InputError(
            f"{file}: the labels have no class {', '.join(map(repr, unknown[:5]))} "
            f"({len(unknown)} of {len(used)} categories)",
            hint="name categories as the file of labels does, or leave their boxes out",
        )
    return {each: places[names[each].casefold()] for each in used}


class MaskFiles(Annotations):
    """PNGs of a class index per pixel: ``masks/`` and the picture's path, or only its stem."""

    def __init__(self, folder: Path, labels: Sequence[str]) -> None:
        self._folder = folder
        self._labels = tuple(labels)

    @cached_property
    def digest(self) -> str:
        total = hashlib.sha256(repr(self._labels).encode())
        for path in sorted((self._folder / MASKS).rglob("*.png")):
            total.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
        return total.hexdigest()

    def covers(self, picture: Path) -> bool:
        return self._file(picture) is not None

    def of(self, picture: Path, size: Size) -> Mask:
        file = self._file(picture)
        assert file is not None
        classes = read_mask(file)
        if classes.shape != size:
            raise InputError(
                f"{file} has {classes.shape[1]}x{classes.shape[0]} pixels, "
                f"its picture {size[1]}x{size[0]}",
                hint="pictures are turned as their EXIF orientation says; so must masks be",
            )
        largest = int(classes.max())
        if self._labels and largest >= len(self._labels):
            raise InputError(
                f"{file} has class {largest}, the labels name {len(self._labels)}",
                hint=f"{IGNORED} marks pixels that are not to be counted",
            )
        return Mask.from_array(classes, self._labels)

    def _file(self, picture: Path) -> Path | None:
        path = picture.relative_to(self._folder).with_suffix(".png")
        places = (self._folder / MASKS / path, self._folder / MASKS / path.name)
        return next((place for place in places if place.is_file()), None)


def read_mask(file: Path) -> Array:
    """The values that a PNG stores, of a palette or gray, as int16; ``OUTSIDE`` for ``IGNORED``.

    Raises:
        InputError: It is no such PNG, or damaged.
    """
    cv2 = require("cv2", extra="vision")
    try:
        gray, depth = _as_gray(file.read_bytes())
        stored = cv2.imdecode(np.frombuffer(gray, np.uint8), cv2.IMREAD_UNCHANGED)
    except (OSError, ValueError, struct.error, cv2.error) as error:
        raise InputError(
            f"can not read mask {file}: {error}",
            hint="masks are PNGs of a palette or gray, with a class index per pixel",
        ) from error
    if stored is None:
        raise InputError(f"can not read mask {file}: it is damaged")
    # OpenCV stretches 1, 2 and 4 bits to 0..255.
    values = stored // (255 // (2**depth - 1)) if depth < 8 else stored
    classes: Array = values.astype(np.int16)
    classes[values == IGNORED] = OUTSIDE
    return classes


def _as_gray(png: bytes) -> tuple[bytes, int]:
    """The PNG without its palette, and its bits per pixel.

    OpenCV would give the palette's colours. Indices are stored as gray values are, so a header
    that says gray gives the indices.
    """
    chunks = list(_chunks(png))
    if not chunks or chunks[0][0] != b"IHDR":
        raise ValueError("it is no PNG")
    width, height, depth, color = struct.unpack(">IIBB", chunks[0][1][:10])
    if color not in (0, 3):
        raise ValueError("it has colours instead of a palette or gray")
    if depth > 8:
        raise ValueError(f"it has {depth} bits per pixel")
    header = struct.pack(">IIBB", width, height, depth, 0) + chunks[0][1][10:]
    kept = [(b"IHDR", header), *(c for c in chunks if c[0] in (b"IDAT", b"IEND"))]
    return png[:8] + b"".join(_packed(*chunk) for chunk in kept), depth


def _packed(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    while png.startswith(b"\x89PNG\r\n\x1a\n") and at + 8 <= len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        yield png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        at += 12 + length
