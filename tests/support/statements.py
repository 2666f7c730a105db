"""The statements that the code executes, recorded where they reach the database's driver."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, event

from app.database.driver import Cursor

Values = Sequence[Any] | Mapping[str, Any]
Recorded = dict[str, Values]  # the values of one execution, by the text that the driver was given


@contextmanager
def recorded() -> Iterator[Recorded]:
    """Record each statement of this process, whichever thread executes it."""
    found: Recorded = {}
    execute = Cursor.execute

    def note(cursor: Cursor, statement: str, parameters: Any = ()) -> None:
        found.setdefault(cursor.dialect.sql(statement), parameters)
        execute(cursor, statement, parameters)

    def note_engine(*executed: Any) -> None:
        _connection, _cursor, statement, parameters, _context, many = executed
        found.setdefault(statement, parameters[0] if many else parameters)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cursor, "execute", note)
        event.listen(Engine, "before_cursor_execute", note_engine)
        try:
            yield found
        finally:
            event.remove(Engine, "before_cursor_execute", note_engine)
