"""PyTorch networks as ONNX files: exported programs, and modules that a function builds."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import logging
import os
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edge.conversion import graph
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

NO_PICKLES = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
"""Set while a program is read: PyTorch (2.13) would unpickle what it holds besides tensors."""

CODE = ("/data/constants/custom_obj_", "/data/constants/opaque_obj_", "/data/aotinductor/")
"""Entries of a program that PyTorch unpickles or loads as a library all the same."""

log = logging.getLogger(__name__)


class Built(NamedTuple):
    """What a factory gave."""

    module: Any
    inputs: tuple[Any, ...] | dict[str, Any]
    dynamic_shapes: Any


def export_program(path: Path, opset: int, into: Path) -> Path:
    """Export what ``torch.export.save`` wrote.

    Nothing in it is unpickled, but PyTorch evaluates the expressions of its shapes: a file made to
    do harm can run code, as a factory can.

    Raises:
        ModelError: It is damaged, or holds pickled objects, or what ONNX can't express.
    """
    torch = _torch()
    try:
        with zipfile.ZipFile(path) as archive:
            code = [name for name in archive.namelist() if any(part in name for part in CODE)]
        if code:
            raise ModelError(
                f"{path.name} holds more than a network and its weights: {code[0]}",
                hint="export the network again, without compiled code and custom objects",
            )
        with _quiet(), _no_pickles():
            program = torch.export.load(path)
    except ModelError:
        raise
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
    arguments, keywords = _call(built.inputs)
    names = list(inspect.signature(module.forward).parameters)
    given = [*names[: len(arguments)], *keywords]
    tries = [(built.dynamic_shapes, arguments, keywords)]
    if built.dynamic_shapes is None:
        wider = _widened(built.inputs, torch)
        tries.insert(0, (_dynamic_batch(wider, torch), *_call(wider)))
    error: Exception | None = None
    for shapes, values, named in tries:
        try:
            with _quiet(), torch.no_grad():
                program = torch.export.export(module, values, named, dynamic_shapes=shapes)
        except Exception as failed:  # the exporter's many errors share no base
            error = failed
            continue
        if error is not None:
            log.warning("%s is exported with the shapes of its examples: %s", name, error)
        return _export(program, given, shapes, opset, into)
    raise ModelError(
        f"PyTorch can not export {name}: {_first_line(error)}",
        hint="try torch.export.export on it by itself; it says which line stands in the way",
    ) from error


def _torch() -> Any:
    require("onnxscript", extra=EXTRA)
    return require("torch", extra=EXTRA)


def _built(name: str, torch: Any) -> Built:
    module_name, _, function_name = name.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        # What it prints belongs to nobody's results.
        with contextlib.redirect_stdout(sys.stderr):
            result = _found(module_name, function_name)()
    except EdgeError:
        raise
    except (Exception, SystemExit) as error:  # a user's code may raise anything
        raise InputError(f"{name} raised {type(error).__name__}: {error}") from error
    finally:
        with contextlib.suppress(ValueError):  # it may have changed the path itself
            sys.path.remove(here)
    parts = result if isinstance(result, tuple) else (result,)
    if (
        not 2 <= len(parts) <= 3
        or not isinstance(parts[0], torch.nn.Module)
        or not _are_tensors(parts[1], torch)
    ):
        raise InputError(
            f"{name} must return (module, example inputs) or (module, example inputs, dynamic "
            f"shapes), got {', '.join(type(part).__name__ for part in parts)}",
            hint="example inputs are a tuple of tensors, or a dict by the names that forward takes",
        )
    given = (parts[1],) if isinstance(parts[1], torch.Tensor) else parts[1]
    return Built(parts[0], _apart(given), parts[2] if len(parts) == 3 else None)


def _found(module_name: str, function_name: str) -> Any:
    try:
        return getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"can not find {module_name}:{function_name}: {error}",
            hint="the module must be installed or lie in the current folder",
        ) from error


def _are_tensors(inputs: Any, torch: Any) -> bool:
    if isinstance(inputs, torch.Tensor):
        return True
    if not isinstance(inputs, Mapping | list | tuple) or not inputs:
        return False
    values = inputs.values() if isinstance(inputs, Mapping) else inputs
    return all(isinstance(value, torch.Tensor) for value in values)


def _call(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and named arguments of ``forward``."""
    return ((), inputs) if isinstance(inputs, dict) else (tuple(inputs), {})


def _each(inputs: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(inputs, Mapping):
        return {name: change(value) for name, value in inputs.items()}
    return tuple(change(value) for value in inputs)


def _apart(inputs: Any) -> Any:
    """Copies: one tensor given for two inputs would make them one input of the program."""
    return _each(inputs, lambda value: value.clone())


def _widened(inputs: Any, torch: Any) -> Any:
    """Batches of two for batches of one, which PyTorch takes for a size that never changes."""
    return _each(
        inputs, lambda value: torch.cat([value, value]) if value.shape[:1] == (1,) else value
    )


def _dynamic_batch(inputs: Any, torch: Any) -> Any:
    batch = torch.export.Dim(BATCH)
    return _each(inputs, lambda value: {0: batch} if value.ndim else {})


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
    model = _lowered(onnx.load_model(path), opset)
    _name_axes(model, dict(zip(names, _axes(shapes, len(names)), strict=False)))
    for node in graph.all_nodes(model.graph):
        del node.metadata_props[:]  # lines and folders of the code, other ones on every machine
    onnx.save_model(model, path)
    return path


def _lowered(model: ModelProto, opset: int) -> ModelProto:
    """The model in an opset below the exporter's own; left as it is when ONNX knows no way."""
    if graph.opset_of(model) <= opset:
        return model
    for node in graph.all_nodes(model.graph):
        # The default, which ONNX's converter (1.22) keeps and the older operators do not know.
        plain = [a for a in node.attribute if a.name == "noop_with_empty_axes" and not a.i]
        for attribute in plain:
            node.attribute.remove(attribute)
    with contextlib.suppress(ModelError):  # the check of the opset says what is too new
        return graph.raise_opset(model, opset)
    return model


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
def _no_pickles() -> Iterator[None]:
    before = os.environ.get(NO_PICKLES)
    os.environ[NO_PICKLES] = "1"
    try:
        yield
    finally:
        os.environ.pop(NO_PICKLES)
        if before is not None:
            os.environ[NO_PICKLES] = before


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter from printing its progress and warnings."""
    disabled = logging.root.manager.disable
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
        logging.disable(disabled)


def _first_line(error: BaseException | None) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
