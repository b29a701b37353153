"""How many runs may start: concurrency, rates, held keys, and fair shares of what organisations share.

The record's adapters gather what is there, under locks, and write what these functions decide.
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction
from heapq import heapify, heapreplace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:  # the gateway has no other need of Pydantic
    from everesthood.apis.v1alpha1 import limits as v1alpha1

CONCURRENCY_SECONDS: Final = 0.25
"""How soon a queue that has all the runs it may have looks again; a place comes free unannounced."""
LONGEST_HOLD_SECONDS: Final = 3600.0
WAITING_SECONDS: Final = 1.0
"""How long an organisation that a cap kept back counts as waiting unless it asks again."""

PLATFORM: Final = "platform"
ORGANIZATION: Final = "organization"
_MICROSECOND: Final = timedelta(microseconds=1)
_WHOSE: Final = {
    PLATFORM: "the platform's",
    ORGANIZATION: "the organisation's",
    "template": "the template's",
    "instance": "the instance's",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """So many starts in each period, spread evenly; after a quiet time `burst` of them at once."""

    runs: int
    period_seconds: int
    burst: int = 1

    @property
    def interval(self) -> timedelta:
        """Return the time that one start takes up; rounded up, so that nothing is oversold."""
        return _MICROSECOND * -(-self.period_seconds * 1_000_000 // self.runs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What somebody allows; absent means no limit."""

    concurrency: int | None = None
    rate: Rate | None = None


UNLIMITED: Final = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class OrganizationLimits(Limits):
    """What one organisation may have, and its weight against others where a shared cap is reached."""

    weight: int = 1


ANY_ORGANIZATION: Final = OrganizationLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What the installation allows: all organisations together, each of them, and some by name."""

    platform: Limits = UNLIMITED
    organization: OrganizationLimits = ANY_ORGANIZATION
    organizations: Mapping[str, OrganizationLimits] = field(default_factory=dict)
    """By namespace, each in the place of `organization`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """One limit as it stands."""

    scope: str
    limits: Limits = UNLIMITED
    running: int = 0
    """Runs that hold a place of it."""
    next_at: datetime | None = None
    """GCRA's theoretical arrival time: when the next start would come if all came evenly."""
    held_until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """Why a due run does not start, and when to ask again."""

    level: str
    seconds: float
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A due run that would start if no limit kept it back."""

    run: str
    queue: int
    namespace: str
    scopes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """What there is to know of the organisations that share a cap."""

    running: Mapping[str, int] = field(default_factory=dict)
    waiting: Mapping[str, int] = field(default_factory=dict)
    """Runs that the cap kept back a moment ago."""
    weights: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Allotment:
    """Which candidates start."""

    started: tuple[Candidate, ...]
    denials: Mapping[int, Denial]
    """Queue → why its next candidate does not."""
    kept_back: Mapping[str, int]
    """Namespace → candidates that only the platform's cap kept back."""

    @property
    def starts(self) -> Mapping[str, int]:
        """Return how many starts each scope counts."""
        return Counter(scope for one in self.started for scope in one.scopes)


def scopes(uid: str, namespace: str, template: str, credentials: Iterable[str]) -> tuple[str, ...]:
    """Return what may limit an instance, from the widest; the record computes the same."""
    keys = (credential_scope(namespace, name) for name in sorted(set(credentials)))
    wide = (PLATFORM, organization_scope(namespace), template_scope(namespace, template))
    return (*wide, f"instance/{uid}", *keys)


def organization_scope(namespace: str) -> str:
    """Return the scope of an organisation."""
    return f"{ORGANIZATION}/{namespace}"


def template_scope(namespace: str, name: str) -> str:
    """Return the scope of an AgentTemplate: the same for all its instances."""
    return f"template/{namespace}/{name}"


def credential_scope(namespace: str, name: str) -> str:
    """Return the scope of an AgentCredential: the same for all instances that bind it."""
    return f"credential/{namespace}/{name}"


def level_of(scope: str) -> str:
    """Return platform, organization, template, instance or credential."""
    return scope.partition("/")[0]


def read(given: "v1alpha1.Limits | None") -> Limits:
    """Return limits as a manifest sets them."""
    if given is None:
        return UNLIMITED
    rate = None if given.rate is None else Rate(**given.rate.model_dump())
    return Limits(concurrency=given.concurrency, rate=rate)


# --- one limit --------------------------------------------------------------------------------


def rate_room(rate: Rate, next_at: datetime | None, now: datetime) -> int:
    """Return how many starts the rate allows now.

    The generic cell rate algorithm, GCRA, in its virtual scheduling form: ITU-T Recommendation I.371, annex
    A. A start conforms while the theoretical arrival time is at most (burst - 1) intervals ahead of now.
    """
    ahead = max(timedelta(), (next_at or now) - now)
    return max(0, (rate.burst * rate.interval - ahead) // rate.interval)


def rate_wait(rate: Rate, next_at: datetime | None, now: datetime) -> float:
    """Return the seconds until the rate allows a start; 0 when it does now."""
    ahead = (next_at or now) - now
    return max(0.0, (ahead - (rate.burst - 1) * rate.interval) / timedelta(seconds=1))


def rate_next(rate: Rate, next_at: datetime | None, now: datetime, starts: int) -> datetime:
    """Return the theoretical arrival time after so many starts now."""
    return max(now, next_at or now) + starts * rate.interval


def room(gate: Gate, now: datetime) -> int | None:
    """Return how many more runs may start; None for any number."""
    if gate.held_until is not None and gate.held_until > now:
        return 0
    rooms = []
    if gate.limits.concurrency is not None:
        rooms.append(max(0, gate.limits.concurrency - gate.running))
    if gate.limits.rate is not None:
        rooms.append(rate_room(gate.limits.rate, gate.next_at, now))
    return min(rooms, default=None)


def denial(gate: Gate, now: datetime) -> Denial | None:
    """Return why no run starts at this moment, as far as this limit goes."""
    level, limits = level_of(gate.scope), gate.limits
    name = gate.scope.rpartition("/")[2]
    if gate.held_until is not None and gate.held_until > now:
        said = f"credential {name} is held until {gate.held_until:%Y-%m-%dT%H:%M:%SZ}, as its provider asked"
        return Denial(level=level, seconds=(gate.held_until - now).total_seconds(), sentence=said)
    whose = _WHOSE.get(level, f"credential {name}'s")
    if limits.concurrency is not None and gate.running >= limits.concurrency:
        said = f"{whose} limit of {_counted(limits.concurrency, 'run')} at once is reached"
        return Denial(level=level, seconds=CONCURRENCY_SECONDS, sentence=said)
    if limits.rate is not None and rate_room(limits.rate, gate.next_at, now) == 0:
        said = (
            f"{whose} limit of {_counted(limits.rate.runs, 'start')}"
            f" in {limits.rate.period_seconds} s is reached"
        )
        seconds = rate_wait(limits.rate, gate.next_at, now)
        return Denial(level=level, seconds=seconds, sentence=said)
    return None


def longest(gates: Iterable[Gate], now: datetime) -> Denial | None:
    """Return the denial that lasts longest, None when a run may start."""
    found = [one for gate in gates if (one := denial(gate, now)) is not None]
    return max(found, key=lambda one: one.seconds, default=None)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


# --- many limits and many queues --------------------------------------------------------------


def allot(
    candidates: Sequence[Candidate], gates: Mapping[str, Gate], now: datetime, crowd: Crowd | None = None
) -> Allotment:
    """Return which candidates start: no limit is overstepped, organisations and then queues take turns.

    Where the platform's cap is reached, each organisation gets its weighted max-min share of it; what an
    organisation cannot use, because of limits of its own, goes to the others.
    """
    turns = list(_in_turn(candidates))
    platform = gates.get(PLATFORM)
    if platform is None or platform.limits.concurrency is None:
        started, denials = _let_in(turns, gates, now, {})
        return Allotment(started=started, denials=denials, kept_back={})
    others = {scope: gate for scope, gate in gates.items() if scope != PLATFORM}
    able, _ = _let_in(turns, others, now, {})
    wanted = Counter(one.namespace for one in able)
    places = _places(platform.limits.concurrency, wanted, crowd or Crowd())
    started, denials = _let_in(turns, gates, now, places)
    kept_back = wanted - Counter(one.namespace for one in started)
    return Allotment(started=started, denials=denials, kept_back=dict(kept_back))


def _places(cap: int, wanted: Mapping[str, int], crowd: Crowd) -> dict[str, int]:
    """Return how many more runs each organisation may start under the platform's cap."""
    names = {*wanted, *crowd.running, *crowd.waiting}
    demands = {
        name: crowd.running.get(name, 0) + max(wanted.get(name, 0), crowd.waiting.get(name, 0))
        for name in names
    }
    shares = fair_shares(cap, demands, crowd.weights)
    return {name: max(0, shares[name] - crowd.running.get(name, 0)) for name in names}


def _let_in(
    turns: Iterable[Candidate], gates: Mapping[str, Gate], now: datetime, places: dict[str, int]
) -> tuple[tuple[Candidate, ...], dict[int, Denial]]:
    rooms = {scope: left for scope, gate in gates.items() if (left := room(gate, now)) is not None}
    places = dict(places)
    taken: Counter[str] = Counter()
    started: list[Candidate] = []
    denials: dict[int, Denial] = {}
    for one in turns:
        if one.queue in denials:
            continue
        full = [scope for scope in one.scopes if rooms.get(scope, 1) <= 0]
        if full:
            denials[one.queue] = _denied(full, gates, now, taken)
        elif places.get(one.namespace, 1) <= 0:
            said = "other organisations have a right to the places of the platform's limit that are left"
            denials[one.queue] = Denial(level=PLATFORM, seconds=CONCURRENCY_SECONDS, sentence=said)
        else:
            started.append(one)
            taken.update(one.scopes)
            for scope in one.scopes:
                if scope in rooms:
                    rooms[scope] -= 1
            if one.namespace in places:
                places[one.namespace] -= 1
    return tuple(started), denials


def _denied(
    full: Iterable[str], gates: Mapping[str, Gate], now: datetime, taken: Mapping[str, int]
) -> Denial:
    """Return the denial that lasts longest, with what starts in this very moment counted in."""
    found = longest((after(gates[scope], taken.get(scope, 0), now) for scope in full), now)
    assert found is not None  # noqa: S101 - a gate without room denies
    return found


def after(gate: Gate, starts: int, now: datetime) -> Gate:
    """Return the limit as it stands after so many starts."""
    rate = gate.limits.rate
    return Gate(
        scope=gate.scope,
        limits=gate.limits,
        running=gate.running + starts,
        next_at=gate.next_at if rate is None or not starts else rate_next(rate, gate.next_at, now, starts),
        held_until=gate.held_until,
    )


def _in_turn(candidates: Sequence[Candidate]) -> Iterator[Candidate]:
    """Yield one of each organisation in turn, within it one of each queue in turn."""
    organizations: dict[str, dict[int, deque[Candidate]]] = {}
    for one in candidates:
        queues = organizations.setdefault(one.namespace, {})
        queues.setdefault(one.queue, deque()).append(one)
    waiting = deque(deque(queues.values()) for queues in organizations.values())
    while waiting:
        queues_of_one = waiting.popleft()
        queue = queues_of_one.popleft()
        yield queue.popleft()
        if queue:
            queues_of_one.append(queue)
        if queues_of_one:
            waiting.append(queues_of_one)


# --- fair shares ------------------------------------------------------------------------------


def fair_shares(capacity: int, demands: Mapping[str, int], weights: Mapping[str, int]) -> dict[str, int]:
    """Return the weighted max-min shares of a capacity.

    Nobody gets more than it wants, and nobody could get more but from somebody who has less for its weight.
    Water-filling (Bertsekas and Gallager, Data Networks, 6.5.2): the level rises for all alike until the
    capacity is used up; what is left over in whole units goes to whoever has least for its weight.
    """
    level = _water_level(capacity, demands, weights)
    if level is None:
        return dict(demands)
    shares = {name: min(wish, int(_weight(weights, name) * level)) for name, wish in demands.items()}
    left = capacity - sum(shares.values())
    heap = [
        (Fraction(shares[name] + 1, _weight(weights, name)), name)
        for name, wish in demands.items()
        if shares[name] < wish
    ]
    heapify(heap)
    for _ in range(left):
        _, name = heap[0]
        shares[name] += 1
        more = shares[name] < demands[name]
        following = Fraction(shares[name] + 1, _weight(weights, name)) if more else _NEVER
        heapreplace(heap, (following, name))
    return shares


_NEVER: Final = Fraction(2**62)


def _water_level(capacity: int, demands: Mapping[str, int], weights: Mapping[str, int]) -> Fraction | None:
    """Return how high the water stands, None when everybody gets all."""
    if sum(demands.values()) <= capacity:
        return None
    left, width = capacity, sum(_weight(weights, name) for name in demands)
    heights = sorted((Fraction(wish, _weight(weights, name)), name) for name, wish in demands.items())
    for height, name in heights:
        if height * width > left:
            return Fraction(left, width)
        left -= demands[name]
        width -= _weight(weights, name)
    raise AssertionError  # somebody's demand is above the water, or the sum would be within the capacity


def _weight(weights: Mapping[str, int], name: str) -> int:
    return weights.get(name, 1)
