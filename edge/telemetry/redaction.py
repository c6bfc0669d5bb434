"""What is told to others or logged has no secrets in it."""

from __future__ import annotations

import re

_LOGIN = re.compile(r'(://)[^"\s]*@')
_QUERY = re.compile(r'(://[^?"\s]*)\?[^"\s]*')


def without_secrets(text: str) -> str:
    """With logins and queries left out of the URLs in it: there are passwords and tokens."""
    return _QUERY.sub(r"\1?…", _LOGIN.sub(r"\1…@", text))
