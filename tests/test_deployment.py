"""A replica's name, which the others know it by."""

import pytest

from lebureau_relay import deployment as module
from lebureau_relay.config import Settings
from lebureau_relay.deployment import Deployment


@pytest.mark.parametrize("host", ["pod-1", "x" * 64])
def test_processes_of_one_machine_have_names_that_the_census_keeps_apart(monkeypatch, host):
    monkeypatch.setattr(module, "gethostname", lambda: host)
    names = {Deployment(Settings(), None, None).name for _ in range(20)}  # type: ignore[arg-type]
    assert len(names) == 20
    assert max(map(len, names)) <= 64
