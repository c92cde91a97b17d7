"""The stage of the black-box tests, for EventSource's behaviour."""

from tests.e2e.conftest import *  # noqa: F403 - fixtures are found by their names
