"""Versions and ranges of them: does this machine's TensorRT meet ``>=10.3,<11``?"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from functools import cache

_VERSION = re.compile(
    r"""v?(?P<release>\d+(?:\.\d+)*)
    (?:[-_.]?(?P<pre>alpha|beta|preview|pre|rc|a|b|c)[-_.]?(?P<pre_number>\d*))?
    (?:-(?P<dash>\d+)|[-_.]?(?P<post>post|rev|r)[-_.]?(?P<post_number>\d*))?
    (?:[-_.]?(?P<dev>dev)[-_.]?(?P<dev_number>\d*))?
    (?:\+(?P<local>[a-z0-9]+(?:[-_.][a-z0-9]+)*))?""",
    re.VERBOSE | re.IGNORECASE,
)
_COMPARISON = re.compile(r"(>=|<=|==|!=|>|<)\s*(.+)")
_PRE = {"alpha": "a", "a": "a", "beta": "b", "b": "b"}  # all else is a release candidate
_FIRST, _LAST = -1, float("inf")
_FINAL: tuple[str, float] = ("z", 0)
_RELEASE = (_FINAL, _FIRST, _LAST)  # neither pre-, nor post-, nor development release

Key = tuple[tuple[int, ...], tuple[str, float], float, float]
"""Release, pre-release, post-release and development release; sorts as versions do."""


def meets(version: str, wanted: str) -> bool:
    """Whether ``version`` is what ``wanted`` says, after the rules of PEP 440.

    Args:
        wanted: Comparisons that all must hold (``>=10.3,<11``), or a version to be equal to. What
            is no version (``static``) has to be the same text.
    """
    if not version:
        return False
    return all(_holds(version, clause.strip()) for clause in wanted.split(","))


def _holds(version: str, clause: str) -> bool:
    found = _COMPARISON.fullmatch(clause)
    symbol, text = (found[1], found[2]) if found else ("==", clause)
    have, want = _key(version), _key(text)
    if have is None or want is None:
        return symbol == "==" and version.strip() == text
    return _COMPARE[symbol](have, want)


@cache
def _key(text: str) -> Key | None:
    """None for what is no version. What stands behind a ``+`` does not count."""
    found = _VERSION.fullmatch(text.strip())
    if found is None:
        return None
    release = [int(part) for part in found["release"].split(".")]
    while len(release) > 1 and release[-1] == 0:  # 10.3.0 is 10.3
        release.pop()
    has_post = found["post"] or found["dash"]
    post = int(found["dash"] or found["post_number"] or 0) if has_post else _FIRST
    dev = int(found["dev_number"] or 0) if found["dev"] else _LAST
    pre = _FINAL
    if found["pre"]:
        pre = (_PRE.get(found["pre"].lower(), "c"), int(found["pre_number"] or 0))
    elif found["dev"] and not has_post:
        pre = ("", 0)  # a development release comes before the first pre-release
    return tuple(release), pre, post, dev


def _is_below(have: Key, want: Key) -> bool:
    """``<11`` leaves the pre-releases of 11 out."""
    is_early = have[1] != _FINAL or have[3] != _LAST
    if want[1:] == _RELEASE:
        is_of_it = have[0] == want[0]
    else:
        is_of_it = have[:3] == want[:3] and want[1] == _FINAL and want[3] == _LAST
    return have < want and not (is_early and is_of_it)


def _is_above(have: Key, want: Key) -> bool:
    """``>10.3`` leaves the post-releases of 10.3 out."""
    is_late = have[2] != _FIRST
    return have > want and not (is_late and have[:2] == want[:2] and want[2:] == _RELEASE[1:])


_COMPARE: dict[str, Callable[[Key, Key], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    "<": _is_below,
    ">": _is_above,
}
