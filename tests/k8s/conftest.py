"""Settings as the program would read them in a pod."""

import pytest
from tests.k8s.rendered import SECRET_KEYS, SECRETS, render

from lebureau_relay.config import load


@pytest.fixture
def settings_of(tmp_path):
    """What `serve` would run with in a pod of a rendering. Secrets are samples."""

    def read(name):
        found = render(name)
        env = {}
        for one in found.container["env"]:
            if "valueFrom" in one:
                reference = one["valueFrom"]["secretKeyRef"]
                assert reference["name"] == found.secret_name
                assert not reference.get("optional"), "a relay alone is a mistake that nobody sees"
                env[one["name"]] = SECRET_KEYS[reference["key"]]
            else:
                env[one["name"]] = placed(one["value"])
        (tmp_path / "relay.yaml").write_text(found.file())
        return load(tmp_path / "relay.yaml", env)

    def placed(value):
        if not value.startswith("file:"):
            return value
        folder, _, key = value.removeprefix("file:").rpartition("/")
        assert folder == SECRETS
        (tmp_path / key).write_text(SECRET_KEYS[key])
        return f"file:{tmp_path / key}"

    return read
