"""Metrics that a user brings as ``module:function``."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from edge.core.errors import InputError, SettingsError
from edge.core.manifest import Metric

if TYPE_CHECKING:
    from edge.core.tensor import Feeds

MOST = 120.0
"""What an infinite value is written as, such as the PSNR of the source with itself, in dB."""

Outputs = Sequence["Feeds"]


class UserMetric:
    """``function(outputs, references, feeds, labels)``, of which more is better.

    It is called once per variant. All four are sequences with one entry per sample: what the
    variant answers, what the source answers, the inputs, and the labels (None where there are
    none). Answers and inputs are dicts of arrays by name.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        digest: str,
        folders: Sequence[Path] = (),
    ) -> None:
        self.name = name
        self.digest = digest
        self._function = function
        self._folders = folders

    def value(
        self, outputs: Outputs, references: Outputs, feeds: Outputs, labels: Sequence[Any]
    ) -> Metric:
        """Call the function.

        Raises:
            InputError: It raises, or gives something that is no number.
        """
        try:
            with _importable(self._folders):
                given = self._function(outputs, references, feeds, labels)
        except Exception as error:  # a user's code may raise anything
            raise InputError(
                f"metric {self.name} raised {type(error).__name__}: {error}",
                hint="it gets (outputs, references, feeds, labels), a sequence each",
            ) from error
        try:
            number = float(given)
        except (TypeError, ValueError):
            number = math.nan
        if math.isnan(number):
            raise InputError(
                f"metric {self.name} gave {given!r} for {len(outputs)} samples, which is no number",
                hint="return one float; more must be better",
            )
        if math.isinf(number):
            number = math.copysign(MOST, number)
        return Metric(self.name, round(number, 4))


def load_metric(text: str, folder: Path) -> UserMetric:
    """Import ``module:function``; files in ``folder`` and the current folder come first.

    Raises:
        SettingsError: There is no such module or function.
    """
    module_name, _, name = text.partition(":")
    places = [folder.resolve(), Path.cwd()]
    files = [place / f"{module_name}.py" for place in places]
    file = next((file for file in files if file.is_file()), None)
    with _importable(places):
        try:
            module = _load(file) if file else importlib.import_module(module_name)
            function = getattr(module, name)
        except (ImportError, AttributeError, ValueError) as error:
            raise SettingsError(
                f"can not import metric {text!r}: {error}",
                hint="write it as module:function; the module lies beside model.toml or here",
            ) from error
        except Exception as error:  # what the module does when it is imported
            raise SettingsError(
                f"metric {text!r}: importing it raised {type(error).__name__}: {error}"
            ) from error
    if not callable(function):
        raise SettingsError(f"metric {text!r} is no function")
    return UserMetric(function, name, _digest(function), places)


def _load(file: Path) -> ModuleType:
    """Import a file under a name of its own: two folders may have modules of one name."""
    unique = f"edge_metric_{hashlib.sha256(str(file).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(unique, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no Python module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _importable(folders: Sequence[Path]) -> Iterator[None]:
    """What a metric imports lies beside it; it may do so when it is called, too."""
    added = [str(folder) for folder in folders]
    sys.path[:0] = added
    try:
        yield
    finally:
        for folder in added:
            sys.path.remove(folder)


def _digest(function: Callable[..., Any]) -> str:
    """Of the modules in the function's folder, which it may import."""
    file = inspect.getsourcefile(function)
    total = hashlib.sha256()
    for path in sorted(Path(file).parent.glob("*.py")) if file else ():
        total.update(path.read_bytes())
    return total.hexdigest()
