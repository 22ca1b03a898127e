"""The Prometheus configuration: only keys that Prometheus knows, only metrics that we have."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).resolve().parents[2] / "config" / "prometheus"
METRICS = {
    "jobs_started_total",
    "jobs_completed_total",
    "jobs_failed_total",
    "job_duration_seconds_bucket",
    "gnomon_database_up",
    "gnomon_instances",
    "up",
}
PROMQL_WORDS = {"sum", "increase", "rate", "histogram_quantile", "by", "le", "and", "job", "role"}


def load(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text())


def rules() -> list[dict[str, Any]]:
    return [rule for group in load("alerts.yml")["groups"] for rule in group["rules"]]


def test_configuration_scrapes_the_api_and_reads_rules_that_exist() -> None:
    config = load("prometheus.yml")
    assert set(config) == {"global", "rule_files", "scrape_configs"}
    assert set(config["global"]) <= {"scrape_interval", "scrape_timeout", "evaluation_interval", "external_labels"}
    assert all((FOLDER / name).is_file() for name in config["rule_files"])
    (scrape,) = config["scrape_configs"]
    assert scrape == {
        "job_name": "gnomon",
        "authorization": {"credentials_file": "/monitoring-secrets/metrics_key"},
        "static_configs": [{"targets": ["api:8000"]}],
    }


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_alert_is_well_formed_and_asks_for_metrics_we_have(rule: dict[str, Any]) -> None:
    assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"\d+[smh]", rule["for"])
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(rule["annotations"]) == {"summary", "description"}
    expression = re.sub(r'"[^"]*"|\[\w+\]', "", rule["expr"])
    assert expression.count("(") == expression.count(")")
    words = set(re.findall(r"[a-z_]{2,}", expression))
    assert words & METRICS
    assert words <= METRICS | PROMQL_WORDS
