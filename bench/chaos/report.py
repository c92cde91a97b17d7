"""docs/reliability.md, from the last long run and the peers' table, and from nothing else."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from bench.chaos import plan, record
from bench.chaos.library import LIBRARIES

DOCUMENT = Path(__file__).parents[2] / "docs" / "reliability.md"
_MIB = 1 << 20
_STEP_MIB = 4  # a look to the next may differ by this for no reason

_OPENING = """# Reliability

How many events this relay loses, repeats or reorders when things break: measured, with real processes, real sockets and real
clients. **Generated** by `make chaos MINUTES=…` from `bench/results`; edit nothing here.

```console
$ make chaos                         # short, always the same schedules; `make test` has it, too
$ make chaos SCENARIO='cut amnesia'  # some, each alone; SCENARIO=all, or `python -m bench.chaos --list` for their names
$ make chaos MINUTES=60 SEED=7       # a long run: writes this document
$ make chaos-peers                   # the same faults on nchan, nginx and aiohttp-sse
$ KEY=… .venv/bin/python -m bench.chaos --url https://relay.example/api/desktops/stream \\
    --header 'x-api-key: env:KEY' --query apiKey=env:KEY    # on yours, as it stands: see below
```

**How.** An upstream numbers its events; every client writes down each number that it gets, and when. Roads between upstream and
relay, relay and clients, relays and Redis delay, part, reset, half-open and cut anywhere. The judge holds every diary against what was
said, from the first event that a client got. *Lost*: missing, and no `relay.gap` stands just there, or names an event before as the last that is sure. *Told*: missing, and one does.
A client's *own*: it came back without a cursor, with one of an event that it had not handed out, or not at all. A scenario whose
upstream remembers what it said must have no gap either; *again* is what came a second time after a gap that said so. Scenarios are short
files in `bench/chaos/scenarios`; the seed replays every random choice, but not what the machine makes of it. Packets that are lost or
overtaken below TCP (the kernel's netem) are not played.
"""

_PROMISES = """## What is promised

| promise | what would break it here |
| --- | --- |
| No event is lost, repeated or out of order while a position is held; otherwise a `relay.gap` says so | lost, repeated or reordered not 0 |
| A deploy loses nothing | the same, under SIGTERM and rolling restarts |
| Upstream or Redis going away ends no healthy stream | connections that should not have ended (`tests/e2e`, `tests/replicas`) |
| One slow client costs the others nothing | others' silence, while a third of the clients do not read |
| Memory, descriptors and tasks stay | the table of the long run |

## What is not promised

* **A relay that has just started believes upstream.** It holds no history, or one event, so it can't prove that upstream honoured a cursor: if upstream
  forgets what it said at the same time as the last relay that knew it ends, what fell between is missing without a word. The schedules
  never combine the two. Once upstream was found out, it must prove its answer also where one event is all that is known since.
* **An API that answers a cursor which it has forgotten with all that it still has** can't be told from one that remembers, where one event is all that is
  known, or while a client is caught up: it is believed until what it brings contradicts what is known. The gap then names the last event that is sure. One that has the
  cursor's event and ignores the cursor is found out by that event, if it comes within the first 128 KiB of what is said without a pause of 50 ms.
* **What upstream says twice comes twice**, and what upstream never said again is missing: with a gap.
* **A client that does not name its place** gets what is new; see the clients' table for who does what.
* Delay: a dead connection is found by silence (`upstream.idle_timeout`), a killed owner's lease runs out (`redis.lease_ttl`). Nothing is lost meanwhile, only late.
"""

_PEER_NOTES = """
Read it with this in mind:

* **The clock.** nchan's ids are seconds of the wall clock. While that stands before what it named last, subscribers get nothing; a jump ahead ends what its
  buffer holds (300 s). What reads the stream has nothing to do with it.
* **An API that says something else than the truth** (`amnesia`, `renumber`, `cursor-…`, `…-ids`): who believes it can't know what is missing or comes twice.
  This relay finds it out and says so, which loses as many events, but not unnoticed. No peer has a word for it.
* **Events without ids** or with ids used twice: after a break the API is asked for what follows an older id, and says the rest again. This relay
  recognises it by its content; the others pass it on.
* **An odd stream** (`other-line-ends`): nginx passes it on as it is; scripts that know LF only, as those around requests, sseclient-py, aiohttp and curl here, may miss
  events by it. Whoever writes the stream anew (all others) mends that.
* **10 s and more** stand where somebody lacks the last event of a scenario: the kit says another only after 10 s. In service the next event ends that wait.
* **`road-half-open`**: this relay asks once by the connection that a check of the credential left open less than 15 s ago, which is as dead, and waits the 2 s for an answer
  in vain.
* **`clients-frozen…`**: nchan drops what is older than its 1000 messages, and who comes back after more has a hole; this relay asks the API again. The queues of aiohttp-sse are
  bounded and waited for: one that does not read holds up all, who then give up and come back without a history.
* **Starting again** takes this relay, a program in Python, a second or two longer than nginx on a busy machine.
* **`oversize`**: 2 MiB. nginx passes it on; aiohttp-sse has no limit; nchan and this relay refuse it, the latter with a gap.
* **`cursor-rejected`**: who repeats a rejected cursor waits until the API takes it again, here for 3 s, and has all. This relay asks once more without it, and says so: a cursor
  that is rejected for good would keep it waiting for ever.
* **`refused-403`**: this relay believes a 403 for 60 s, so as not to ask again and again on behalf of who may not; the others here ask every second.
* **`cursor-ignored`** loses what is said between two connections, some tenth of a second: how many that are is chance.
* **A killed relay** loses what its clients had not got of what it had taken, unless it can ask the API again: this relay asks on behalf of a client's cursor. nchan's publisher goes on
  where it was, so that only what nginx had taken and not handed out is gone: at five events a second seldom one.
* The scenarios of `clients-frozen…` and `oversize` were played with the kit's own clients alone, one relay after the other: real ones take minutes for so much, which is no relay's doing.
* Not played on peers: several replicas and Redis; limits of descriptors and memory (nginx is several processes); logs that can't be written; the API's name and certificate.
* What the libraries miss by their own doing counts for nobody. Where nothing tells them sooner (nchan and aiohttp-sse as set up here, and this API), browsers come back after some 3 s; this relay tells them.
"""

_YOURS = """## On a deployment of yours

`--url` alone brings clients and a judge to a relay that reads its real upstream: any SSE server, not this relay only. Twenty lean clients
(`--clients`) and every library that is here stay on one stream by roads that are reset, cut anywhere, parted, broken into pieces, that carry nothing any
more, and on which nobody reads; nothing else is touched, least of all your upstream. Two more clients on a road that nothing touches are the
witnesses: what they got was said, and every diary is held against theirs. Delay is measured against them, too.

* **The credential** goes to that address and nowhere else: no redirect takes it along, and it is never printed. `env:NAME` and `file:PATH` in place of a value keep it out
  of the list of processes. Chromium and undici can't send headers; without `--query` they stay out.
* **Quiet streams do not pass.** Something has to be said after each fault, within `--patience` (60 s); else there is *no verdict*.
* **Ids.** An event is known by its id and a hash of its data; `<id>~lbr<n>` is an id like any. Without ids a client can't say where it was, so what falls between two of its connections
  can't be judged, and of a text that comes twice without an id nobody can tell whether it was said or sent twice. Both are said, and a stream without
  any id gets no verdict.
* **What it can't see**: what upstream said and no client got; an order that the relay mixed up for all alike; events of types that were first heard after
  Chromium, `eventsource` and undici had been started, for these three.
* A gap that is told is as promised, and counted: whether your upstream could have spared it nobody here knows.
* Limits count: 31 clients that come back together are that many connects (`limits.connects_per_minute`). Refusals are counted beside the outcome.
* Exit codes: 0 as promised, 1 not, 2 wrong usage, 3 no verdict. Ctrl-C prints the verdict so far. `SSL_CERT_FILE` names an authority of your own.

With `--upstream-port` it is the other way round: your relay reads the kit's numbered upstream, which then breaks, too.
"""


def write_document() -> None:
    """Write it anew."""
    if not record.LONG.exists():
        return
    said = record.load(record.LONG)
    lines = [_OPENING, *_summary(said), _PROMISES]
    lines += [*_alone(said), *_mixed(said), *_flat(said), *_libraries(said)]
    if record.PEERS.exists():
        lines += _peers(record.load(record.PEERS))
    lines.append(f"\n{_YOURS}")
    DOCUMENT.write_text("\n".join(lines).rstrip() + "\n")


def _sum(outcomes: Sequence[dict[str, Any]], what: str) -> int:
    return sum(one["judgement"][what] for one in outcomes if one["judgement"])


def _summary(said: dict[str, Any]) -> Iterator[str]:
    alone, mixed = said["alone"], said["mixed"]
    everything = alone + mixed
    size = said["size"]
    yield "## The last long run\n"
    yield (
        f"{said['minutes']:g} minutes of random faults with {size['tabs']} clients on {size['feeds']} feeds and one of each library, on one relay and at the same time on three with Redis, "
        f"seed {said['seed']}, begun {said['started'][:10]} on {said['machine']['processor']} ({said['machine']['cores']} cores, shared with other work); "
        f"then every scenario alone, with 40 clients. Commit {said['commit']}"
        f"{', alone ' + said['alone_commit'] if 'alone_commit' in said else ''}.\n"
    )
    yield "| | random schedules | scenarios alone |"
    yield "| --- | --- | --- |"
    yield f"| episodes | {len(mixed)} | {len(alone)} |"
    for title, what in (
        ("deliveries", "deliveries"),
        ("connections of clients", "connections"),
        ("**lost**", "lost"),
        ("**repeated**", "repeated"),
        ("**out of order**", "reordered"),
        ("gaps told (one for each client that met it)", "gaps"),
        ("missing where a gap said so", "told"),
        ("again after a gap that said so", "again"),
        ("missing by a client's own doing", "own"),
    ):
        yield f"| {title} | {_sum(mixed, what):,} | {_sum(alone, what):,} |"
    bad = [one for one in everything if not one["good"]]
    if bad:
        yield "\n**Not as promised:**\n"
        yield from (f"* {' + '.join(one['names'])} ({one['on']}): {_why(one)}" for one in bad)
    for again in said.get("again", ()):
        yield (
            f"\nPlayed again with {size['tabs']} clients since what was found is mended, commit {again['commit']}: "
            f"`python -m bench.chaos {again['names']} --large --on {again['on']} --seed N`, {again['times']} seed{'s' * (again['times'] > 1)}, "
            f"{again['good']} as promised, lost {again['lost']}, repeated {again['repeated']}."
        )
    yield ""


def _why(outcome: dict[str, Any]) -> str:
    if outcome["failed"]:
        return outcome["failed"].splitlines()[0]
    judged = outcome["judgement"]
    if judged["gaps"] and not (judged["lost"] or judged["repeated"] or judged["reordered"]):
        return (
            f"nothing missing without a word, but {judged['gaps']} gaps told ({', '.join(sorted(judged['causes']))}) "
            f"where upstream remembered all, {judged['told']} events missing there"
        )
    return (
        f"lost {judged['lost']}, repeated {judged['repeated']}, out of order {judged['reordered']}, "
        f"gaps {judged['causes']}; {'; '.join(judged['examples'][:2])}"
    )


def _alone(said: dict[str, Any]) -> Iterator[str]:
    by_name: dict[tuple[str, str], dict[str, Any]] = {
        (one["names"][0], one["on"]): one for one in said["alone"]
    }
    yield "## Every fault alone\n"
    yield "One relay, or three with Redis. Silence is the longest of any client between two events, of which there were five a second.\n"
    yield "| fault | relays | lost | repeated | out of order | told | gaps | silence |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for scenario in plan.scenarios().values():
        for on in scenario.on:
            if (found := by_name.get((scenario.name, on))) and found["judgement"]:
                judged = found["judgement"]
                causes = ", ".join(sorted(judged["causes"])) or "0"
                yield (
                    f"| {scenario.fault} (`{scenario.name}`) | {plan.STAGES[on]} | {judged['lost']} | {judged['repeated']} "
                    f"| {judged['reordered']} | {judged['told']} | {causes} | {judged['longest_silence_s']:.1f} s |"
                )
    yield ""


def _mixed(said: dict[str, Any]) -> Iterator[str]:
    played: Counter[str] = Counter()
    hurt: Counter[str] = Counter()
    for one in said["mixed"]:
        for name in one["names"]:
            played[name] += 1
            hurt[name] += 0 if one["good"] else 1
    known = plan.scenarios()
    yield "## Several at once\n"
    yield "How often each took part in a random schedule, alone or with one or two others, and in how many of those anything was not as promised.\n"
    yield "| fault | times | not as promised |"
    yield "| --- | --- | --- |"
    for name, times in sorted(played.items(), key=lambda pair: (-pair[1], pair[0])):
        yield f"| {known[name].fault if name in known else name} | {times} | {hurt[name]} |"
    medians = [one["judgement"]["delays_s"] for one in said["mixed"] if one["judgement"]]
    if medians:
        yield (
            f"\nDelay from upstream's word to a client's diary, faults included: median {1000 * mean(one[0] for one in medians):.0f} ms, "
            f"99 of 100 within {mean(one[1] for one in medians):.1f} s (means over the episodes).\n"
        )


def _flat(said: dict[str, Any]) -> Iterator[str]:
    lives: dict[tuple[str, str], list[tuple[float, dict[str, int]]]] = defaultdict(list)
    for look in said["resources"]:
        for relay, values in look["relays"].items():
            lives[look["on"], relay].append((look["at_s"], values))
    yield "## What the relays held\n"
    yield "Looked at after each random schedule, when all is quiet again, for each stage's process that lived longest: the mean of the first and of the last quarter of the looks,"
    yield "and the highest. Each stage begins with every history at its bound of 1000 events, which grow too old in five minutes; an API that says its whole log again"
    yield "fills them anew. *Unused*: histories that no feed has any more, and that still take memory. Tasks go with the feeds that a relay owns.\n"
    yield "| relays | minutes | resident memory, MiB | thousands of events | histories unused | descriptors | tasks |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    feeds = said["size"]["feeds"]
    rises: list[str] = []
    for on, replicas in plan.STAGES.items():
        mine = [looks for (stage, _), looks in lives.items() if stage == on]
        if not mine:
            continue
        looks = max(mine, key=lambda one: one[-1][0] - one[0][0])
        held = [values for _, values in looks]
        columns = (
            _course([values["resident_bytes"] / _MIB for values in held]),
            _course([values["events"] / 1000 for values in held]),
            _course([max(values["histories"] - feeds, 0) for values in held]),
            _course([values["descriptors"] for values in held]),
            _course([values["tasks"] for values in held]),
        )
        minutes = (looks[-1][0] - looks[0][0]) / 60
        yield f"| {replicas} | {minutes:.0f} | {' | '.join(columns)} |"
        rises += _rises(looks, said, replicas)
    yield from rises
    yield ""


def _course(values: Sequence[float]) -> str:
    quarter = max(1, len(values) // 4)
    return (
        f"{mean(values[:quarter]):.0f} → {mean(values[-quarter:]):.0f}, at most {max(values):.0f}"
    )


def _rises(
    looks: Sequence[tuple[float, dict[str, int]]], said: dict[str, Any], replicas: int
) -> Iterator[str]:
    """By which schedules the memory reached a new height: it does so in steps, or not at all."""
    names = {
        look["at_s"]: " + ".join(one["names"])
        for look, one in zip(said["resources"], said["mixed"], strict=False)
    }
    begun_s, first = looks[0]
    highest = first["resident_bytes"] / _MIB
    steps = []
    for at_s, values in looks:
        size = values["resident_bytes"] / _MIB
        if size > highest + _STEP_MIB:
            after = f"after {(at_s - begun_s) / 60:.0f} minutes"
            steps.append(f"+{size - highest:.0f} MiB {after} by `{names[at_s]}`")
        highest = max(highest, size)
    if steps:
        yield f"\nNew heights of the memory of {replicas}: {'; '.join(steps)}."


def _libraries(said: dict[str, Any]) -> Iterator[str]:
    yield "## Real clients\n"
    yield "One of each took part in everything. *Own*: what it missed by its own doing; *gave up*: it never asked again, and was started anew.\n"
    yield "| client | comes back | deliveries | connections | lost | repeated | out of order | own | gave up |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for one in LIBRARIES:
        if one.name in said["absent"]:
            yield f"| {one.name} | {one.comes_back} | not here: {said['absent'][one.name]} | | | | | | |"
        elif found := said["libraries"].get(one.name):
            yield (
                f"| {one.name} | {one.comes_back} | {found['deliveries']} | {found['connections']} | {found['lost']} "
                f"| {found['repeated']} | {found['reordered']} | {found['own']} | {found['gave_up']} |"
            )
    yield """
* **undici**'s `EventSource` stays silent for ever once a connection has broken rather than ended: it neither comes back nor says so. Watch for silence beside it.
* **fetch-event-source** takes an id as soon as its line is there, before the event: cut in between, it comes back after an event that it never handed out.
* **requests**, **curl** and **aiohttp** have no parser: the loop here reads lines, and takes an event at its blank line only.
* A connection that carries nothing, and of which nobody says so, is found by none of them without a time-out; the loops in Python have one.
"""


def _peers(said: dict[str, Any]) -> Iterator[str]:
    clients = said["size"]["tabs"]
    yield "## Peers\n"
    yield (
        f"The same kit, clients and judge on others; {said['started'][:10]}, seed {said['seed']}, commit {said['commit']}, {clients} of the kit's own clients and "
        "one of each library. Every relay has one feed of five events a second, the same time-outs (2 s for an answer, 3 s of silence from upstream), a heartbeat a second, "
        "and, before each fault, an API that was silent for two heartbeats, since this relay trusts silence until it has seen one.\n"
    )
    yield (
        "Lost / repeated / out of order, summed over all clients: one event that nobody gets counts for each. *Told*: missing where a `relay.gap` said so; "
        "*again*: a second time after one. After the bar: the longest time for which something had been said and one of the kit's clients, "
        "which come back within 0.15 s and after 4 s of silence, heard nothing.\n"
    )
    if said.get("again"):
        again = ", ".join(f"`{name}`" for name in said["again"])
        yield f"Played once more afterwards, on every relay, since some cell looked like the machine's other work: {again}.\n"
    names = list(said["peers"])
    known = plan.scenarios()
    rows = [(name, one["names"][0]) for name in names for one in said["peers"][name]]
    faults = dict.fromkeys(fault for _, fault in rows)
    yield f"| fault | {' | '.join(names)} |"
    yield f"| --- |{' --- |' * len(names)}"
    for fault in faults:
        cells = []
        for name in names:
            found = next((one for one in said["peers"][name] if one["names"][0] == fault), None)
            cells.append(_cell(found))
        title = f"{known[fault].fault} (`{fault}`)" if fault in known else fault
        yield f"| {title} | {' | '.join(cells)} |"
    yield ""
    yield from (f"* **{name}**: {about}" for name, about in said["about"].items())
    yield from (f"* {name} is not in the table: {why}" for name, why in said["absent"].items())
    yield _PEER_NOTES


def _cell(outcome: dict[str, Any] | None) -> str:
    if outcome is None:
        return "–"
    judged = outcome["judgement"]
    if judged is None:
        return "did not recover"
    text = f"{judged['lost']} / {judged['repeated']} / {judged['reordered']}"
    for what, word in (("told", "told"), ("again", "again")):
        text += f", {judged[what]} {word}" if judged[what] else ""
    failed = " (did not recover)" if outcome["failed"] else ""
    return f"{text} \\| {judged['crowd_wait_s']:.1f} s{failed}"
