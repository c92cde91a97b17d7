"""The document is what the kept results say, and says what of them was not as promised."""

import json

from bench.chaos import record, report


def test_the_document_is_what_the_results_say(monkeypatch, tmp_path):
    monkeypatch.setattr(report, "DOCUMENT", written := tmp_path / "reliability.md")
    kept = report.Path(report.__file__).parents[2] / "docs" / "reliability.md"
    report.write_document()
    assert written.read_text() == kept.read_text(), "python -m bench.chaos --report"


def test_what_was_not_as_promised_is_named(monkeypatch, tmp_path):
    said = json.loads(record.LONG.read_text())
    said["mixed"][0]["good"] = False
    said["mixed"][0]["judgement"] |= {"lost": 7, "examples": ["tab 3, feed 3: 5 to 11 missing"]}
    monkeypatch.setattr(record, "LONG", changed := tmp_path / "chaos.json")
    changed.write_text(json.dumps(said))
    monkeypatch.setattr(report, "DOCUMENT", written := tmp_path / "reliability.md")
    report.write_document()
    text = written.read_text()
    assert "lost 7, repeated" in text
    assert "tab 3, feed 3: 5 to 11 missing" in text
