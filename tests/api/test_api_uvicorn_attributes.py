"""`app/server/http1.py` builds on private attributes of uvicorn, httptools and asyncio: are they there?

The attributes are read from the source of the module, so that none is forgotten.
"""

import ast
import asyncio
import inspect
from typing import Any

import pytest
import uvicorn
import uvloop
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from app.server import http1

TREE = ast.parse(inspect.getsource(http1))
REQUEST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
# The objects of others that the protocol uses, by the names that the module has for them
OBJECTS = ("cycle", "flow", "transport", "parser", "loop", "config", "server_state")


def used() -> set[tuple[str, str]]:
    """Return the attributes that the protocol uses of itself but does not define, and of others."""
    (protocol,) = (
        node
        for node in TREE.body
        if isinstance(node, ast.ClassDef) and node.name == "GatewayProtocol"
    )
    own = {node.name for node in protocol.body if isinstance(node, ast.FunctionDef)}
    found = set[tuple[str, str]]()
    for node in ast.walk(protocol):
        if not isinstance(node, ast.Attribute):
            continue
        owner = node.value
        if isinstance(owner, ast.Name) and owner.id == "self":
            if isinstance(node.ctx, ast.Store) and node.attr.startswith("_"):
                own.add(node.attr)
            found.add(("protocol", node.attr))
        elif isinstance(owner, ast.Attribute) and owner.attr in OBJECTS:
            found.add((owner.attr, node.attr))
        elif isinstance(owner, ast.Name) and owner.id in OBJECTS:
            found.add((owner.id, node.attr))
    return {(owner, name) for owner, name in found if owner != "protocol" or name not in own}


class Sink(asyncio.Protocol):
    """A server's side that reads nothing."""


@pytest.fixture(scope="module")
def objects() -> dict[str, Any]:
    """The objects as they are while a request's body is awaited, over a real connection."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        """Answer nothing."""

    async def connect() -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        config = uvicorn.Config(app, http=HttpToolsProtocol, lifespan="off")
        config.load()
        server = await loop.create_server(Sink, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        state = ServerState()
        transport, protocol = await loop.create_connection(
            lambda: HttpToolsProtocol(config=config, server_state=state, app_state={}),
            "127.0.0.1",
            port,
        )
        protocol.data_received(REQUEST)
        found = {
            "protocol": protocol,
            "cycle": protocol.cycle,
            "flow": protocol.flow,
            "transport": transport,
            "parser": protocol.parser,
            "loop": loop,
            "config": config,
            "server_state": state,
        }
        transport.abort()
        server.close()
        await asyncio.sleep(0)
        return found

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(connect())


def test_the_attributes_are_found_in_the_source() -> None:
    names = used()
    assert ("cycle", "more_body") in names
    assert ("protocol", "_unset_keepalive_if_required") in names
    assert ("flow", "read_paused") in names


USED = sorted(used())


@pytest.mark.parametrize(("owner", "name"), USED, ids=[f"{owner}.{name}" for owner, name in USED])
def test_an_attribute_that_the_protocol_uses_exists(
    objects: dict[str, Any], owner: str, name: str
) -> None:
    kind = type(objects[owner])
    assert hasattr(objects[owner], name), f"{kind.__module__}.{kind.__name__} has no {name}"


def test_the_flow_control_is_uvicorn_s(objects: dict[str, Any]) -> None:
    assert isinstance(objects["flow"], FlowControl)


@pytest.mark.parametrize(
    "name",
    ["capture_signals", "handle_exit", "shutdown", "startup"],
)
def test_a_method_that_the_server_overrides_exists(name: str) -> None:
    assert callable(getattr(uvicorn.Server, name)), f"uvicorn.Server has no {name}"


@pytest.mark.parametrize("name", ["lifespan", "server_state", "servers", "should_exit", "started"])
def test_an_attribute_that_the_server_uses_exists(name: str) -> None:
    """Two of them are set when the server starts; their names are then in its source."""
    server = uvicorn.Server(uvicorn.Config("app", lifespan="off"))
    exists = hasattr(server, name) or f"self.{name} = " in inspect.getsource(uvicorn.Server)
    assert exists, f"uvicorn.Server has no {name}"
