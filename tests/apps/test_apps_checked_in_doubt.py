"""Checking keys where the answer doesn't tell whether Leanplum takes them."""

import asyncio

import httpx
import pytest
from pydantic import SecretStr

from app.leanplum.client import LeanplumClient
from app.model import App, KeyKind
from app.relay.key_checks import KeyCheck, check

APP = App("a", "app_a", {KeyKind.PRODUCTION: SecretStr("prod")}, "https://leanplum.test/api")
OTHER_WORDS = b'{"response":[{"success":false,"error":{"message":"Request not allowed"}}]}'


@pytest.mark.parametrize(
    ("status", "body"), [(403, b"<html>Forbidden</html>"), (302, b""), (403, OTHER_WORDS)]
)
def test_a_refusal_that_may_be_anybodys_neither_takes_nor_refuses_a_key(
    status: int, body: bytes
) -> None:
    async def once() -> KeyCheck:
        transport = httpx.MockTransport(lambda request: httpx.Response(status, content=body))
        async with LeanplumClient(timeout=5, connections=1, transport=transport) as client:
            return (await check(client, APP))[KeyKind.PRODUCTION]

    found = asyncio.run(once())
    assert (found.configured, found.accepted) == (True, None)
    assert str(status) in str(found.detail)
