"""How often a day something succeeds. Pure but for being told the time, in seconds since the
epoch.
"""

DAY = 86_400
PACIFIC = -8 * 3_600  # exports are counted anew at 00:00 PST (fact sheet §3.6)


class Quotas:
    """Successes of the day, by app and action. Kept in memory: what was done before a start, or by
    another process, Leanplum itself refuses.
    """

    def __init__(self) -> None:
        self._day = 0
        self._counts: dict[tuple[str, str], int] = {}

    def spent(self, app: str, action: str, most: int, now: float) -> float:
        """Seconds until it may be done again; 0 where it may be done now."""
        self._turn(now)
        if self._counts.get((app, action), 0) < most:
            return 0.0
        return DAY - (now + PACIFIC) % DAY

    def count(self, app: str, action: str, now: float) -> None:
        """It was done."""
        self._turn(now)
        self._counts[app, action] = self._counts.get((app, action), 0) + 1

    def _turn(self, now: float) -> None:
        if (day := int((now + PACIFIC) // DAY)) != self._day:
            self._day = day
            self._counts.clear()
