"""A rollout at a small size: nobody notices. `make rollout` plays it at full size."""

import pytest
from tests.rollout.play import SMALL, play


@pytest.mark.server
@pytest.mark.timeout(150)
async def test_a_rollout_loses_nothing_and_makes_no_herd():
    outcome = await play(SMALL)
    judged, chronicle = outcome.judgement, outcome.chronicle
    print(judged, chronicle.goodbyes, outcome.busiest_second, outcome.bound)  # noqa: T201
    assert (judged.lost, judged.repeated, judged.reordered) == (0, 0, 0), judged
    assert judged.gaps == 0
    assert (chronicle.cuts, chronicle.strays, chronicle.refusals) == (0, 0, {})
    assert set(chronicle.goodbyes) == {"draining"}
    assert SMALL.clients <= len(outcome.reconnects_s) <= SMALL.replicas * SMALL.clients
    assert outcome.busiest_second < outcome.bound
    hints_ms = chronicle.hints_ms
    assert len(set(hints_ms)) > len(hints_ms) / 4, "each has a hint of its own"
    for old in outcome.pods[: SMALL.replicas]:
        assert old.code == 0
        assert old.unready_s - old.signalled_s < SMALL.delay_s, "readyz fails behind the signal"
        assert SMALL.delay_s < old.gone_s - old.signalled_s < SMALL.grace_s
