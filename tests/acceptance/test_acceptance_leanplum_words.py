"""Leanplum repeats values of items in the text of its answer: no output shows them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.console.site import ConsoleSite, console_site
from tests.support.processes import ended

VALUE, OTHER_VALUE = "alice@example.com", "carol@example.com"
FAULTS: dict[str, dict[str, Any]] = {
    "rejected": {"mode": "success-false"},
    "skipped": {"mode": "error-with-success"},
    "delivered": {"mode": "warning", "message": f"Anomaly detected: {VALUE}."},
    "rejected as a call": {"mode": "400"},
    "retrying": {"mode": "429", "times": None},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("words")


@pytest.fixture(scope="module")
def site(folder: Path, migrated: Path) -> Iterator[ConsoleSite]:
    with console_site(folder, migrated) as found:
        yield found


def shown(site: ConsoleSite, folder: Path, path: Path, user: str) -> dict[str, str]:
    """What the API, the console and the commands show about a user's item, by what shows it."""
    url = f"sqlite:///{path}"
    item_id = site.http.get(f"/v1/receipts?userId={user}").json()["receipts"][0]["id"]
    texts = {}
    for page in (
        f"/v1/receipts/{item_id}",
        f"/v1/receipts?userId={user}",
        f"/v1/dead-letters?userId={user}",
        "/v1/audit?limit=100",
        "/metrics",
    ):
        texts[page] = site.http.get(page).raise_for_status().text
    for page in (
        f"/find/receipt?app=default&id={item_id}",
        f"/find?user={user}",
        "/dead-letters",
        "/live",
        "",
    ):
        answer = site.http.get(f"/console{page}", headers={"Cookie": site.cookie()})
        texts[f"console {page}"] = answer.raise_for_status().text
    for words in (
        ("receipts", "show", item_id),
        ("receipts", "find", "--user", user),
        ("dead-letters", "list", "--app", "default"),
    ):
        texts[" ".join(words)] = ended(folder, *words, GATEWAY_DATABASE_URL=url).stdout
    return texts


@pytest.mark.parametrize("outcome", FAULTS)
def test_a_value_that_leanplum_repeats_is_shown_nowhere(
    site: ConsoleSite, folder: Path, outcome: str, capsys: pytest.CaptureFixture[str]
) -> None:
    user = outcome.replace(" ", "-")
    told = {"message": f"Invalid value {VALUE} for an attribute.", "times": 1, "userId": user}
    site.leanplum.fault(**(told | FAULTS[outcome]))
    item_id = site.track(user, params={"email": VALUE})
    site.until_status(item_id, outcome.split()[0])
    texts = shown(site, folder, folder / "g.db", user)
    places = [
        f"/v1/receipts/{item_id}",
        f"/v1/receipts?userId={user}",
        f"console /find/receipt?app=default&id={item_id}",
        f"console /find?user={user}",
        f"receipts show {item_id}",
        f"receipts find --user {user}",
    ]
    if outcome.startswith("rejected"):
        places += [f"/v1/dead-letters?userId={user}", "dead-letters list --app default"]
    for place in places:
        assert item_id in texts[place], place
        assert "…" in texts[place], place
    log = capsys.readouterr()
    for place, text in {**texts, "log": log.out, "errors": log.err}.items():
        assert VALUE not in text, place


def test_a_text_about_a_call_shows_no_user_what_it_says_of_another(
    site: ConsoleSite, folder: Path
) -> None:
    message = f"Request of carol-4711, {OTHER_VALUE}, is not allowed"
    site.leanplum.fault(mode="403-other", times=None, message=message)
    first, _ = site.send(
        *(
            {"action": "track", "userId": user, "event": "E", "params": {"email": email}}
            for user, email in [("bert-4711", "bert@example.com"), ("carol-4711", OTHER_VALUE)]
        )
    )
    site.until_status(first, "held")
    texts = shown(site, folder, folder / "g.db", "bert-4711")
    assert "Request of …, …, is not allowed" in texts[f"receipts show {first}"]
    for place, text in texts.items():
        assert OTHER_VALUE not in text, place
        if "dead-letters" not in place and "/live" not in place:
            assert "carol-4711" not in text, place
