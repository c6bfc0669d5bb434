"""What is told of energy and money, as figures that stand on their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from edge.host.metering.money import MILLION, Price, Tariff

if TYPE_CHECKING:
    from edge.host.metering.energy import EnergySource
    from edge.host.metering.ledger import Account, Ledger
    from edge.host.metering.work import Key, Work

IdleSource = Literal["measured", "settings", "profile", "unknown"]

_ENOUGH = 30
"""Requests alone and requests in batches, before the two are compared."""


class Basis(msgspec.Struct, frozen=True):
    """What joules rest on.

    Attributes:
        why: Why there are none, or only estimates.
        samples_per_s: Readings of the sensor, over the time that is measured.
        error_joules: Standard error of the energy of the device, as power is only read now and
            then; that of the sensor comes on top. None for a counter.
    """

    source: EnergySource = "none"
    rail: str = ""
    why: str = ""
    samples_per_s: float = 0.0
    error_joules: float | None = None
    idle_watts: float | None = None
    idle_source: IdleSource = "unknown"


class Batching(msgspec.Struct, frozen=True):
    """Engine seconds, and the joules at the model's rate, that running requests together saved
    over running each alone, as far as that was seen; less than 0 if it took longer."""

    seconds: float
    joules: float | None


class ModelCost(msgspec.Struct, frozen=True):
    """What one version of a model used since ``CostReport.since_ms``.

    Attributes:
        busy_s: How long it had the device, for the engine and for inputs and outputs.
        joules: Idle power during that time included.
        joules_each: Per inference, of those that were measured; ``above_idle_each`` is that part
            which the device would not have drawn otherwise.
        recalled: Requests that the cache answered, and the joules that saved in the engine.
        per_million: Inferences, at the utilization so far: what the device draws, and wears off,
            while it waits is the models' by their time.
        per_million_full: The same if it never waited, at the same time and energy for each.
    """

    name: str
    version: str
    inferences: int
    busy_s: float
    joules: float | None = None
    joules_each: float | None = None
    above_idle_each: float | None = None
    recalled: int = 0
    recalled_joules: float | None = None
    batching: Batching | None = None
    per_million: Price = Price()
    per_million_full: Price = Price()


class CostReport(msgspec.Struct, frozen=True):
    """What all cost since ``since_ms``, the wall clock of the first look.

    Attributes:
        seconds: Metered, of which ``measured_s`` with energy.
        joules: Of the device; ``idle_joules`` are no model's.
        busy: Share of the time that models had the device.
        spent: Money for ``joules``, and for the device's time.
    """

    since_ms: int
    seconds: float
    measured_s: float
    joules: float | None
    idle_joules: float | None
    busy: float
    basis: Basis
    currency: str = ""
    spent: Price = Price()
    models: tuple[ModelCost, ...] = ()

    def metrics(self) -> dict[str, Any]:
        """As HTTP and telemetry tell it; what is not known is left out."""
        basis, money = self.basis, self.currency.lower()
        watts = self.joules / self.measured_s if self.joules and self.measured_s else None
        covered = self.measured_s / self.seconds if self.seconds else 0.0
        error = basis.error_joules / self.joules if basis.error_joules and self.joules else None
        return _known(
            since_ms=self.since_ms,
            metered_s=self.seconds,
            energy_source=basis.source,
            energy_rail=basis.rail or None,
            energy_why=basis.why or None,
            energy_samples_per_s=basis.samples_per_s or None,
            energy_covered_percent=round(100 * covered, 2),
            energy_error_percent=None if error is None else 100 * error,
            energy_joules=self.joules,
            idle_joules=self.idle_joules,
            idle_watts=basis.idle_watts,
            idle_source=basis.idle_source,
            power_mean_watts=watts,
            busy_percent=round(100 * self.busy, 2),
            currency=self.currency or None,
            **_money("{}_cost", self.spent, money),
            models=[_row(model, money) for model in self.models],
        )


def make_report(since_ms: int, ledger: Ledger, basis: Basis, tariff: Tariff) -> CostReport:
    has_energy = ledger.measured_s > 0.0
    joules = ledger.joules if has_energy else None
    return CostReport(
        since_ms=since_ms,
        seconds=ledger.seconds,
        measured_s=ledger.measured_s,
        joules=joules,
        idle_joules=ledger.idle_joules if has_energy else None,
        busy=ledger.device_s / ledger.seconds if ledger.seconds else 0.0,
        basis=basis,
        currency=tariff.currency,
        spent=tariff.price(joules, ledger.seconds),
        models=tuple(_models(ledger, tariff)),
    )


def _models(ledger: Ledger, tariff: Tariff) -> Iterator[ModelCost]:
    accounts = ledger.all_accounts()
    busy_s = sum(account.device_s for account in accounts)
    measured_busy_s = sum(account.measured_s for account in accounts)
    for key, account in sorted(ledger.accounts.items()):
        waited_s = _part(ledger.seconds - busy_s, account.device_s, busy_s)
        waited_joules = _part(ledger.idle_joules, account.measured_s, measured_busy_s)
        yield _model(key, account, tariff, waited_s, waited_joules)


def _model(
    key: Key, account: Account, tariff: Tariff, waited_s: float, waited_joules: float
) -> ModelCost:
    work = account.work
    measured = account.measured
    each = _each(account.joules, measured)
    each_with_wait = _each(account.joules + waited_joules, measured)
    return ModelCost(
        *key,
        inferences=work.inferences,
        busy_s=account.device_s,
        joules=account.joules if any(measured) else None,
        joules_each=each,
        above_idle_each=_each(account.above_idle_joules, account.above_idle),
        recalled=work.recalled,
        recalled_joules=(
            None if each is None else work.recalled * account.joules * measured.engine_share
        ),
        batching=_batching(work, account.joules / account.measured_s if each else None),
        per_million=tariff.price(
            _million(each_with_wait), _million(_each(account.device_s + waited_s, work))
        ),
        per_million_full=tariff.price(_million(each), _million(_each(account.device_s, work))),
    )


def _batching(work: Work, watts: float | None) -> Batching | None:
    if work.alone < _ENOUGH or work.batched < _ENOUGH:
        return None
    seconds = (work.batched * work.alone_ns / work.alone - work.batched_ns) / 1e9
    return Batching(seconds, None if watts is None else seconds * watts)


def _part(whole: float, share: float, of: float) -> float:
    return whole * share / of if of > 0.0 else 0.0


def _each(whole: float, work: Work) -> float | None:
    """What an inference has of ``whole``, in which answers of the cache have their part."""
    return whole * (work.engine_share + work.transfer_share) if work.has_run else None


def _million(one: float | None) -> float | None:
    return None if one is None else MILLION * one


def _row(model: ModelCost, money: str) -> dict[str, Any]:
    batching = model.batching
    return _known(
        name=model.name,
        version=model.version,
        inference_count=model.inferences,
        busy_s=model.busy_s,
        energy_joules=model.joules,
        joules_per_inference=model.joules_each,
        joules_per_inference_above_idle=model.above_idle_each,
        cache_saved_count=model.recalled or None,
        cache_saved_joules=model.recalled_joules if model.recalled else None,
        batch_saved_s=batching.seconds if batching else None,
        batch_saved_joules=batching.joules if batching else None,
        **_money("{}_cost_per_million", model.per_million, money),
        **_money("{}_cost_per_million_full_load", model.per_million_full, money),
    )


def _money(name: str, price: Price, money: str) -> dict[str, float | None]:
    """Parts and their sum, by names that end in the currency."""
    parts = {"energy_": price.energy, "device_": price.device, "": price.total}
    return {
        f"{name.format(part.rstrip('_')).lstrip('_')}_{money}": value
        for part, value in parts.items()
    }


def _known(**figures: Any) -> dict[str, Any]:
    """What is known of them, in six digits."""
    return {
        name: float(f"{value:.6g}") if isinstance(value, float) else value
        for name, value in figures.items()
        if value is not None
    }
