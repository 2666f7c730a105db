"""The ingest use case behind every protocol: validate, enrich, check and accept items."""

from app.ingest.faults import parameter_sentence, unknown_field
from app.ingest.json_pointers import Move, as_sent, parts, pointer
from app.ingest.ports import ItemSteps
from app.ingest.service import Checker, Ingest
from app.ingest.time_slices import turn

__all__ = [
    "Checker",
    "Ingest",
    "ItemSteps",
    "Move",
    "as_sent",
    "parameter_sentence",
    "parts",
    "pointer",
    "turn",
    "unknown_field",
]
