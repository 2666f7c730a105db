"""Yardstick (b), a plain proxy: validate an event, send it upstream in one call, then answer.

The client keeps a connection for every caller, so that the proxy is measured at its best.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypedDict

import httpx
from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel


class State(TypedDict):
    """The state of the app."""

    client: httpx.AsyncClient


class Event(BaseModel):
    """A track call as Leanplum documents it."""

    userId: str
    event: str
    value: float | None = None
    currencyCode: str | None = None
    params: dict[str, str | int | float | bool] = {}


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[State]:
    """Keep one HTTP client for the lifetime of the app."""
    limits = httpx.Limits(max_connections=200, max_keepalive_connections=200)
    async with httpx.AsyncClient(base_url=os.environ["BENCH_UPSTREAM"], limits=limits) as client:
        yield {"client": client}


app = FastAPI(lifespan=lifespan)


@app.get("/readyz")
async def ready() -> dict[str, str]:
    """Answer that the app is up."""
    return {"status": "ok"}


@app.post("/v1/events")
async def track(event: Event, request: Request) -> dict[str, bool]:
    """Forward one event, and answer with its result."""
    credentials = {"appId": "app_bench", "clientKey": "prod_bench", "apiVersion": "1.0.6"}
    client: httpx.AsyncClient = request.state.client
    body = credentials | event.model_dump(exclude_none=True)
    answer = await client.post("", params={"action": "track"}, json=body)
    if not (answer.is_success and answer.json()["response"][0]["success"]):
        raise HTTPException(502)
    return {"success": True}
