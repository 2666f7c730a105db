"""Leanplum repeats a value of an item in the text of its answer: no output shows the value."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.console.site import ConsoleSite, console_site

VALUE = "alice@example.com"
SHOWN = "Invalid value … for an attribute."
FAULTS: dict[str, dict[str, Any]] = {
    "rejected": {"mode": "success-false"},
    "skipped": {"mode": "error-with-success"},
    "delivered": {"mode": "warning", "message": f"Anomaly detected: {VALUE}."},
    "rejected as a call": {"mode": "400"},
    "retrying": {"mode": "429", "times": None},
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[ConsoleSite]:
    with console_site(tmp_path_factory.mktemp("words"), migrated) as found:
        yield found


@pytest.mark.parametrize("outcome", FAULTS)
def test_a_value_that_leanplum_repeats_is_shown_nowhere(
    site: ConsoleSite, outcome: str, capsys: pytest.CaptureFixture[str]
) -> None:
    user = outcome.replace(" ", "-")
    told = {"message": f"Invalid value {VALUE} for an attribute.", "times": 1, "userId": user}
    site.leanplum.fault(**(told | FAULTS[outcome]))
    item_id = site.track(user, params={"email": VALUE})
    site.until_status(item_id, outcome.split()[0])
    words = site.receipt(item_id)["leanplum"]
    assert "…" in (words.get("error") or words["warning"])
    outputs = [
        site.http.get(path).text
        for path in (
            f"/v1/receipts/{item_id}",
            f"/v1/receipts?userId={user}",
            f"/v1/dead-letters?userId={user}",
            "/v1/audit?limit=100",
            "/metrics",
        )
    ]
    pages = [
        site.http.get(f"/console{path}", headers={"Cookie": site.cookie()}).raise_for_status().text
        for path in (
            f"/find/receipt?app=default&id={item_id}",
            f"/find?userId={user}",
            "/dead-letters",
            "/live",
            "",
        )
    ]
    assert SHOWN in pages[0] or "Anomaly detected: …." in pages[0]
    log = capsys.readouterr()
    for shown in (*outputs, *pages, log.out, log.err):
        assert VALUE not in shown
