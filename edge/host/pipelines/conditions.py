"""``when``: one comparison of what a step found with a number or a text; never evaluated as code.

``cars.count > 0`` · ``cars.count(truck) >= 2`` · ``scene.label == 'road'`` · ``scene.score > 0.5``
(both of the best one) · ``vad.output > 0.5`` (a tensor of one element, by its name).
"""

from __future__ import annotations

import operator
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from edge.core.errors import InputError, SettingsError

if TYPE_CHECKING:
    from edge.core.tensor import Array

_OPERATORS = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_FORM = re.compile(
    r"""\s* (?P<step>[\w-]+) \. (?P<fact>[^\s()=<>!]+) (?: \( (?P<label>[^()]*) \) )?
    \s* (?P<operator>==|!=|<=|>=|<|>)
    \s* (?: (?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)
       | (?P<quote>['"]) (?P<text>(?:(?!(?P=quote)).)*) (?P=quote) ) \s*""",
    re.VERBOSE,
)
FACTS = ("count", "label", "score")
"""What there is to compare of labels and boxes."""


class Condition(NamedTuple):
    """``label`` is what ``count`` counts only; "" for all."""

    text: str
    step: str
    fact: str
    label: str
    operator: str
    value: float | str

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of classes that it speaks of."""
        if self.fact == "label" and isinstance(self.value, str):
            return (self.value,)
        return (self.label,) if self.label else ()

    def holds_for_found(self, found: Any) -> bool:
        """Whether it holds for labels or boxes, best first; what is not there is equal to nothing.

        Where there is neither label nor score, only ``!=`` holds.
        """
        if self.fact == "count":
            return self._compare(sum(self.label in ("", one.name) for one in found))
        if not found:
            return self.operator == "!="
        return self._compare(found[0].name if self.fact == "label" else found[0].score)

    def holds_for_tensor(self, tensor: Array) -> bool:
        """Whether it holds for the one element of a tensor.

        Raises:
            InputError: It has more than one, or none, or a text where a number is to be.
        """
        if tensor.size != 1:
            raise InputError(
                f"when = {self.text!r} compares one element, {self.fact} has {tensor.size}"
            )
        element = tensor.item()
        if isinstance(element, str) != isinstance(self.value, str):
            raise InputError(f"when = {self.text!r} compares with {element!r}, of another type")
        return self._compare(element)

    def _compare(self, given: Any) -> bool:
        return bool(_OPERATORS[self.operator](given, self.value))


def parse(text: str) -> Condition:
    """Read a condition.

    Raises:
        SettingsError: It is not of the form ``step.fact operator value``, or makes no sense.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise SettingsError(
            f"when = {text!r} is no condition",
            hint="compare one thing with a number or a 'text', e.g. when = \"cars.count > 0\"",
        )
    part = match.groupdict()
    fact, label = part["fact"], part["label"] or ""
    value = part["text"] if part["number"] is None else float(part["number"])
    if part["label"] is not None and (fact != "count" or not label):
        raise SettingsError(
            f"when = {text!r}: only count takes a label in brackets, e.g. cars.count(truck) > 0"
        )
    return Condition(text, part["step"], fact, label, part["operator"], value)


def check_types(condition: Condition) -> None:
    """Raise ``SettingsError`` where one of ``FACTS`` is compared with the wrong type of value."""
    is_text = condition.fact == "label"
    if isinstance(condition.value, str) != is_text:
        wanted = "a 'text'" if is_text else "a number"
        raise SettingsError(
            f"when = {condition.text!r}: {condition.fact} is to be compared with {wanted}"
        )
    if is_text and condition.operator not in ("==", "!="):
        raise SettingsError(f"when = {condition.text!r}: a label is == or != another, no more")
