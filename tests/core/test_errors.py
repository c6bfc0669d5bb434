from __future__ import annotations

import builtins

import pytest

from edge.core import errors
from edge.core.errors import EdgeError

ALL = [
    error
    for error in vars(errors).values()
    if isinstance(error, type) and issubclass(error, EdgeError)
]


@pytest.mark.parametrize("error", [error for error in ALL if error is not EdgeError])
def test_every_error_is_a_builtin_too(error: type[EdgeError]) -> None:
    own = {base for base in error.__mro__ if base.__module__ == builtins.__name__}
    assert own - {object, BaseException, Exception}


@pytest.mark.parametrize("error", ALL)
def test_every_error_carries_a_message_and_a_hint(error: type[EdgeError]) -> None:
    raised = error("what failed", hint="what to do")
    assert (str(raised), raised.hint) == ("what failed", "what to do")
    assert error("what failed").hint == ""


def test_errors_are_caught_as_what_they_are() -> None:
    with pytest.raises(ValueError, match="bad"):
        raise errors.ProfileError("bad")
    with pytest.raises(errors.UnavailableError):
        raise errors.MissingDependencyError("gone")
    with pytest.raises(ImportError):
        raise errors.MissingDependencyError("gone")
