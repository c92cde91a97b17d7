"""Every target for a moment, always the same one. `make fuzz` goes on for longer, elsewhere."""

import pytest
from tests.fuzz.mutate import Found, Target, fuzz
from tests.fuzz.targets import TARGETS

INPUTS = 1000


@pytest.mark.parametrize("target", TARGETS, ids=lambda one: one.name)
def test_its_invariant_holds(target):
    assert fuzz(target, seed=1, inputs=INPUTS) > INPUTS


def test_a_broken_invariant_is_found_with_its_input():
    def check(data: bytes) -> int:
        assert b"\xff" not in data
        return len(data)

    with pytest.raises(Found, match=r"(?s)never 255.*broken by b'"):
        fuzz(Target("toy", "never 255", check, [b"a", b"b"]), seed=1, inputs=10_000)
