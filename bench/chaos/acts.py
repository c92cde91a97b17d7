"""What can be done to a stage: one function for each `actor verb` of the scenarios' steps.

Each bears being done twice, or to what isn't there: random schedules don't look.
"""

import asyncio
import resource
import signal
from collections.abc import Awaitable, Callable

from bench.chaos import shared
from bench.chaos.plan import Episode, Step
from bench.chaos.processes import Process, Relay
from bench.chaos.road import Road
from bench.chaos.stage import Stage
from bench.chaos.starvation import pulses, starve

Act = Callable[..., Awaitable[None] | None]


async def play(stage: Stage, episode: Episode) -> None:
    """Every step at its time, until all are done; none goes on after one has failed."""
    clock = asyncio.get_running_loop().time
    begun_s = clock()
    pending: list[asyncio.Task[None]] = []
    try:
        for step in episode.steps:
            await asyncio.sleep(max(0.0, begun_s + step.at_s - clock()))
            # Its own task: a relay that takes its time to end holds up no other step.
            pending.append(asyncio.ensure_future(_do(stage, step)))
        await asyncio.gather(*pending)
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


async def _do(stage: Stage, step: Step) -> None:
    done = ACTS[step.actor, step.verb](stage, *step.arguments)
    if done is not None:
        await done


# -- the API


def _fault(stage: Stage, text: str) -> None:
    stage.upstream.fault(text)


def _open(stage: Stage, text: str) -> None:
    stage.upstream.fault(text, while_open=True)


def _clear(stage: Stage) -> None:
    stage.upstream.clear_faults()


async def _down(stage: Stage) -> None:
    await stage.upstream.stop()


async def _up(stage: Stage) -> None:
    if not stage.upstream_is_up:
        await stage.upstream.start("127.0.0.1", stage.upstream_port)


async def _restart_upstream(stage: Stage, how: str = "") -> None:
    if stage.upstream_is_up:
        await stage.upstream.restart(amnesia=how == "amnesia", renumber=how == "renumber")


def _burst(stage: Stage, count: str, pad_bytes: str, feeds: str) -> None:
    """On the first so many feeds; 0: on all."""
    for feed in range(int(feeds) or stage.size.feeds):
        for _ in range(int(count)):
            stage.story.say(feed % stage.size.feeds, int(pad_bytes))


def _long_ids(stage: Stage, size_bytes: str) -> None:
    """Ids of that size from now on; 0: as they were."""
    stage.id_bytes = int(size_bytes)


# -- roads


def _road_verbs(roads: Callable[[Stage], list[Road]]) -> dict[str, Act]:
    def plain(verb: str) -> Act:
        def act(stage: Stage, which: str = "") -> None:
            for road in _chosen(roads(stage), which):
                getattr(road, verb)()

        return act

    def with_number(attribute: str) -> Act:
        def act(stage: Stage, number: str) -> None:
            for road in roads(stage):
                setattr(road, attribute, type(getattr(road, attribute))(float(number)))

        return act

    async def accept(stage: Stage) -> None:
        for road in roads(stage):
            await road.start()

    verbs = ("part", "heal", "reset", "lose", "half_open", "cut", "refuse")
    return {
        **{verb.replace("_", "-"): plain(verb) for verb in verbs},
        "delay": with_number("delay_s"),
        "pieces": with_number("piece_bytes"),
        "slow": with_number("bytes_per_s"),
        "accept": accept,
        "starve": _starve_roads(roads),
    }


def _starve_roads(roads: Callable[[Stage], list[Road]]) -> Act:
    async def act(stage: Stage, for_s: str, seed: str) -> None:
        def part() -> None:
            for road in roads(stage):
                road.part()

        def let_pass() -> None:
            for road in roads(stage):
                road.let_pass()

        await starve(part, let_pass, pulses(seed, float(for_s), stage.size.lease_s))

    return act


def _chosen(roads: list[Road], which: str) -> list[Road]:
    return roads[int(which) % len(roads) :][:1] if which and roads else roads


def _client_roads(stage: Stage) -> list[Road]:
    return stage.fronts + stage.reader_roads


def _freeze(stage: Stage, one_in: str) -> None:
    for tab in stage.some_tabs(int(one_in)):
        tab.freeze()


def _thaw(stage: Stage) -> None:
    for tab in stage.tabs:
        tab.thaw()


# -- relays


def _relay(stage: Stage, number: str) -> Relay:
    return stage.relays[int(number) % len(stage.relays)]


def _signal_relay(number: signal.Signals) -> Act:
    return lambda stage, which: _relay(stage, which).signal(number)


async def _start_relay(stage: Stage, number: str) -> None:
    relay = _relay(stage, number)
    if relay.alive and relay.ending:
        await relay.exit()
    if not relay.alive:
        await relay.start(stage.session)


async def _restart_relay(stage: Stage, number: str) -> None:
    relay = _relay(stage, number)
    relay.signal(signal.SIGTERM)
    await relay.exit()
    await relay.start(stage.session)


def _starve(process: Callable[..., Process | None]) -> Act:
    async def act(stage: Stage, *arguments: str) -> None:
        *which, for_s, seed = arguments
        starving = process(stage, *which)
        if starving is not None:
            await starve(
                lambda: starving.signal(signal.SIGSTOP),
                lambda: starving.signal(signal.SIGCONT),
                pulses(seed, float(for_s), stage.size.lease_s),
            )

    return act


def _descriptors(stage: Stage, number: str, spare: str) -> None:
    relay = _relay(stage, number)
    if relay.alive:
        relay.limit(resource.RLIMIT_NOFILE, relay.descriptors + int(spare))


def _memory(stage: Stage, number: str, spare_mib: str) -> None:
    relay = _relay(stage, number)
    if relay.alive:
        relay.limit(resource.RLIMIT_AS, relay.address_bytes + (int(spare_mib) << 20))


async def _end_streams(stage: Stage, number: str) -> None:
    await _relay(stage, number).end_streams(stage.session)


def _kill_worker(stage: Stage, number: str, which: str) -> None:
    _relay(stage, number).kill_worker(int(which))


def _free(stage: Stage, number: str) -> None:
    _relay(stage, number).free()


async def make_good(stage: Stage) -> None:
    """Undo whatever is still done, and wait until every client streams and relays that share a
    Redis are together again: who goes alone is not hurt by what befalls Redis next.
    """
    await _up(stage)
    _clear(stage)
    _long_ids(stage, "0")
    await stage.strangers.leave()
    for road in (stage.road, *stage.redis_roads):
        road.heal()
        await road.start()
    if stage.certificate is not None:
        stage.certificate.renew()
    if stage.redis is not None:
        await shared.make_good(stage)
    _clock(stage, "0")
    ACTS["dns", "back"](stage)
    for number, relay in enumerate(stage.relays):
        relay.free()
        relay.signal(signal.SIGCONT)
        await _start_relay(stage, str(number))
    await make_clients_good(stage)


async def make_clients_good(stage: Stage) -> None:
    """The same for what was done to the clients alone."""
    for road in _client_roads(stage):
        road.heal()
        await road.start()
    _thaw(stage)
    await stage.wait_for(lambda: all(tab.open for tab in stage.tabs), "every client streams")
    if stage.redis is not None:
        await stage.together()


# -- who comes besides


def _silent_strangers(stage: Stage, count: str) -> None:
    """So many sockets to each relay."""
    for relay in stage.relays:
        stage.strangers.sit(relay.port, int(count))


def _guessers(stage: Stage, count: str) -> None:
    _, stream = stage.feeds[0]
    for relay in stage.relays:
        stage.strangers.guess(relay.port, stream.path, int(count))


def _more_tabs(stage: Stage, count: str) -> None:
    """So many more streams of the first user at each relay."""
    user, stream = stage.feeds[0]
    request = f"GET {stream.path} HTTP/1.1\r\nHost: x\r\nx-api-key: {user.key}\r\n\r\n"
    for relay in stage.relays:
        stage.strangers.sit(relay.port, int(count), request.encode())


# -- the machine


def _clock(stage: Stage, ahead_s: str) -> None:
    for world in stage.worlds:
        world.clock(float(ahead_s))


def _relay_clock(stage: Stage, number: str, ahead_s: str) -> None:
    stage.worlds[int(number) % len(stage.worlds)].clock(float(ahead_s))


def _names(*, gone: bool) -> Act:
    def act(stage: Stage) -> None:
        for world in stage.worlds:
            world.names(gone=gone)

    return act


def _certificate(verb: str) -> Act:
    def act(stage: Stage) -> None:
        assert stage.certificate is not None, "a scenario with certificates says `tls = true`"
        getattr(stage.certificate, verb)()

    return act


ACTS: dict[tuple[str, str], Act] = {
    ("upstream", "fault"): _fault,
    ("upstream", "open"): _open,
    ("upstream", "clear"): _clear,
    ("upstream", "down"): _down,
    ("upstream", "up"): _up,
    ("upstream", "restart"): _restart_upstream,
    ("upstream", "burst"): _burst,
    ("upstream", "long-ids"): _long_ids,
    **{("road", k): v for k, v in _road_verbs(lambda stage: [stage.road]).items()},
    **{("clients", k): v for k, v in _road_verbs(_client_roads).items()},
    # No real client gives up a connection on which nothing comes, so those are spared.
    ("clients", "lose"): lambda stage: [road.lose() for road in stage.fronts] and None,
    **{("redis-road", k): v for k, v in _road_verbs(lambda stage: stage.redis_roads).items()},
    ("clients", "freeze"): _freeze,
    ("clients", "thaw"): _thaw,
    ("relay", "kill"): _signal_relay(signal.SIGKILL),
    ("relay", "term"): _signal_relay(signal.SIGTERM),
    ("relay", "stop"): _signal_relay(signal.SIGSTOP),
    ("relay", "cont"): _signal_relay(signal.SIGCONT),
    ("relay", "start"): _start_relay,
    ("relay", "restart"): _restart_relay,
    ("relay", "starve"): _starve(_relay),
    ("relay", "descriptors"): _descriptors,
    ("relay", "memory"): _memory,
    ("relay", "free"): _free,
    ("relay", "end-streams"): _end_streams,
    ("relay", "kill-worker"): _kill_worker,
    ("relay", "clock"): _relay_clock,
    ("redis", "starve"): _starve(lambda stage: stage.redis),
    **{("redis", verb): act for verb, act in shared.ACTS.items()},
    ("strangers", "silent"): _silent_strangers,
    ("strangers", "guess"): _guessers,
    ("strangers", "more-tabs"): _more_tabs,
    ("strangers", "leave"): lambda stage: stage.strangers.leave(),
    ("clock", "set"): _clock,
    ("dns", "gone"): _names(gone=True),
    ("dns", "back"): _names(gone=False),
    ("certificate", "expire"): _certificate("expire"),
    ("certificate", "renew"): _certificate("renew"),
}
