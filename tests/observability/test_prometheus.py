"""A real Prometheus scrapes three replicas under load: everything that dashboard and alerts ask for
has an answer, all is quiet while all is well, and what breaks is noticed.
"""

import asyncio
import re
import signal
from collections.abc import Awaitable, Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.observability.rules import ALERTS, DASHBOARD, filled, operands, promtool, queries
from tests.observability.server import Prometheus
from tests.observability.told import LABELS, SAMPLES
from tests.replicas.stage import Size, Stage

_SIZE = Size(feeds=12, tabs=48, rate=5.0, lease_s=2.0, pause_s=4.0)
# What a machine that does everything at once may truly be, for the moment that a test lasts.
_MACHINES_OWN = {"DeliveryDelay", "LoopLag", "RedisSlow"}
_SOON_S = 60.0


async def come_true(true: Callable[[], Awaitable[object]], said: str) -> None:
    """Wait until what is asked is nothing any more."""
    left: object = None
    try:
        async with asyncio.timeout(_SOON_S):
            while left := await true():  # noqa: ASYNC110 - somebody else's process
                await asyncio.sleep(0.5)
    except TimeoutError:
        raise AssertionError(f"not within {_SOON_S} s: {said}: {left}") from None


async def pages(stage: Stage) -> list[str]:
    """Each replica's metrics; the stage knows where they are."""
    found = []
    for relay in stage.relays:
        async with stage._session.get(f"http://127.0.0.1:{relay._admin_port}/metrics") as answer:
            found.append(await answer.text())
    return found


async def refuse_one_each(stage: Stage) -> None:
    """A share of the refused is one of those who came; all others came before the first scrape."""
    for relay in stage.relays:
        async with stage._session.get(f"http://127.0.0.1:{relay.port}/api/desktops/stream") as no:
            assert no.status == 401


@pytest.mark.server
@pytest.mark.timeout(240)
async def test_three_replicas_under_load(tmp_path):
    async with Stage(_SIZE) as stage:
        await stage.settled()
        ports = [relay._admin_port for relay in stage.relays]
        async with Prometheus(tmp_path, ports) as prometheus:
            await every_page_is_as_documented(stage)
            await every_question_has_an_answer(stage, prometheus)
            await nobody_is_alarmed(prometheus)
            await what_breaks_is_noticed(stage, prometheus)


async def every_page_is_as_documented(stage: Stage) -> None:
    """promtool finds no fault, and `told`, which the documents are held to, tells the truth."""
    for page in await pages(stage):
        lint = promtool("check", "metrics", given=page)
        assert (lint.returncode, lint.stdout) == (0, "")
        samples = [s for family in text_string_to_metric_families(page) for s in family.samples]
        assert {sample.name for sample in samples} == SAMPLES
        for sample in samples:
            if sample.name.startswith("lebureau_relay_") and "build_info" not in sample.name:
                for label, value in sample.labels.items():
                    assert value in LABELS[sample.name][label], sample


async def every_question_has_an_answer(stage: Stage, prometheus: Prometheus) -> None:
    asked = [*queries(), *((name, operands(name)) for name in ALERTS)]
    annotation = DASHBOARD["annotations"]["list"][0]["expr"]

    async def silent() -> list[tuple[str, str]]:
        await refuse_one_each(stage)
        return [one for one in asked if not await prometheus.ask(one[1])]

    await come_true(silent, "an answer to each")
    assert await prometheus.ask(annotation) == []  # alerts, of which there are none
    for rule in await prometheus.rules():
        assert (rule["health"], rule.get("lastError", "")) == ("ok", ""), rule
        if rule["type"] == "recording":
            assert await prometheus.ask(rule["name"]), rule["name"]
    streams = await prometheus.ask("sum(lebureau_relay_subscribers)")
    assert float(streams[0]["value"][1]) == _SIZE.tabs
    for variable in DASHBOARD["templating"]["list"][1:]:
        series, label = re.fullmatch(
            r"label_values\((.*), (\w+)\)", filled(variable["definition"])
        ).groups()
        assert await prometheus.label_values(label, series), variable["name"]


async def nobody_is_alarmed(prometheus: Prometheus) -> None:
    async def alarmed() -> set[str]:
        alerts = {name.removeprefix("LebureauRelay") for name in await prometheus.alerts()}
        return alerts - _MACHINES_OWN

    await come_true(alarmed, "nobody is alarmed")


async def what_breaks_is_noticed(stage: Stage, prometheus: Prometheus) -> None:
    """One replica dies, the API goes, then Redis; each by its alert, with its sentences filled."""
    stage.relays[0].signal(signal.SIGKILL)
    await stage.simulator.stop()
    stage.servers[0].pause()
    expected = {
        "TargetDown": {"relay-0"},
        "UpstreamDown": {None},
        "RedisDown": {"relay-1", "relay-2"},
    }

    async def unnoticed() -> dict[str, set[str | None]]:
        noticed = await prometheus.alerts()
        pods = {
            name: {alert["labels"].get("pod") for alert in noticed.get(f"LebureauRelay{name}", ())}
            for name in expected
        }
        return {name: pods[name] for name in expected if pods[name] != expected[name]}

    await come_true(unnoticed, f"alerts {expected}")
    for alert in (one for many in (await prometheus.alerts()).values() for one in many):
        for sentence in alert["annotations"].values():
            assert "<" not in sentence, alert  # <no value>, <error …>
    stage.servers[0].resume()
