"""What the program says instead of going on."""

from __future__ import annotations


class RefusedError(Exception):
    """It was not done, and nothing that serves has changed; ``hint`` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
