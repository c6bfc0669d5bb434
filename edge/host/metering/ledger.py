"""Who used the device and its energy, interval by interval; all shares together are the whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from edge.host.metering.work import Key, Work

_MOST_DEBT_S = 2.0


class Account(msgspec.Struct):
    """What one model used.

    Attributes:
        work: What it did, and ``device_s`` how long it had the device for that.
        joules: Of times that are measured, in which it did ``measured`` in ``measured_s``.
        above_idle_joules: What of that the device would not have drawn otherwise, of times in
            which its idle power is known; ``above_idle`` was done in them.
    """

    work: Work = Work()
    device_s: float = 0.0
    joules: float = 0.0
    measured: Work = Work()
    measured_s: float = 0.0
    above_idle_joules: float = 0.0
    above_idle: Work = Work()

    def absorb(self, other: Account) -> None:
        for name in self.__struct_fields__:
            mine, theirs = getattr(self, name), getattr(other, name)
            setattr(self, name, mine.plus(theirs) if isinstance(mine, Work) else mine + theirs)


class Ledger:
    """Shares time and energy out by how long each model was busy in an interval.

    Of what is drawn above idle, all is the models' that ran: other programs' part counts in. Of
    idle power each has its part for the time it was busy, and the rest is nobody's. While idle
    power is not known, all power is shared like that. Where models ran longer together than the
    interval is, they ran at the same time, and each has its part of the interval.

    Attributes:
        gone: What models used together that are not there any more.
        joules: Of the ``measured_s`` of all ``seconds`` in which energy is known.
        idle_joules: What of them is no model's.
    """

    def __init__(self) -> None:
        self.accounts: dict[Key, Account] = {}
        self.gone = Account()
        self.seconds = self.measured_s = 0.0
        self.joules = self.idle_joules = 0.0
        self._debt_joules = 0.0

    @property
    def device_s(self) -> float:
        return sum(account.device_s for account in self.all_accounts())

    def all_accounts(self) -> list[Account]:
        return [*self.accounts.values(), self.gone]

    def enter(
        self,
        seconds: float,
        joules: float | None,
        works: Mapping[Key, Work],
        idle_watts: float | None,
    ) -> None:
        """Share out an interval.

        Args:
            joules: None if they were not measured.
            idle_watts: None if that is not known.
        """
        shares = device_seconds(seconds, works)
        self.seconds += seconds
        for key, work in works.items():
            account = self.accounts.setdefault(key, Account())
            account.work = account.work.plus(work)
            account.device_s += shares[key]
        if joules is None:
            return
        self.joules += joules
        self.measured_s += seconds
        busy_s = sum(shares.values())
        left = joules
        if busy_s > 0.0:
            above = self._above_idle(seconds, joules, idle_watts)
            for key, share_s in shares.items():
                part = above * share_s / busy_s
                base = (joules - above) * share_s / seconds
                self._book(self.accounts[key], works[key], share_s, part + base)
                if idle_watts is not None:
                    account = self.accounts[key]
                    account.above_idle_joules += part
                    account.above_idle = account.above_idle.plus(works[key])
                left -= part + base
        self.idle_joules += max(0.0, left)  # rounding may leave less than nothing

    def keep(self, keys: Iterable[Key]) -> None:
        """Put what all other models used together: versions come and go for years."""
        for key in self.accounts.keys() - set(keys):
            self.gone.absorb(self.accounts.pop(key))

    def _above_idle(self, seconds: float, joules: float, idle_watts: float | None) -> float:
        """Power that is measured varies around the idle power: what falls short of it once is
        made up for by what comes next, or models that do little would be told too much."""
        if idle_watts is None:
            return 0.0
        idle_joules = idle_watts * seconds
        above = joules - idle_joules + self._debt_joules
        self._debt_joules = min(0.0, max(above, -_MOST_DEBT_S * idle_watts))
        return max(0.0, above)

    @staticmethod
    def _book(account: Account, work: Work, share_s: float, joules: float) -> None:
        account.joules += joules
        account.measured = account.measured.plus(work)
        account.measured_s += share_s


def device_seconds(seconds: float, works: Mapping[Key, Work]) -> dict[Key, float]:
    """How long each had the device; no longer together than the interval is."""
    busy_s = sum(work.busy_ns for work in works.values()) / 1e9
    share = min(1.0, seconds / busy_s) if busy_s > 0.0 else 0.0
    return {key: work.busy_ns / 1e9 * share for key, work in works.items()}
