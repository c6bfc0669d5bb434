"""Every deliberate error: what failed with its values, and a hint of what to do next."""

from __future__ import annotations


class EdgeError(Exception):
    """Base of all errors that this project raises on purpose.

    Args:
        message: What failed, with the values that made it fail.
        hint: What to do or type next; empty when there is nothing useful to say.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class InputError(EdgeError, ValueError):
    """What the caller gave does not fit: a tensor, a picture, an argument, a folder of data."""


class ModelError(InputError):
    """A source model can't be read, or holds what the target can't take."""


class ProfileError(InputError):
    """A device profile is unknown or not valid."""


class SettingsError(InputError):
    """``edge.toml``, an ``EDGE_*`` variable or a model spec holds what it should not."""


class BundleError(EdgeError, ValueError):
    """A bundle is damaged, incomplete, unsafe or not a bundle at all."""


class SignatureError(BundleError):
    """Nobody who is trusted here vouches for a bundle."""


class NotFoundError(EdgeError, LookupError):
    """A model, version or tensor of that name does not exist."""


class UnsupportedError(EdgeError, NotImplementedError):
    """A thing that is asked for correctly, and that this engine, device or build does not do."""


class UnavailableError(EdgeError, RuntimeError):
    """Something is not there now and may be later: an engine, a device, a model still loading."""


class MissingDependencyError(UnavailableError, ImportError):
    """An optional package is not installed."""


class EngineError(EdgeError, RuntimeError):
    """An inference engine failed while it loaded or ran a model."""
