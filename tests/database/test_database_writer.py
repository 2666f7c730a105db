"""The writer: what is asked for is committed in its order, and in how many commits."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from app.database.driver import Cursor
from app.database.engine import connect
from app.database.writer import Writer


@dataclass(frozen=True)
class Noted:
    """A write that notes with which others it was written."""

    name: str
    groups: list[list[str]]
    rows: int = 1

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["Noted"]) -> Sequence[None]:
        writes[0].groups.append([write.name for write in writes])
        return [None] * len(writes)


def test_a_write_that_another_is_about_to_follow_goes_together_with_it_and_before_it(
    database: str,
) -> None:
    groups = list[list[str]]()

    async def follow(writer: Writer) -> None:
        first = writer.write(Noted("first", groups), along=True)
        await asyncio.sleep(0.005)
        await writer.write(Noted("second", groups))
        assert first.done()

    _with_writer(database, follow)
    assert groups == [["first", "second"]]


def test_a_write_that_no_other_follows_is_committed_all_the_same(database: str) -> None:
    groups = list[list[str]]()

    async def alone(writer: Writer) -> None:
        await asyncio.wait_for(writer.write(Noted("only", groups), along=True), 5)

    _with_writer(database, alone)
    assert groups == [["only"]]


def _with_writer(database: str, do: Callable[[Writer], Awaitable[None]]) -> None:
    engine = connect(database)

    async def run() -> None:
        writer = Writer(engine)
        writer.start()
        try:
            await do(writer)
        finally:
            await writer.stop()

    try:
        asyncio.run(run())
    finally:
        engine.dispose()
