"""docs/performance.md says what its results say."""

import json
from pathlib import Path

import pytest
from bench import page


def test_page_is_what_its_results_make_of_it() -> None:
    assert page.present() == page.rendered(page.source())


def test_page_follows_its_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a copy, with a figure that no run has given."""
    changed = json.loads(page.source().read_text())
    changed["cases"][0]["medians"] = {"jobs_per_s": 987_654.0}
    results = tmp_path / "results.json"
    results.write_text(json.dumps(changed))
    copy = tmp_path / "performance.md"
    copy.write_text(page.PAGE.read_text())
    monkeypatch.setattr(page, "ROOT", tmp_path)
    monkeypatch.setattr(page, "PAGE", copy)
    page.rewrite(results)
    assert "987,654" in copy.read_text()
    assert page.source() == results
    assert page.present() == page.rendered(results)
