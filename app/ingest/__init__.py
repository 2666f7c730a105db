"""The ingest use case behind every protocol: validate, enrich, check and accept items."""

from app.ingest.event_names import event_name
from app.ingest.faults import (
    MAX_FAULTS,
    Flattened,
    Move,
    Path,
    Renamed,
    as_sent,
    parameter_sentence,
    parts,
    pointer,
    unknown_field,
)
from app.ingest.segment_context import SegmentRules
from app.ingest.service import CallSteps, Ingest
from app.ingest.time_slices import RestingThread, in_slices, turn
from app.ingest.validate import (
    ENRICHMENT_FIELDS,
    NO_STEPS,
    ItemSteps,
    pop_enrichment_fields,
    render_notes,
)

__all__ = [
    "ENRICHMENT_FIELDS",
    "MAX_FAULTS",
    "NO_STEPS",
    "CallSteps",
    "Flattened",
    "Ingest",
    "ItemSteps",
    "Move",
    "Path",
    "Renamed",
    "RestingThread",
    "SegmentRules",
    "as_sent",
    "event_name",
    "in_slices",
    "parameter_sentence",
    "parts",
    "pointer",
    "pop_enrichment_fields",
    "render_notes",
    "turn",
    "unknown_field",
]
