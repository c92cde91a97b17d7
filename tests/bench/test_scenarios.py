"""Scenarios are data: what they name must be there, what they promise must be measurable."""

import pytest
from bench.contestants import missing
from bench.kinds import Growth, Step, Storm
from bench.report.tables import COLUMNS
from bench.scenarios import SCENARIOS

each = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.name)


def named(metric: str) -> str:
    return metric.rpartition(" ")[2]


def test_names_are_used_once():
    names = [one.name for one in SCENARIOS]
    assert len(set(names)) == len(names)


@each
def test_rows_are_told_apart_and_can_be_started(scenario):
    titles = [one.title for one in scenario.entries]
    assert len(set(titles)) == len(titles)
    for entry in scenario.entries:
        assert isinstance(missing(entry), str), "a contestant that nobody knows"


@each
def test_columns_and_goals_are_about_what_is_there(scenario):
    titles = {one.title for one in scenario.entries}
    metrics = {named(one) for one in scenario.columns} | {named(g.metric) for g in scenario.goals}
    assert metrics <= set(COLUMNS)
    assert {goal.entry for goal in scenario.goals} <= titles
    assert {goal.against for goal in scenario.goals} - {""} <= titles
    assert scenario.baseline in titles
    assert all((goal.most is None) != (goal.least is None) for goal in scenario.goals)


@each
def test_all_rows_share_what_is_not_compared(scenario):
    steps = [one for one in scenario.entries if isinstance(one, Step)]
    assert bool(steps) == isinstance(scenario, Growth)
    for one in steps:
        assert one.title == f"{one.at:,}"
        assert one.idle % one.load.tabs == 0, "idle clients are whole users"
    assert [one.at for one in steps] == sorted(one.at for one in steps)
    assert not steps or steps[-1].at >= 100 * steps[0].at, "two decades"


@each
def test_a_storm_is_about_those_who_come_back(scenario):
    if isinstance(scenario, Storm):
        assert 0 < scenario.staying < scenario.load.connections
        assert scenario.back < scenario.warmup, "there must be as much to replay"
