"""What docs/limits.md says is so."""

import re
from collections.abc import Callable
from pathlib import Path

from app.settings import Settings
from tests.support.gateway import EVENT, Talk
from tests.support.valkey import Valkey

PAGE = (Path(__file__).resolve().parents[2] / "docs/limits.md").read_text()
Start = Callable[..., Talk]


def test_its_example_of_the_headers_is_what_a_client_sees(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "apps.toml"
    file.write_text('[apps.shop]\napp_id = "a"\nproduction_key = "p"\nrate_per_second = 500\n')
    answer = start(
        gateway_apps_file=file, leanplum_app_id=None, leanplum_production_key=None
    ).event(EVENT)
    for name in ("RateLimit-Policy", "RateLimit"):
        assert f"{name}: {answer.headers[name]}" in PAGE


def test_its_settings_exist_with_the_values_that_it_gives() -> None:
    for name in set(re.findall(r"`(GATEWAY_[A-Z_]+)", PAGE)):
        assert name.lower() in Settings.model_fields
    for name, value in re.findall(r"`(GATEWAY_[A-Z_]+)` \(([\d.,]+)\)", PAGE):
        assert Settings.model_fields[name.lower()].default == float(value.replace(",", "")), name


def test_its_url_is_taken_and_its_metrics_are_told(start: Start, valkey: Valkey) -> None:
    (url,) = re.findall(r"^GATEWAY_SHARED_LIMITS_URL=(.*)$", PAGE, re.MULTILINE)
    Settings(_env_file=None, gateway_shared_limits_url=url)
    talk = start(gateway_shared_limits_url=valkey.url)
    talk.event()
    told = talk.get("/metrics").text
    for name in re.findall(r"`(leanplum_gateway_\w+)", PAGE):
        assert re.search(rf"^# HELP {name} ", told, re.MULTILINE), name
