"""The story makes sense, whatever the seed, and is the same for the same seed."""

from collections import Counter, defaultdict

import pytest

from lebureau_relay.simulator import Stream
from lebureau_relay.simulator.story import Story

NOW = "2026-03-15T10:05:00Z"
SEEDS = [f"{n}:user" for n in range(8)]
TIERS = {"free": 1, "pro": 3, "max": 10}
DESKTOP_TYPES = {"desktop.status", "desktop.metrics", "desktop.agentReady"}
ACTIVITY_TYPES = {
    *(f"task.{w}" for w in ("created", "started", "completed", "failed", "review", "cancelled")),
    *(f"desktop.{w}" for w in ("started", "stopped", "error")),
    *(f"approval.{w}" for w in ("created", "resolved")),
}
# What may follow what in the life of one task; the empty word is its beginning.
NEXT = {
    "": {"created"},
    "created": {"started", "cancelled"},
    "started": {"review", "completed", "failed", "cancelled"},
    "review": {"approval.created"},
    "approval.created": {"approval.resolved"},
    "approval.resolved": {"completed", "failed"},
    "over": set(),
}


def both(seed: str, tier: str, count: int) -> list[tuple[Stream, str, dict]]:
    """Both streams told by turns, as the ticker does."""
    story = Story(seed, tier, NOW)
    return [(s, *story.next(s, NOW)) for _ in range(count) for s in Stream]


@pytest.mark.parametrize("tier", TIERS)
def test_all_fourteen_types_come_on_their_stream(tier):
    seen = defaultdict(Counter)
    for seed in SEEDS:
        for stream, kind, _ in both(seed, tier, 800):
            seen[stream][kind] += 1
    assert seen[Stream.DESKTOPS].keys() == DESKTOP_TYPES
    assert seen[Stream.ACTIVITY].keys() == ACTIVITY_TYPES


@pytest.mark.parametrize("seed", SEEDS)
def test_a_desktop_boots_runs_gets_ready_and_only_then_has_metrics(seed):
    state = defaultdict(lambda: "stopped")
    for stream, kind, payload in both(seed, "pro", 800):
        if stream is not Stream.DESKTOPS:
            continue
        name, was = payload["id"], state[payload["id"]]
        if kind == "desktop.metrics":
            assert was == "ready"
        elif kind == "desktop.agentReady":
            assert was == "running"
            state[name] = "ready"
        else:
            now = payload["status"]
            allowed = {
                "stopped": {"booting"},
                "error": {"booting"},
                "booting": {"running"},
                "running": set(),
                "ready": {"running", "stopped", "error"},
            }
            assert now in allowed[was]
            state[name] = "ready" if (was, now) == ("ready", "running") else now
    assert set(TIERS.values()) >= {len(state)}


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("seed", SEEDS)
def test_every_task_goes_one_of_the_allowed_ways_on_a_running_desktop(seed, tier):
    step, up, ended = defaultdict(str), set(), Counter()
    for stream, kind, payload in both(seed, tier, 800):
        if stream is not Stream.ACTIVITY:
            continue
        subject, _, what = kind.partition(".")
        if subject == "desktop":
            assert (payload["desktopId"] in up) == (what != "started")
            (up.add if what == "started" else up.discard)(payload["desktopId"])
            continue
        task = payload["taskId"]
        word = kind if subject == "approval" else what
        if word in {"created", "started"}:
            assert payload["desktopId"] in up
        assert word in NEXT[step[task]], (task, step[task], word)
        step[task] = word
        if word in {"completed", "failed", "cancelled"}:
            ended[word] += 1
            step[task] = "over"
    assert ended["completed"] > ended["failed"] > 0


def test_the_two_streams_tell_of_one_world():
    started, ran = Counter(), Counter()
    for stream, kind, payload in both("1:user", "pro", 800):
        if kind == "desktop.started":
            started[payload["desktopId"]] += 1
        if stream is Stream.DESKTOPS and payload.get("status") == "booting":
            ran[payload["id"]] += 1
    assert started.keys() == ran.keys()
    assert all(0 <= ran[d] - started[d] <= 1 for d in ran)


@pytest.mark.parametrize("stream", Stream)
def test_one_stream_alone_goes_on_for_ever(stream):
    story = Story("1:user", "free", NOW)
    kinds = Counter(story.next(stream, NOW)[0] for _ in range(2000))
    assert len(kinds) >= 3
    assert sum(map(len, story._owed.values())) <= 2 * 64


def test_the_same_seed_tells_the_same_and_another_seed_another():
    assert both("1:user", "pro", 200) == both("1:user", "pro", 200)
    assert both("1:user", "pro", 200) != both("2:user", "pro", 200)


def test_payloads_have_the_fields_of_the_documented_samples():
    samples = {kind: payload for _, kind, payload in both("1:user", "max", 2000)}
    assert list(samples["desktop.status"]) == [
        "id",
        "name",
        "status",
        "ipAddress",
        "cpu",
        "memory",
    ]
    completed = samples["task.completed"]
    assert completed.keys() == {"taskId", "desktopId", "status", "completedAt"}
    assert (completed["status"], completed["completedAt"]) == ("done", NOW)
    assert {"cpu", "memory", "disk"} < samples["desktop.metrics"].keys()


def test_desktops_are_listed_as_the_api_lists_them():
    listed = Story("1:user", "pro", NOW).desktops()
    assert len(listed) == TIERS["pro"]
    assert {"id", "name", "status", "tier", "ipAddress", "createdAt", "keepAlive"} < listed[
        0
    ].keys()
