"""What happens to one user's desktops and tasks, told as events in an order that makes sense.

Pure: a seed in, events out; the time is an argument. One world stands behind both streams, so that
a desktop that starts on one is a `desktop.started` on the other, and a task never runs on a desktop
that is off. What happened for the other stream is owed to it and told first when it is asked. The
same seed and the same calls give the same story.

Field names follow the documented samples (`payload.id` on desktops, `payload.desktopId` on
activity); where no sample is known they follow the API's REST records.
"""

from collections import deque
from dataclasses import dataclass
from random import Random
from typing import Final

from lebureau_relay.simulator.options import Stream

Payload = dict[str, object]
Told = tuple[str, Payload]

# A stream that nobody asks for is owed at most this much; what a live world did meanwhile is then
# partly untold.
_OWED: Final = 64
_DESKTOPS: Final = {"free": 1, "pro": 3, "max": 10}
_DISK_GB: Final = {"free": 20, "pro": 40, "max": 80}
_TASKS_AT_ONCE: Final = 4
_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz0123456789"
_NAMES: Final = (
    "veille-marché", "facturation", "recrutement", "support-niveau-1", "prospection",
    "rapprochement", "traduction", "relances", "reporting", "archives",
)  # fmt: skip
_WORK: Final = (
    ("prompt", "Résumer les courriels de la semaine"),
    ("prompt", "Comparer les trois devis reçus et proposer un choix"),
    ("prompt", "Mettre à jour la fiche de chaque candidat"),
    ("prompt", "Draft a reply to the open support tickets"),
    ("prompt", "Préparer l’ordre du jour du comité"),
    ("command", "python3 rapport.py --mois courant"),
    ("command", "git pull && make publish"),
    ("command", "rclone sync ~/kb archive:kb"),
)
_TROUBLE: Final = (
    "agent stopped answering",
    "exit status 1",
    "provider quota exceeded",
    "page did not load within 60 s",
)


@dataclass(slots=True)
class _Desktop:
    id: str
    name: str
    ip: str
    created_at: str
    status: str = "stopped"
    ready: bool = False
    cpu: float = 0.0
    memory: float = 20.0
    disk: float = 10.0


@dataclass(slots=True)
class _Task:
    id: str
    desktop: _Desktop
    kind: str
    content: str
    gated: bool
    status: str = "pending"
    approval: str = ""


class Story:
    """One user's world. `tier` says how many desktops; `now` is always ISO 8601 text."""

    __slots__ = ("_chance", "_desktops", "_owed", "_tasks", "_tier")

    def __init__(self, seed: str, tier: str, now: str) -> None:
        self._chance = Random(seed)  # noqa: S311 - a story is no secret
        self._tier = tier
        self._desktops = [
            _Desktop(
                "clx" + self._word(22), name, f"10.0.{self._chance.randrange(8)}.{n + 10}", now
            )
            for n, name in enumerate(_NAMES[: _DESKTOPS[tier]])
        ]
        self._tasks: list[_Task] = []
        self._owed: dict[Stream, deque[Told]] = {s: deque(maxlen=_OWED) for s in Stream}

    def next(self, stream: Stream, now: str) -> Told:
        """The next event of a stream: its type and its payload."""
        owed = self._owed[stream]
        if owed:
            return owed.popleft()
        return self._desktop_turn(now) if stream is Stream.DESKTOPS else self._task_turn(now)

    def desktops(self) -> list[Payload]:
        """The user's desktops as `GET /api/desktops` lists them."""
        return [
            {
                "id": each.id,
                "name": each.name,
                "status": each.status,
                "tier": self._tier,
                "ipAddress": each.ip,
                "createdAt": each.created_at,
                "keepAlive": True,
                "agentReady": each.ready,
            }
            for each in self._desktops
        ]

    def _word(self, length: int) -> str:
        return "".join(self._chance.choices(_ALPHABET, k=length))

    # Desktops: stopped | error -> booting -> running -> agentReady, then metrics, now and then an
    # end.

    def _desktop_turn(self, now: str) -> Told:
        rising = [each for each in self._desktops if not each.ready]
        up = [each for each in self._desktops if each.ready]
        if rising and (not up or self._chance.random() < 0.3):
            return self._raise(rising[0], now)
        desktop = self._chance.choice(up)
        roll = self._chance.random()
        if roll < 0.02:
            return self._fell(desktop, "stopped", now)
        if roll < 0.03:
            return self._fell(desktop, "error", now)
        self._drift(desktop)
        return _status(desktop) if roll < 0.15 else _metrics(desktop, _DISK_GB[self._tier])

    def _raise(self, desktop: _Desktop, now: str) -> Told:
        if desktop.status == "booting":
            desktop.status = "running"
            desktop.cpu, desktop.memory = 60.0, 25.0
            self._owe(Stream.ACTIVITY, _started(desktop, now))
            return _status(desktop)
        if desktop.status == "running":
            desktop.ready = True
            return _ready(desktop, now)
        desktop.status = "booting"
        desktop.cpu, desktop.memory = 5.0, 4.0
        return _status(desktop)

    def _fell(self, desktop: _Desktop, status: str, now: str) -> Told:
        desktop.status, desktop.ready = status, False
        desktop.cpu = desktop.memory = 0.0
        # The others wait their turn behind it, or the first of the list would be the only one that
        # ever moves.
        self._desktops.remove(desktop)
        self._desktops.append(desktop)
        told: Payload = {"desktopId": desktop.id, "name": desktop.name, "status": status, "at": now}
        if status == "error":
            told["error"] = self._chance.choice(_TROUBLE)
        self._owe(Stream.ACTIVITY, (f"desktop.{status}", told))
        for task in [each for each in self._tasks if each.desktop is desktop]:
            for event in self._break_off(task, now):
                self._owe(Stream.ACTIVITY, event)
        return _status(desktop)

    def _drift(self, desktop: _Desktop) -> None:
        uniform = self._chance.uniform
        desktop.cpu = round(min(99.0, max(1.0, desktop.cpu + uniform(-9, 9))), 1)
        desktop.memory = round(min(95.0, max(10.0, desktop.memory + uniform(-3, 3))), 1)
        desktop.disk = round(min(90.0, max(5.0, desktop.disk + uniform(-0.2, 0.4))), 1)

    # Tasks: pending -> running -> (review -> approval) -> done | failed | cancelled.

    def _task_turn(self, now: str) -> Told:
        ready = [each for each in self._desktops if each.ready]
        if not ready:
            return self._bring_up(now)
        few = len(self._tasks) < min(_TASKS_AT_ONCE, len(ready) + 1)
        if not self._tasks or (few and self._chance.random() < 0.25):
            return self._create(self._chance.choice(ready), now)
        return self._advance(self._chance.choice(self._tasks), now)

    def _bring_up(self, now: str) -> Told:
        """Work needs a desktop: let one come up unasked, and owe its boot to the other stream."""
        desktop = self._desktops[0]
        while not desktop.ready:
            self._owe(Stream.DESKTOPS, self._raise(desktop, now))
        owed = self._owed[Stream.ACTIVITY]
        # Nothing is owed if it had started, and this stream was told so, before it got ready.
        return owed.popleft() if owed else self._create(desktop, now)

    def _create(self, desktop: _Desktop, now: str) -> Told:
        kind, content = self._chance.choice(_WORK)
        task = _Task(f"task_{self._word(10)}", desktop, kind, content, self._chance.random() < 0.4)
        self._tasks.append(task)
        return _task(
            task, "created", type=kind, content=content, requiresApproval=task.gated, createdAt=now
        )

    def _advance(self, task: _Task, now: str) -> Told:
        roll = self._chance.random()
        if task.status == "review":
            return self._resolve(task, approved=roll < 0.8, now=now)
        if roll < 0.05:
            return self._end(task, "cancelled", completedAt=now)
        if task.status == "pending":
            task.status = "running"
            return _task(task, "started", startedAt=now)
        if roll < 0.15:
            return self._end(task, "failed", error=self._chance.choice(_TROUBLE), completedAt=now)
        if task.gated:
            return self._review(task, now)
        return self._end(task, "completed", completedAt=now)

    def _review(self, task: _Task, now: str) -> Told:
        task.status, task.approval = "review", f"appr_{self._word(10)}"
        asked = _approval(task, "created", status="pending", summary=task.content, createdAt=now)
        self._owe(Stream.ACTIVITY, asked)
        return _task(task, "review", reviewAt=now)

    def _resolve(self, task: _Task, *, approved: bool, now: str) -> Told:
        decision = "approve" if approved else "reject"
        resolved = _approval(task, "resolved", status="resolved", decision=decision, resolvedAt=now)
        if approved:
            self._owe(Stream.ACTIVITY, self._end(task, "completed", completedAt=now))
        else:
            self._owe(Stream.ACTIVITY, self._end(task, "failed", error="rejected", completedAt=now))
        return resolved

    def _break_off(self, task: _Task, now: str) -> list[Told]:
        """How a task ends whose desktop went away."""
        if task.status == "pending":
            return [self._end(task, "cancelled", completedAt=now)]
        if task.status == "review":
            resolved = self._resolve(task, approved=False, now=now)
            return [resolved, self._owed[Stream.ACTIVITY].pop()]
        return [self._end(task, "failed", error="desktop went away", completedAt=now)]

    def _end(self, task: _Task, how: str, **facts: object) -> Told:
        self._tasks.remove(task)
        task.status = "done" if how == "completed" else how
        return _task(task, how, **facts)

    def _owe(self, stream: Stream, event: Told) -> None:
        self._owed[stream].append(event)


def _status(desktop: _Desktop) -> Told:
    return "desktop.status", {
        "id": desktop.id,
        "name": desktop.name,
        "status": desktop.status,
        "ipAddress": desktop.ip,
        "cpu": desktop.cpu,
        "memory": desktop.memory,
    }


def _metrics(desktop: _Desktop, disk_gb: int) -> Told:
    return "desktop.metrics", {
        "id": desktop.id,
        "cpu": desktop.cpu,
        "memory": desktop.memory,
        "disk": desktop.disk,
        "diskTotalGb": disk_gb,
    }


def _ready(desktop: _Desktop, now: str) -> Told:
    return "desktop.agentReady", {
        "id": desktop.id,
        "name": desktop.name,
        "agentReady": True,
        "readyAt": now,
    }


def _started(desktop: _Desktop, now: str) -> Told:
    return "desktop.started", {
        "desktopId": desktop.id,
        "name": desktop.name,
        "status": "running",
        "at": now,
    }


def _task(task: _Task, what: str, **facts: object) -> Told:
    head = {"taskId": task.id, "desktopId": task.desktop.id, "status": task.status}
    return f"task.{what}", {**head, **facts}


def _approval(task: _Task, what: str, **facts: object) -> Told:
    head = {"approvalId": task.approval, "taskId": task.id, "desktopId": task.desktop.id}
    return f"approval.{what}", {**head, **facts}
