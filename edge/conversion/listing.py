"""Which pictures of a folder to take, and the class of each."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from edge.core.errors import InputError
from edge.vision.image import SUFFIXES

if TYPE_CHECKING:
    from io import TextIOBase

TABLE = "labels.csv"


class Listing(msgspec.Struct, frozen=True):
    """Picture files in order; ``labels`` has their class indices, ``ignored`` counts the rest."""

    files: tuple[Path, ...]
    labels: tuple[int, ...] | None = None
    ignored: int = 0

    def pick(self, indices: Sequence[int]) -> Listing:
        labels = None if self.labels is None else tuple(self.labels[i] for i in indices)
        return Listing(tuple(self.files[i] for i in indices), labels, self.ignored)


def list_pictures(
    folder: Path, role: Literal["calib", "eval"], has_classes: bool, names: Sequence[str]
) -> Listing:
    """List the pictures under ``folder``, following links.

    A ``labels.csv`` decides if there is one. Otherwise all pictures are taken, and for ``eval``
    of a model that ``has_classes``, two or more folders with pictures are its classes.

    Raises:
        InputError: There are none, one is missing, or a class is not known.
    """
    if (folder / TABLE).exists():
        return _from_table(folder, role, len(names))
    files: list[Path] = []
    others = 0
    for path in _walk(folder):
        if path.suffix.lower() in SUFFIXES:
            files.append(path)
        else:
            others += 1
    if not files:
        raise InputError(
            f"--{role} {folder} holds no pictures ({others} other files)",
            hint=f"pictures end in {', '.join(sorted(SUFFIXES))}",
        )
    classes = sorted({path.relative_to(folder).parts[0] for path in files})
    if role == "eval" and has_classes and len(classes) > 1 and _are_folders(folder, files):
        index = _class_indices(folder, classes, names)
        labels = tuple(index[path.relative_to(folder).parts[0]] for path in files)
        return Listing(tuple(files), labels, others)
    return Listing(tuple(files), None, others)


def _are_folders(folder: Path, files: Sequence[Path]) -> bool:
    return all(path.parent != folder for path in files)


def _walk(folder: Path) -> Iterator[Path]:
    """Files under ``folder`` in a fixed order; hidden ones are left out, links followed once."""
    seen = {os.path.realpath(folder)}
    for root, folders, files in os.walk(folder, followlinks=True):
        visible = sorted(name for name in folders if not name.startswith("."))
        folders.clear()
        for name in visible:
            real = os.path.realpath(os.path.join(root, name))
            if real not in seen:
                seen.add(real)
                folders.append(name)
        yield from (Path(root, name) for name in sorted(files) if not name.startswith("."))


def _class_indices(folder: Path, classes: Sequence[str], names: Sequence[str]) -> dict[str, int]:
    """Index of each class folder: by the labels, by its own number, or by its sorted place."""
    known = _names_to_index(names)
    if known and all(name.casefold() in known for name in classes):
        return {name: known[name.casefold()] for name in classes}
    if all(name.isdecimal() for name in classes) and not names:
        return {name: int(name) for name in classes}
    if names:
        unknown = [name for name in classes if name.casefold() not in known]
        raise InputError(
            f"{folder / unknown[0]} is named after no class "
            f"({len(unknown)} of {len(classes)} folders are not)",
            hint=f"classes are named {names[0]!r}, {names[-1]!r}, … in the file of labels",
        )
    return {name: index for index, name in enumerate(classes)}


def _names_to_index(names: Sequence[str]) -> dict[str, int]:
    """Names, and their first words where those tell them apart (``n01440764 tench``)."""
    first_words = [name.split()[0].casefold() if name.split() else "" for name in names]
    index = {}
    if len(set(first_words)) == len(names):
        index.update({word: at for at, word in enumerate(first_words)})
    index.update({name.casefold(): at for at, name in enumerate(names)})
    return index


def _from_table(folder: Path, role: str, classes: int) -> Listing:
    table = folder / TABLE
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            rows = _rows(stream, table)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"can not read {table}: {error}") from error
    splits = sorted({row["split"] for row in rows if row.get("split")})
    kept = [row for row in rows if not splits or row["split"] == role]
    if not kept:
        raise InputError(
            f"{table} has no rows for --{role}"
            + (f"; its splits are {', '.join(splits)}" if splits else ""),
            hint=f"mark rows with {role!r} in the column 'split'" if splits else "",
        )
    files = tuple(folder / row["file"] for row in kept)
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise InputError(f"{missing[0]} is missing; {table} lists it ({len(missing)} are missing)")
    labels = tuple(_class_index(row, table, classes) for row in kept)
    return Listing(files, labels)


def _rows(stream: TextIOBase, table: Path) -> list[dict[str, str]]:
    reader = csv.DictReader(stream)
    absent = {"file", "class_index"} - set(reader.fieldnames or ())
    if absent:
        raise InputError(
            f"{table} lacks the column {', '.join(sorted(absent))}",
            hint="its first line must be: file,class_index or file,class_index,split",
        )
    rows = []
    for row in reader:
        if not row["file"] or None in row.values() or None in row:
            raise InputError(f"{table}, line {reader.line_num}: wrong number of fields")
        rows.append(row)
    return rows


def _class_index(row: dict[str, str], table: Path, classes: int) -> int:
    text = row["class_index"]
    if not text.isdecimal() or (classes and int(text) >= classes):
        raise InputError(
            f"{table}: {row['file']} has class_index {text!r}, "
            f"not a number from 0{f' to {classes - 1}' if classes else ''}"
        )
    return int(text)
