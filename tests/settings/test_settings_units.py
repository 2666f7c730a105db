"""Durations and sizes with units, for every setting that is one."""

import pytest

from app.errors import StartRefused
from app.settings import Settings, load, read, table, units

DURATIONS = [
    name
    for name in Settings.model_fields
    if name.startswith("gateway_") and name.endswith(("_seconds", "_window"))
]
SIZES = [name for name in Settings.model_fields if "_bytes" in name]


def test_these_are_the_durations_and_sizes() -> None:
    assert (len(DURATIONS), len(SIZES)) == (18, 7)


@pytest.mark.parametrize("name", DURATIONS)
@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 5),
        ("5s", 5),
        ("1500ms", 1.5),
        ("2m", 120),
        ("24h", 86_400),
        ("1d", 86_400),
        ("2 M", 120),
        ("0.5h", 1_800),
    ],
)
def test_a_duration_has_a_unit_or_is_seconds(name: str, text: str, seconds: float) -> None:
    if name == "gateway_shutdown_seconds" and text == "1500ms":  # whole seconds alone
        seconds, text = 2, "2000ms"
    environ = {name.upper(): text}
    assert getattr(load(environ), name) == seconds
    (shown,) = [
        row["value"] for row in table(load(environ), read(environ)) if row["name"] == name.upper()
    ]
    assert float(shown) == seconds


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("5242880", 5 * 2**20), ("5MiB", 5 * 2**20), ("5 mib", 5 * 2**20), ("64KiB", 2**16), ("1GiB", 2**30),
        ("5kB", 5_000), ("5MB", 5_000_000), ("2GB", 2_000_000_000), ("9B", 9), ("1.5KiB", 1_536),
    ],
)  # fmt: skip
def test_a_size_has_a_unit_or_is_bytes(name: str, text: str, size: int) -> None:
    environ = {name.upper(): text}
    assert getattr(load(environ), name) == size
    (shown,) = [
        row["value"] for row in table(load(environ), read(environ)) if row["name"] == name.upper()
    ]
    assert shown == str(size)


BAD = [
    "5x",
    "s",
    "5sec",
    "h5",
    "1h30m",
    "--5s",
    "-5s",
    "five",
    "5,5s",
    "\u0665s",
    "9" * 5_000 + "s",
]


@pytest.mark.parametrize("text", [*BAD, "5MiB"])
@pytest.mark.parametrize("name", DURATIONS)
def test_what_is_no_duration_is_refused_with_the_forms(name: str, text: str) -> None:
    line = refused(name, text)
    assert "must be seconds, or a number with ms, s, m, h or d" in line


@pytest.mark.parametrize("text", [*BAD, "5s", "5M", "5Mi", "5TB"])
@pytest.mark.parametrize("name", SIZES)
def test_what_is_no_size_is_refused_with_the_forms(name: str, text: str) -> None:
    line = refused(name, text)
    assert "must be bytes, or a number with kB, MB, GB, KiB, MiB or GiB" in line


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("gateway_dedup_seconds", "0s"), ("gateway_retry_window", "99999d"), ("gateway_drain_seconds", "25h"),
        ("gateway_max_body_bytes", "0MiB"), ("gateway_max_body_bytes", "0.1B"), ("gateway_shutdown_seconds", "1500ms"),
        ("gateway_dedup_seconds", "nan"), ("gateway_dedup_seconds", "inf"),
    ],
)  # fmt: skip
def test_what_is_out_of_range_is_refused_in_one_line(name: str, text: str) -> None:
    refused(name, text)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.05, "50ms"), (1.5, "1500ms"), (90, "90s"), (900, "15m"), (5_400, "90m"), (86_400, "1d"), (0.0001, "0.0001")],
)  # fmt: skip
def test_a_duration_is_shown_in_the_form_of_a_setting(value: float, text: str) -> None:
    assert units.format_seconds(value) == text
    assert float(str(units.seconds(text))) == value


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (1, "1"), (1_500, "1500"), (5_000, "5kB"), (1_536, "1536"), (2**20, "1MiB"), (50_000_000, "50MB"), (2**30, "1GiB")]
)  # fmt: skip
def test_a_size_is_shown_in_the_form_of_a_setting(value: int, text: str) -> None:
    assert units.format_size(value) == text
    assert int(str(units.size(text))) == value


def refused(name: str, text: str) -> str:
    with pytest.raises(StartRefused) as caught:
        load({name.upper(): text})
    (line,) = caught.value.lines
    assert line.startswith(f"{name.upper()}: ")
    assert "\n" not in line
    return line
