"""Short words for taking one item through the steps of a configuration."""

from typing import Any

from app.enrichment import config as enrichment_config
from app.enrichment.draft import EnrichmentFacts, GeoPlace
from app.enrichment.pipeline import CallEnricher
from app.enrichment.privacy import ValueHasher
from app.enrichment.service import Pipelines
from app.model import Notes

NOW = 1_800_000_000_000  # 2027-01-15T08:00:00Z
SECONDS = NOW / 1000
DAY = 86_400
PSEUDONYMS = ValueHasher(b"k" * 32)
PLACES = {
    "203.0.113.7": GeoPlace("DE", "State of Berlin", "Berlin", "52.5,13.25"),
    "198.51.100.3": GeoPlace("FR"),
    "192.0.2.1": GeoPlace(),
}


def enricher(
    config: str = "", *, address: str | None = None, app: str = "shop", caller: str = "key_1"
) -> CallEnricher:
    """What a call of `caller` about `app` gets by this file."""
    pipelines = Pipelines(enrichment_config.parse(config), PSEUDONYMS)
    return CallEnricher(pipelines.of(app, caller), EnrichmentFacts(NOW, address, PLACES.get))


def enrich(
    action: str, item: dict[str, Any], config: str = "", **more: Any
) -> tuple[dict[str, Any], Notes]:
    """What becomes of an item, and what is told of it."""
    notes = enricher(config, **more).enrich(action, item)
    return item, notes


def fields(action: str, item: dict[str, Any], config: str = "", **more: Any) -> dict[str, Any]:
    """What becomes of an item."""
    return enrich(action, item, config, **more)[0]


def warnings(action: str, item: dict[str, Any], config: str = "", **more: Any) -> tuple[str, ...]:
    """What is warned about."""
    return enrich(action, item, config, **more)[1].warnings


CARD = "4111111111111111"


def rule(do: str, **over: str) -> str:
    return (
        "[[privacy]]\n"
        + f'do = "{do}"\n'
        + "".join(f"{name} = {told}\n" for name, told in over.items())
    )
