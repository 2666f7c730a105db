"""What the file may say: its faults are all told, and what would not be idempotent is refused."""

import pytest

from app.errors import StartRefused

from .enriched import enricher


def refused(config: str) -> tuple[str, ...]:
    """The faults of a file."""
    with pytest.raises(StartRefused) as caught:
        enricher(config)
    return caught.value.lines


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("[steps]\nfoo = true", "steps.foo"),
        ("[steps]\ntime = 5", "steps.time"),
        ("nonsense = 1", "nonsense"),
        ('[currency]\ndefault = "EUX"', "currency.default: must be an ISO 4217 currency code"),
        ('[contact]\nregion = "XX"', "contact.region: must be an ISO 3166 country code"),
        ('[flatten]\nfields = ["values"]', "flatten.fields.0"),
        ('[renames.nothing]\n"a" = "b"', "renames.nothing.[key]: must be * (for every action)"),
        (
            '[renames.track]\n"params.a" = "userAttributes.b"',
            "renames.track.params.a: track has no field userAttributes.b",
        ),
        ('[renames.track]\n"userId" = "params.b"', "renames.track.userId: userId can't be renamed"),
        ('[renames.track]\n"x" = "ip"', "renames.track.x: track has no field ip"),
        ('[defaults.track]\n"ip" = "1.2.3.4"', "defaults.track.ip: track has no field ip"),
        (
            '[defaults.track]\n"userId" = "u"',
            "defaults.track.userId: only the caller can set this field",
        ),
        (
            '[defaults.track]\n"params.a" = [1]',
            "defaults.track.params.a: Leanplum does not accept this value there",
        ),
        (
            '[defaults.track]\n"params.12" = 1',
            "defaults.track.params.12: Leanplum does not accept this value there",
        ),
        ('[defaults.stop]\n"params.a" = 1', "defaults.stop.params.a: stop has no field params"),
        (
            '[values.track."params.a"]\nx = 1\n[values.track."b.c"]\nx = 1',
            "values.track.b.c: track has no field b",
        ),
        ('[[privacy]]\ndo = "drop"', "privacy.0: needs keys, paths or values"),
        ('[[privacy]]\ndo = "burn"\nkeys = ["a"]', "privacy.0.do"),
        (
            '[[privacy]]\ndo = "drop"\nkeys = ["userId"]',
            "privacy.0.keys.0: userId is under no rule",
        ),
        (
            '[[privacy]]\ndo = "drop"\npaths = ["("]',
            "privacy.0.paths.0: is not a regular expression",
        ),
        (
            '[[privacy]]\ndo = "drop"\nkeys = ["a"]\nactions = ["x"]',
            "privacy.0.actions.0: must be *",
        ),
        ('[apps."a b"]', "apps.a b"),
        ('[apps.shop.currency]\ndefault = "EUX"', "apps.shop.currency.default"),
    ],
)
def test_a_fault_says_where_it_is_and_names_the_setting(config: str, told: str) -> None:
    (line,) = refused(config)
    assert line.startswith(f"GATEWAY_ENRICHMENT_FILE: {told}")


NOT_IDEMPOTENT = {
    "two names that are exchanged": '[renames.track]\n"params.a" = "params.b"\n"params.b" = "params.a"',
    "a chain of names": '[renames.track]\n"params.a" = "params.b"\n"params.b" = "params.c"',
    "a name that leads into itself": '[renames.track]\n"params" = "params.a"',
    "a chain over two sections": (
        '[renames."*"]\n"params.a" = "params.b"\n[apps.shop.renames.track]\n"params.b" = "params.c"'
    ),
    "a default under a name that goes": '[renames.track]\n"params.a" = "params.b"\n[defaults.track]\n"params.a" = 1',
    "a name that a step makes": '[renames.setUserAttributes]\n"country" = "userAttributes.country"',
    "values that are exchanged": '[values.track."params.a"]\nx = "y"\ny = "x"',
    "a chain of values": '[values.track."params.a"]\nx = "y"\ny = "z"',
    "a chain of a number and a text": '[values.track."params.a"]\nx = 1\n1 = "z"',
    "what rules leave of a value": '[values.track."params.a"]\n"***" = "x"',
    "a value that is written otherwise": '[values.setUserAttributes."userAttributes.email"]\nx = "A@B.c"',
    "a default that is written otherwise": '[defaults.start]\n"locale" = "en-us"',
    "a default that a map changes": '[defaults.track]\n"params.a" = "x"\n[values.track."params.a"]\nx = "y"',
}


@pytest.mark.parametrize("config", NOT_IDEMPOTENT.values(), ids=NOT_IDEMPOTENT.keys())
def test_what_would_not_be_idempotent_is_refused(config: str) -> None:
    assert refused(config)


def test_every_fault_is_told_once_whatever_apps_and_callers_there_are() -> None:
    lines = refused(
        '[renames.track]\n"userId" = "info"\n[defaults.track]\n"id" = "x"\n[apps.shop.steps]\ntime = false\n'
        '[apps.shop.defaults.track]\n"time" = 5\n[callers.key_1.steps]\ntime = true'
    )
    assert lines == (
        "GATEWAY_ENRICHMENT_FILE: renames.track.userId: userId can't be renamed: it is Leanplum's own, "
        "and other steps use it",
        "GATEWAY_ENRICHMENT_FILE: defaults.track.id: only the caller can set this field",
        "GATEWAY_ENRICHMENT_FILE: apps.shop: defaults.track.time: only the caller can set this field",
    )
