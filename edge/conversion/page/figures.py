"""Figures as a reader wants them: units, points and ratios."""

from __future__ import annotations

from edge.conversion.report import Report, VariantRow

SPACE = "\N{NO-BREAK SPACE}"
"""Keeps a figure and its unit on one line."""

UNITS = ("B", "kB", "MB", "GB", "TB")


def size_text(size_bytes: float) -> str:
    """Decimal units, three digits: ``4.95 MB``."""
    value, unit = float(size_bytes), 0
    while value >= 999.5 and unit < len(UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.0f}{SPACE}B" if unit == 0 else f"{digits(value)}{SPACE}{UNITS[unit]}"


def digits(value: float) -> str:
    """Three significant digits without an exponent: ``0.895``, ``12.3``, ``456``."""
    places = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return signed(value, places, plus="")


def ms_text(value: float) -> str:
    return f"{digits(value)}{SPACE}ms"


def ratio_text(ratio: float) -> str:
    return f"{ratio:.2f}×" if ratio < 10 else f"{ratio:.1f}×"


def percent_text(share: float) -> str:
    """A share in percent; 100 only for all."""
    percent = 100.0 * share
    return f"100{SPACE}%" if share >= 1 else f"{min(percent, 99.99):.2f}{SPACE}%"


def energy_text(joules: float) -> str:
    return f"{digits(1000 * joules)}{SPACE}mJ" if joules < 1 else f"{digits(joules)}{SPACE}J"


def signed(value: float, places: int = 2, *, plus: str = "+") -> str:
    """With a sign, a real minus, and none for what rounds to zero."""
    text = f"{abs(value):.{places}f}"
    is_zero = float(text) == 0
    return text if is_zero else f"{'−' if value < 0 else plus}{text}"


def two_places(value: float) -> str:
    return signed(value, plus="")


def points_text(points: float) -> str:
    return f"{points:g}{SPACE}point{'' if points == 1 else 's'}"


def db_text(sqnr_db: float) -> str:
    return f"{signed(sqnr_db, 1, plus='')}{SPACE}dB"


def noise_text(sqnr_db: float) -> str:
    """Noise over signal, as amplitudes: 20 dB are 10 %."""
    percent = 100.0 * 10.0 ** (-max(min(sqnr_db, 200.0), -200.0) / 20.0)
    if percent < 0.01:
        return f"< 0.01{SPACE}%"
    if percent < 99.5:
        return f"{percent:.2g}{SPACE}%"
    return f"{'100' if percent < 100.5 else 'over 100'}{SPACE}%"


def loss(report: Report, row: VariantRow) -> float | None:
    """Points of the gate's measure that ``row`` loses against the source."""
    if report.gate.measure == "agreement":
        return None if row.agreement is None else 100.0 * (1.0 - row.agreement)
    if report.source.metric is None or row.metric is None:
        return None
    return report.source.metric.value - row.metric.value


def chosen_row(report: Report) -> VariantRow | None:
    return next((row for row in report.variants if row.chosen), None)
