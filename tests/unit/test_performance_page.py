"""docs/performance.md says what its results say."""

import json
from pathlib import Path

import pytest
from bench import page


def test_page_is_what_its_results_make_of_it() -> None:
    assert page.present() == page.rendered(page.sources())


def test_page_follows_its_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a copy, with a figure that no run has given."""
    changed = json.loads(page.sources()[0].read_text())
    changed["cases"][0]["medians"] = {"jobs_per_s": 987_654.0}
    results = tmp_path / "results.json"
    results.write_text(json.dumps(changed))
    copy = tmp_path / "performance.md"
    copy.write_text(page.PAGE.read_text())
    monkeypatch.setattr(page, "ROOT", tmp_path)
    monkeypatch.setattr(page, "PAGE", copy)
    page.rewrite([results])
    assert "987,654" in copy.read_text()
    assert page.sources() == [results]
    assert page.present() == page.rendered([results])


def test_page_takes_each_goal_from_the_run_that_has_its_cases(tmp_path: Path) -> None:
    document = json.loads(page.sources()[0].read_text())
    given = {"at_least": 1, "at_most": None}
    for name, values in (("first", (0.5, None)), ("second", (None, 7.5))):
        goals = [
            {"text": text, "value": value, "reached": value and value >= 1, **given}
            for text, value in zip(("one", "other"), values, strict=True)
        ]
        (tmp_path / name).write_text(json.dumps(document | {"goals": goals, "cases": document["cases"][:1]}))
    text = page.rendered([tmp_path / "first", tmp_path / "second"])
    assert "| one | 0.50 | NOT REACHED |\n| other | 7.50 | reached |\n\n" in text
    assert text.count(f"`{document['command']}`") == 2
