"""Every fault of a deployment at a tenth of the size: real processes, real sockets, and clients
that write down every number. `make chaos-replicas` plays them at full size.
"""

import pytest
from tests.replicas.scenarios import CI, SCENARIOS, play

# While a feed changes hands in good order, or is asked what one cursor lacks, upstream may see two
# connections for a moment.
_MOMENT_S = 0.5


@pytest.mark.server
@pytest.mark.timeout(150)
@pytest.mark.parametrize("name", SCENARIOS)
async def test_nothing_is_lost_repeated_or_reordered(name):
    scenario = SCENARIOS[name]
    outcome = await play(scenario, CI)
    print(outcome)  # noqa: T201 - the judgement is what this is for
    judged = outcome.judgement
    assert (judged.lost, judged.repeated, judged.reordered) == (0, 0, 0), str(outcome)
    assert judged.gaps == 0, "this upstream replays, so nothing need be unknown"
    assert outcome.appends > 0
    assert outcome.violations == ()
    if not scenario.overlaps:
        assert outcome.twice_s < _MOMENT_S, "one upstream per feed"
