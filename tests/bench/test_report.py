"""The report, from results that were made up: every scenario renders, and says what it must."""

import json
import subprocess

import pytest
from bench.kinds import Growth, Soak
from bench.report import document, readme, tables
from bench.scenarios import SCENARIOS

from bench import report, results

MACHINE = {
    "processor": "Abacus",
    "cores": 2,
    "virtual": True,
    "memory_gb": 1,
    "congestion_control": "cubic",
    "kernel": "6.1",
    "versions": {"python": "3.11"},
    "commit": "0123456789abcdef",
    "uncommitted": False,
}


def sample(scenario) -> results.Result:
    """Two rounds of every row but the last peer's, each number a little bigger row by row."""
    rounds, absent = {}, {}
    for place, entry in enumerate(scenario.entries, 1):
        absent |= {entry.title: entry.cannot} if entry.cannot else {}
        numbers = dict.fromkeys(tables.COLUMNS, 10.0 * place) | {"lost": 0}
        if isinstance(scenario, Growth):
            numbers["at"] = entry.at
        if isinstance(scenario, Soak):
            numbers["samples"] = [{"s": s, "mb": 90 + s % 3} for s in range(60)]
        rounds[entry.title] = [] if entry.cannot else [numbers, numbers]
    return results.Result(scenario, "2026-01-01T00:00:00+00:00", 0.5, MACHINE, rounds, absent)


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """Results of every scenario, as a run leaves them, and a place for what is made of them."""
    monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
    for name in ("DOCUMENT", "IMAGES"):
        monkeypatch.setattr(document, name, tmp_path / name)
    for scenario in SCENARIOS:
        results.save(sample(scenario))
    return tmp_path


def test_every_scenario_is_in_the_document(folder):
    document.write_document()
    text = (folder / "DOCUMENT").read_text()
    for scenario in SCENARIOS:
        assert f"## {scenario.title}\n" in text
    assert text.count("<sub>2026-01-01") == len(SCENARIOS)
    assert "no part: relays LaunchDarkly's flags" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("| --- | ---: |")}
    assert widths, "tables have columns"


def test_what_is_saved_is_read_back(folder):
    for result in results.load_all():
        again = sample(result.scenario)
        assert list(tables.table(result)) == list(tables.table(again))
        assert list(tables.verdicts(result)) == list(tables.verdicts(again))


def test_a_goal_is_reached_missed_or_not_measured():
    (spaced,) = [one for one in SCENARIOS if one.name == "spaced"]
    result = sample(spaced)  # the relay's numbers are twice the send loop's, 2/3 of nchan's
    against_send, against_nchan = tables.verdicts(result)
    assert against_send.startswith("- **missed** · relay: CPU per delivery, µs 2.00 × sendloop")
    assert against_nchan.startswith("- **reached**")
    result.rounds["nchan"].clear()
    assert list(tables.verdicts(result))[1].startswith("- **not measured**")
    assert "| nchan | not run |" in "\n".join(tables.table(result))


def test_the_readme_keeps_everything_but_its_table(folder):
    path = folder / "README.md"
    path.write_text(f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n")
    readme.write_readme(path)
    first = path.read_text()
    assert first.startswith(f"before\n{readme.BEGIN}\n| on one core |")
    assert first.endswith(f"{readme.END}\nafter\n")
    assert "old" not in first
    assert "2.00 × the kernel's `send()`, 0.67 × nchan" in first
    readme.write_readme(path)
    assert path.read_text() == first
    for path_of_result in (folder / "results").iterdir():
        path_of_result.unlink()
    readme.write_readme(path)
    assert path.read_text() == f"before\n{readme.BEGIN}\n\n{readme.END}\nafter\n"
    path.write_text("no marks")
    with pytest.raises(ValueError, match="no place"):
        readme.write_readme(path)


def test_the_guide_calculates_with_what_was_measured(folder):
    path = folder / "capacity.md"
    path.write_text(f"{readme.BEGIN}\nold\n{readme.END}\n")
    readme.write_capacity(path)
    text = path.read_text()
    (relay, tls) = 10, 20  # bytes of each kind in the first row and the second
    assert "old" not in text
    # A stream: resident 10 and half of what the kernel holds for both ends.
    assert f"| a stream | {(relay + 10 / 2) / 1000:.1f} KB | 1 | 20.0 µs for each event |" in text
    assert f"with TLS {(10 / 2 + tls - relay) / 1000:.1f} KB" in text
    rows = [line for line in text.splitlines() if line.startswith(("| 1,000 |", "| 100,000 |"))]
    assert len(rows) == 2
    few, many = (int(row.rsplit("|", 2)[1]) for row in rows)
    assert few == 2, "one that is needed, and one more"
    assert many > few
    (folder / "results" / "storm.json").unlink()
    readme.write_capacity(path)
    assert path.read_text() == f"{readme.BEGIN}\n\n{readme.END}\n", "nothing rather than half"


def test_the_readme_has_a_place_for_it():
    guide = readme.CAPACITY.read_text()
    assert 0 < guide.index(readme.BEGIN) < guide.index(readme.END)
    text = readme.README.read_text()
    assert 0 < text.index(readme.BEGIN) < text.index(readme.END)


def test_plots_are_the_same_each_time(folder):
    if not report._PYTHON.exists():
        pytest.skip("matplotlib comes by bench/tools.sh")
    code = (
        "import sys, pathlib; from bench import results; from bench.report import plots;"
        "here = pathlib.Path(sys.argv[1]); results.FOLDER = here / 'results';"
        "[d.mkdir() or plots.draw_all(d, results.load_all()) for d in (here / 'a', here / 'b')]"
    )
    argv = (report._PYTHON, "-c", code, folder)
    subprocess.run(argv, check=True, cwd=report._ROOT)
    drawn = sorted(folder.glob("a/*.svg"))
    assert len(drawn) == 8
    for path in drawn:
        assert path.read_bytes() == (folder / "b" / path.name).read_bytes()
        assert path.stat().st_size < 40_000


def test_results_are_plain_json(folder):
    for path in (folder / "results").iterdir():
        assert json.loads(path.read_text())["machine"]["processor"] == "Abacus"
