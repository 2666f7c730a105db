"""What a database's planner does with a statement: which tables and indexes it reads whole."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import orjson
from sqlalchemy import Connection, Engine

from tests.support.statements import Values

EXPLAINABLE = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\b", re.IGNORECASE)
# --- SQLite ---
SCAN = re.compile(r"SCAN (\w+)(?: USING (?:COVERING )?INDEX (\w+))?")
SOURCE = r"(?:FROM|JOIN|UPDATE)\s+(\w+)\s+(?:AS\s+)?{alias}\b"
# --- PostgreSQL ---
PARAMETER = re.compile(r"%%|%\((?P<name>\w+)\)s(?:::\w+)?|%s")
TYPES: dict[type, str] = {int: "bigint", bytes: "bytea", float: "double precision"}
SMALL_INTEGER = 1 << 31  # the driver gives such numbers another type
INDEX_SCANS = {"Index Scan", "Index Only Scan", "Bitmap Index Scan"}
READ_ALL = {"Sort", "Aggregate", "Hash", "WindowAgg"}  # whatever is limited above them
FEW = 100  # entries of an index
PLANNING_COST = 15.0  # that PostgreSQL adds to plans which are made for their values


def whole_reads(engine: Engine, statement: str, values: Values) -> set[str]:
    """Return the tables and indexes of which the statement reads every entry.

    A read that stops after so many entries as a LIMIT says does not count.
    """
    if not EXPLAINABLE.match(statement):
        return set()
    with engine.connect() as connection:
        if connection.dialect.name == "sqlite":
            return set(_sqlite(connection, statement, values))
        chosen = _plan_for(connection, statement, values)
        found = set(_whole(chosen, limited=False))
        generic = _plan_for_any(connection, statement, values)
        # It is never used where it is costlier than plans for values.
        if generic["Total Cost"] <= chosen["Total Cost"] + PLANNING_COST:
            found.update(_whole(generic, limited=False))
        return found - _nearly_empty(connection)


def _sqlite(connection: Connection, statement: str, values: Values) -> Iterator[str]:
    if " LIMIT " in statement and " WHERE " not in statement:
        return  # rows are read in the order of a key until there are enough
    plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", _parameters(values))
    for *_, detail in plan:
        scan = SCAN.fullmatch(detail)
        if scan:
            yield scan[2] or _table(statement, scan[1])


def _table(statement: str, alias: str) -> str:
    """Return the table that a statement gives this name to, or the name itself."""
    found = re.search(SOURCE.format(alias=alias), statement)
    return found[1] if found else alias


def _plan_for(connection: Connection, statement: str, values: Values) -> Any:
    """Return PostgreSQL's plan for these values."""
    explained = connection.exec_driver_sql(
        f"EXPLAIN (FORMAT JSON) {statement}", _parameters(values)
    )
    return explained.scalar_one()[0]["Plan"]


def _plan_for_any(connection: Connection, statement: str, values: Values) -> Any:
    """Return PostgreSQL's plan for any values, which it may keep for a prepared statement."""
    raw: Any = connection.connection.driver_connection
    text = f"EXPLAIN (GENERIC_PLAN, FORMAT JSON) {_numbered(statement, values)}"
    (plan,) = raw.execute(text.encode()).fetchone()
    return (orjson.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]


def _numbered(statement: str, values: Values) -> str:
    """Return a statement with parameters as the server has them, with the types of the values."""
    named = values if isinstance(values, Mapping) else {}
    order = iter(() if isinstance(values, Mapping) else values)
    count = 0

    def number(match: re.Match[str]) -> str:
        nonlocal count
        if match[0] == "%%":
            return "%"
        value = named[match["name"]] if match["name"] else next(order)
        count += 1
        if value is None:
            return f"${count}"
        if isinstance(value, int) and abs(value) < SMALL_INTEGER:
            return f"${count}::integer"
        return f"${count}::{TYPES.get(type(value), 'text')}"

    return PARAMETER.sub(number, statement)


def _nearly_empty(connection: Connection) -> set[str]:
    """Return the indexes that are read whole since nothing is in them."""
    sql = f"SELECT relname FROM pg_class WHERE relkind = 'i' AND reltuples < {FEW}"
    return set(connection.exec_driver_sql(sql).scalars())


def _whole(node: Any, *, limited: bool) -> Iterator[str]:
    kind = node["Node Type"]
    if kind == "Seq Scan" and not (limited and "Filter" not in node):
        yield node["Relation Name"]
    if kind in INDEX_SCANS and "Index Cond" not in node and not limited:
        yield node["Index Name"]
    below = (limited or kind == "Limit") and kind not in READ_ALL
    for child in node.get("Plans", ()):
        yield from _whole(child, limited=below)


def _parameters(values: Values) -> Any:
    return values if isinstance(values, Mapping) else tuple(values)
