"""The keyed hashes of users: one for each user of an app, whoever makes it and whenever, and none
kept for long.
"""

import asyncio

import pytest

from app.audit import records
from app.audit.records import UserPseudonyms

SEED = bytes(32)
SUBJECTS = ["uann", "dann", "ubob", "u\0", "uäöü"]


def test_the_same_seed_app_and_subject_have_the_same_hash_made_or_kept_or_made_anew() -> None:
    one, other = UserPseudonyms(SEED), UserPseudonyms(SEED)
    made = one.of_all("app", SUBJECTS)
    assert made == one.of_all("app", SUBJECTS)
    one.forget()
    assert made == one.of_all("app", SUBJECTS) == [other.of("app", subject) for subject in SUBJECTS]


def test_another_seed_app_or_subject_has_another_hash() -> None:
    all_of_them = [
        hash_
        for seed in (SEED, bytes([1] * 32))
        for made in [UserPseudonyms(seed)]
        for app in ("app", "other", "")
        for hash_ in made.of_all(app, SUBJECTS)
    ]
    assert len(set(all_of_them)) == len(all_of_them)


def test_few_are_kept_and_none_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    made = UserPseudonyms(SEED)
    most = 0
    for app in range(3):
        for user in range(0, records.MAX_CACHED_HASHES, 100):
            made.of_all(str(app), [f"u{user + one}" for one in range(100)])
            most = max(most, sum(len(of_app.by_subject) for of_app in made._apps.values()))
    assert records.MAX_CACHED_HASHES / 2 < most <= records.MAX_CACHED_HASHES
    monkeypatch.setattr(records, "CACHE_SECONDS", 0.001)

    async def forgotten() -> None:
        made.of("app", "uann")
        task = asyncio.create_task(made.run())
        await asyncio.wait({task}, timeout=0.2)
        task.cancel()

    asyncio.run(forgotten())
    assert made._apps == {}
