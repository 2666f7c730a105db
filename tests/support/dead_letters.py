"""Items that end as a deliverer would end them."""

from typing import Any

from app.database.engine import connect
from app.database.writer import Writer
from app.model import ReadRequest, Verdict
from app.outbox.outbox import Outbox
from app.server.preparation import audit_keys
from tests.support.gateway import CANARY, Talk


def settle(talk: Talk, verdicts: dict[str, Verdict]) -> None:
    """End items of a gateway that delivers nothing, as a deliverer of another process does."""

    async def run() -> None:
        engine = connect(talk.settings.gateway_database_url)
        macs = audit_keys(talk.settings, engine).macs
        writer = Writer(engine)
        writer.start()
        try:
            outbox = Outbox(engine, writer, dedup_ms=60_000, max_queued=10**6, macs=macs)
            found = await outbox.look(ReadRequest(tail=0))
            assert found.tail is not None
            items = [item for item in found.tail.items if item.id in verdicts]
            await outbox.renew("tests", 60_000, [], ())
            assert await outbox.begin("t", "tests", items) is not None
            settled = [(item.seq, verdicts[item.id]) for item in items]
            assert await outbox.settle("t", "default", settled)
        finally:
            await writer.stop()
            engine.dispose()

    talk.do(run)


def event(item_id: str, user: str = "ann") -> dict[str, Any]:
    return {
        "action": "track",
        "userId": user,
        "event": "E",
        "params": {"note": CANARY},
        "id": item_id,
    }
