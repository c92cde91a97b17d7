"""The fixtures of the black-box tests, as they are: an API, relays here and as programs."""

from tests.e2e.conftest import *  # noqa: F403 - fixtures are found by their names
