"""PyTorch networks as ONNX files: exported programs, and modules that a function builds."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edge.core.errors import EdgeError, InputError, ModelError
from edge.core.lazy import require

if TYPE_CHECKING:
    from onnx import ModelProto

EXTRA = "torch"
SUFFIX = ".pt2"
FILE = "exported.onnx"

OPSET = 18
"""What PyTorch's exporter writes; older ones are converted from it."""

BATCH = "batch"


class Built(NamedTuple):
    """What a factory gave."""

    module: Any
    inputs: tuple[Any, ...] | dict[str, Any]
    dynamic_shapes: Any


def export_program(path: Path, opset: int, into: Path) -> Path:
    """Export what ``torch.export.save`` wrote. No code of the file is run.

    Raises:
        ModelError: It is damaged, or holds what ONNX can't express.
    """
    torch = _torch()
    try:
        with _quiet():
            program = torch.export.load(path)
    except Exception as error:  # zipfile, JSON and PyTorch's own
        raise ModelError(
            f"{path.name} is no exported program, or damaged: {_first_line(error)}",
            hint="write it with torch.export.save(torch.export.export(module, inputs), path)",
        ) from error
    return _export(program, (), None, opset, into)


def export_factory(name: str, opset: int, into: Path) -> Path:
    """Export the network that ``module:function`` builds.

    The function takes nothing and returns ``(module, inputs)`` or ``(module, inputs,
    dynamic_shapes)``: inputs are a tuple or a dict of example tensors, dynamic shapes what
    ``torch.export.export`` takes. Without them the first axis of all inputs is dynamic, if the
    network allows it.

    Raises:
        InputError: It can not be imported, raises, or returns something else.
        ModelError: The network can not be exported.
    """
    torch = _torch()
    built = _built(name, torch)
    module = built.module.eval()
    arguments, keywords = (
        ((), built.inputs) if isinstance(built.inputs, dict) else (built.inputs, {})
    )
    names = list(inspect.signature(module.forward).parameters)
    given = [*names[: len(arguments)], *keywords]
    shapes = built.dynamic_shapes
    guesses = [shapes] if shapes is not None else [_dynamic_batch(built, given, torch), None]
    error: Exception | None = None
    for guess in guesses:
        try:
            with _quiet(), torch.no_grad():
                program = torch.export.export(module, arguments, keywords, dynamic_shapes=guess)
        except Exception as failed:  # the exporter's many errors share no base
            error = error or failed
            continue
        return _export(program, given, guess, opset, into)
    raise ModelError(
        f"PyTorch can not export {name}: {_first_line(error)}",
        hint="try torch.export.export on it by itself; it says which line stands in the way",
    ) from error


def _torch() -> Any:
    require("onnxscript", extra=EXTRA)
    return require("torch", extra=EXTRA)


def _built(name: str, torch: Any) -> Built:
    module_name, _, function_name = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        factory = getattr(importlib.import_module(module_name), function_name)
        result = factory()
    except EdgeError:
        raise
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"can not find {name}: {error}",
            hint="the module must be installed or lie in the current folder",
        ) from error
    except Exception as error:  # a user's code may raise anything
        raise InputError(f"{name} raised {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(Path.cwd()))
    parts = result if isinstance(result, tuple) else (result,)
    if not isinstance(parts[0], torch.nn.Module) or not 2 <= len(parts) <= 3:
        raise InputError(
            f"{name} must return (module, example inputs) or (module, example inputs, dynamic "
            f"shapes), got {', '.join(type(part).__name__ for part in parts)}",
            hint="example inputs are a tuple of tensors, or a dict by the names that forward takes",
        )
    given = (parts[1],) if isinstance(parts[1], torch.Tensor) else parts[1]
    return Built(parts[0], _apart(given), parts[2] if len(parts) == 3 else None)


def _apart(inputs: Any) -> Any:
    """Copies: one tensor given for two inputs would make them one input of the program."""
    if isinstance(inputs, Mapping):
        return {name: value.clone() for name, value in inputs.items()}
    return tuple(value.clone() for value in inputs)


def _dynamic_batch(built: Built, names: list[str], torch: Any) -> dict[str, dict[int, Any]]:
    values = built.inputs.values() if isinstance(built.inputs, dict) else built.inputs
    batch = torch.export.Dim(BATCH)
    return {
        name: {0: batch} if isinstance(value, torch.Tensor) and value.ndim else {}
        for name, value in zip(names, values, strict=True)
    }


def _export(program: Any, names: Any, shapes: Any, opset: int, into: Path) -> Path:
    torch = _torch()
    path = into / FILE
    try:
        with _quiet(), torch.no_grad():
            exported = torch.onnx.export(
                program, (), None, dynamo=True, opset_version=min(OPSET, opset), verbose=False
            )
            exported.save(path)
    except Exception as error:  # as above
        raise ModelError(
            f"PyTorch can not write the network as ONNX: {_first_line(error)}",
            hint="operators without a counterpart in ONNX have to be replaced in the network",
        ) from error
    onnx = require("onnx", extra="convert")
    model = onnx.load_model(path)
    _name_axes(model, dict(zip(names, _axes(shapes, len(names)), strict=True)))
    onnx.save_model(model, path)
    return path


def _axes(shapes: Any, count: int) -> list[Mapping[int, Any]]:
    """Dynamic axes by position of the input, however they were given."""
    each = list(shapes.values() if isinstance(shapes, Mapping) else shapes or [])
    each += [None] * (count - len(each))
    return [shape if isinstance(shape, Mapping) else dict(enumerate(shape or ())) for shape in each]


def _name_axes(model: ModelProto, axes: Mapping[str, Mapping[int, Any]]) -> None:
    """Give axes the names the user gave, for the exporter's own (``s43``)."""
    names: dict[str, str] = {}
    for value in model.graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_param and dim.dim_param not in names:
                wanted = axes.get(value.name, {}).get(axis)
                name = getattr(wanted, "__name__", wanted if isinstance(wanted, str) else "")
                names[dim.dim_param] = name or (BATCH if axis == 0 else f"{value.name}_{axis}")
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_param = names[dim.dim_param]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter from printing its progress and warnings."""
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _first_line(error: BaseException | None) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
