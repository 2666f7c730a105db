"""The OpenAPI document of the gateway, for tests that go through all operations."""

from typing import Any

from app.server.application import create_app
from app.settings import Settings

DOCUMENT: dict[str, Any] = create_app(Settings(_env_file=None)).openapi()
PATHS: dict[str, dict[str, Any]] = DOCUMENT["paths"]
