"""The browser module as a file: what is served, how it is cached, that it is what was written."""

import gzip
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.resources import files
from pathlib import Path

import pytest
from tests.node.packages import node_modules

from lebureau_relay.core.event import GapCause
from lebureau_relay.edge.client import PATH, browser_module
from lebureau_relay.errors import CloseReason, RefusalCode

ROOT = Path(__file__).parents[2]
SOURCE = Path(str(files("lebureau_relay.edge") / "client.js"))
MOST_BYTES = 4096  # issue 7, point 5


async def test_anybody_may_have_it_and_keep_it(serve):
    edge = await serve()
    reply = await edge.get(PATH)
    assert (reply.status, reply.body) == (200, browser_module())
    assert reply.headers["content-type"] == "text/javascript; charset=utf-8"
    assert reply.headers["content-length"] == str(len(reply.body))
    assert reply.headers["cache-control"] == "public, max-age=3600"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["access-control-allow-origin"] == "*"
    assert reply.headers["cross-origin-resource-policy"] == "cross-origin"
    assert "set-cookie" not in reply.headers
    assert edge.observer.codes == []
    head = await edge.get(PATH, method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["etag"] == reply.headers["etag"]
    assert head.headers["content-length"] == reply.headers["content-length"]


@pytest.mark.parametrize("form", ["{}", "W/{}", '"other", {}', "*"])
async def test_who_has_it_is_not_sent_it_again(serve, form):
    edge = await serve()
    etag = (await edge.get(PATH)).headers["etag"]
    assert re.fullmatch(r'"[0-9a-f]{32}"', etag)
    reply = await edge.get(PATH, f"If-None-Match: {form.format(etag)}")
    assert (reply.status, reply.body, reply.headers["etag"]) == (304, b"", etag)
    assert reply.headers["cache-control"] == "public, max-age=3600"
    assert (await edge.get(PATH, 'If-None-Match: "other"')).status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_it_is_only_read(serve, method):
    reply = await (await serve()).get(PATH, method=method)
    assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")
    assert reply.problem["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    "path", ["/relay", "/relay/", f"{PATH}/", "/relay/client.py", "/client.js"]
)
async def test_nothing_lies_beside_it(serve, path):
    assert (await (await serve()).get(path)).status == 404


def test_it_is_small():
    assert len(gzip.compress(browser_module(), 9)) < MOST_BYTES


def test_what_is_left_out_is_no_code():
    """A string that looks like a comment, or goes on over lines, would be bent."""
    source = SOURCE.read_text(encoding="utf-8")
    assert not re.search(r"""['"][^'"\n]*(?:/\*| //)[^'"\n]*['"]""", source)
    served = browser_module().decode()
    assert served.startswith("// One EventSource")
    assert served.count("//") == 1
    assert "/*" not in served
    assert "`" not in served
    assert not re.search(r"^\s|\s$|\n\n", served.rstrip("\n"), re.MULTILINE)


@pytest.mark.node
def test_it_is_what_was_written(tmp_path):
    """The compiler reads the same program in both."""
    script = tmp_path / "compare.cjs"
    script.write_text(
        f"""const ts = require({str(node_modules() / "typescript")!r});
        const fs = require('fs');
        const options = {{ target: 'esnext', module: 'esnext', removeComments: true }};
        const same = process.argv.slice(2)
          .map((name) => ts.transpile(fs.readFileSync(name, 'utf8'), options));
        const bare = (text) => text.replace(/^\\/\\/.*$/m, '').trim();
        process.exit(bare(same[0]) === bare(same[1]) ? 0 : 1);"""
    )
    served = tmp_path / "served.js"
    served.write_bytes(browser_module())
    node = shutil.which("node")
    subprocess.run([node, script, SOURCE, served], check=True)


@pytest.mark.node
def test_its_types_hold():
    tsc = node_modules() / "typescript" / "bin" / "tsc"
    options = ["--noEmit", "--allowJs", "--checkJs", "--strict", "--noUnusedLocals"]
    options += ["--noImplicitReturns", "--target", "es2022", "--module", "esnext"]
    options += ["--lib", "es2022,dom,dom.iterable"]
    order = [shutil.which("node"), tsc, *options, SOURCE]
    said = subprocess.run(order, capture_output=True, text=True, check=False)
    assert (said.stdout, said.returncode) == ("", 0)


def test_an_installed_relay_has_it(tmp_path):
    order = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(order, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        assert packed.read("lebureau_relay/edge/client.js") == SOURCE.read_bytes()


def table(guide: str, head: str) -> set[str]:
    """What stands in the first column of the guide's table with this head."""
    _, _, rest = guide.partition(f"\n| {head} |")
    cells = [row.split(" | ")[0] for row in rest.split("\n\n")[0].splitlines()[2:]]
    return {word for cell in cells for word in re.findall(r"`([\w.]+)`", cell)}


def test_the_guide_names_every_refusal_end_and_cause():
    guide = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
    refusals = {code.value: str(code.status) for code in RefusalCode}
    rows = {
        code: status
        for status, code in re.findall(r"^\| (\d{3}) \| `(\w+)` \|", guide, re.MULTILINE)
    }
    assert rows == {code: status for code, status in refusals.items() if status != "204"}
    reasons = {reason.value for reason in CloseReason} - {"client_gone"}
    assert table(guide, "reason") == reasons
    assert table(guide, "cause") == {cause.value for cause in GapCause}
    assert table(guide, "event | payload") == {"relay.gap", "relay.closing", "relay.refused"}
