"""Short words for taking one item through the steps of a configuration."""

import tomllib
from typing import Any

from app.enrichment.call_enricher import Enriching
from app.enrichment.config import declared
from app.enrichment.draft import Facts, Place
from app.enrichment.pipeline import Cookbook
from app.enrichment.privacy import Pseudonyms
from app.ingest.ports import Refiner
from app.model import Notes

NOW = 1_800_000_000_000  # 2027-01-15T08:00:00Z
SECONDS = NOW / 1000
DAY = 86_400
PSEUDONYMS = Pseudonyms(b"k" * 32)
PLACES = {
    "203.0.113.7": Place("DE", "State of Berlin", "Berlin", "52.5,13.25"),
    "198.51.100.3": Place("FR"),
    "192.0.2.1": Place(),
}


def refiner(
    config: str = "", *, address: str | None = None, app: str = "shop", caller: str = "key_1"
) -> Refiner:
    """What a call of `caller` about `app` gets by this file."""
    book = Cookbook(declared(tomllib.loads(config)), PSEUDONYMS)
    return Enriching(book.recipe(app, caller), Facts(NOW, address, PLACES.get))


def enrich(
    action: str, item: dict[str, Any], config: str = "", **more: Any
) -> tuple[dict[str, Any], Notes]:
    """What becomes of an item, and what is told of it."""
    notes = refiner(config, **more).refine(action, item)
    return item, notes


def fields(action: str, item: dict[str, Any], config: str = "", **more: Any) -> dict[str, Any]:
    """What becomes of an item."""
    return enrich(action, item, config, **more)[0]


def warnings(action: str, item: dict[str, Any], config: str = "", **more: Any) -> tuple[str, ...]:
    """What is warned about."""
    return enrich(action, item, config, **more)[1].warnings
