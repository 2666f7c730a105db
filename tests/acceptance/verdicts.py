"""What arrived at Leanplum held against what the gateway had accepted. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from .histories import Item, mark_of
from .journal import Call

# After its sender was killed, for a call to be seen by the simulator, on a busy machine
LATE_SECONDS = 5.0


@dataclass(frozen=True)
class Arrival:
    """One item in one call that Leanplum did."""

    place: int
    """Where it stands among all that Leanplum did."""
    began: float
    """When its call was seen."""


Arrivals = Mapping[str, Sequence[Arrival]]  # by mark, in their order


@dataclass
class Verdict:
    """How one history ended, by the marks of its items."""

    acknowledged: int = 0
    logins: int = 0
    arrived: int = 0
    repeated: dict[str, int] = field(default_factory=dict)
    """How often each item arrived that arrived more than once."""
    lost: list[str] = field(default_factory=list)
    out_of_order: list[str] = field(default_factory=list)
    without_a_kill: list[str] = field(default_factory=list)
    """Items that arrived again though no deliverer was killed meanwhile."""


def arrivals(journal: Iterable[Call]) -> Arrivals:
    """Return all marked actions that Leanplum did."""
    found = defaultdict[str, list[Arrival]](list)
    place = 0
    for call in journal:
        for action, done in zip(call.actions, call.done, strict=True):
            mark = mark_of(action)
            if done and mark is not None:
                found[mark].append(Arrival(place, call.began))
                place += 1
    return dict(found)


def judge(accepted: Sequence[Item], arrived: Arrivals, kills: Sequence[float]) -> Verdict:
    """Judge one history by what was accepted, in that order. `kills`: when deliverers were
    killed.
    """
    verdict = Verdict(len(accepted), sum(1 for item in accepted if item.joins))
    verdict.out_of_order = list(_overtakers(accepted, arrived))
    for item in accepted:
        times = arrived.get(item.mark, ())
        verdict.arrived += len(times)
        if not times:
            verdict.lost.append(item.mark)
        if len(times) > 1:
            verdict.repeated[item.mark] = len(times)
        if not all(_killed_between(*pair, kills) for pair in pairwise(times)):
            verdict.without_a_kill.append(item.mark)
    return verdict


def _overtakers(accepted: Iterable[Item], arrived: Arrivals) -> Iterator[str]:
    """Find items that first came before one that they had to wait for: an earlier one of their
    subject, or an earlier login that joins their subject.
    """
    latest: dict[str, int] = {}
    for item in accepted:
        if item.mark not in arrived:
            continue
        place = arrived[item.mark][0].place
        if place < latest.get(item.subject, -1):
            yield item.mark
        for subject in {item.subject} | item.joins:
            latest[subject] = max(place, latest.get(subject, -1))


def _killed_between(first: Arrival, again: Arrival, kills: Iterable[float]) -> bool:
    """Whether a deliverer was killed between the two. How soon it would have written down what came
    of the first, no clock tells: that is for the receipt, which counts attempts.
    """
    return any(first.began - LATE_SECONDS <= kill <= again.began for kill in kills)
