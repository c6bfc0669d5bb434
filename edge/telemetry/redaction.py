"""What is told to others or logged has no secrets in it."""

from __future__ import annotations

import re

_URL = re.compile(r'://[^"\s]*')


def without_secrets(text: str) -> str:
    """With logins and queries left out of the URLs in it: there are passwords and tokens."""
    return _URL.sub(_shown, text)


def _shown(url: re.Match[str]) -> str:
    _, login, rest = url[0].rpartition("@")
    place, query, _ = (f"://…@{rest}" if login else rest).partition("?")
    return f"{place}?…" if query else place
