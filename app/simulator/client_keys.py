"""The kinds of client key; the kind decides what may be called (fact sheet §2)."""

from enum import StrEnum


class Key(StrEnum):
    PRODUCTION = "production"
    DEVELOPMENT = "development"
    DATA_EXPORT = "data export"
    CONTENT_READ_ONLY = "content read-only"
