"""Verification of caller keys and erasures: finds rows that were changed by hand."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from app.audit.findings import Finding
from app.audit.row_macs import (
    CALLER_KEYS,
    CALLER_SECRETS,
    SELECT_SET,
    TABLES,
    Fetch,
    ProtectedRow,
    ProtectedTable,
    RowMacs,
    read_row,
    summary_of,
)

ADDED = "it has no MAC: it was inserted by hand"
CHANGED = "it is not what the gateway wrote: it was changed or inserted by hand"
DIGEST_GONE = "the digest of {name} is gone: it was removed by hand"
DIGEST_CHANGED = "the digest of {name} is not what the gateway wrote: it was changed by hand"
REMOVED = "{count} of {name} gone: removed by hand ({members} rows were there)"
RESTORED = "{count} more of {name} than there were ({members}): deleted rows were put back by hand"
OTHER_ROWS = (
    "{name} are not the rows that the gateway left: some were set back by hand to an earlier state"
)
SET_BACK = (
    "{name} were set back by hand to an earlier state: the audit knows of change {known}, they are "
    "at {version}"
)


@dataclass(slots=True)
class _SetRows:
    """The rows found of a set: the digest terms of the valid ones, and how many MACs are wrong."""

    terms: list[int] = field(default_factory=list)
    wrong: int = 0


def verify_rows(fetch: Fetch, macs: RowMacs, known: Mapping[str, int]) -> list[Finding]:
    """Hold each row against its MAC, and each set against its digest.

    `known` is, by set, the newest change that the audit has a record of.
    """
    details, sets = list[str](), dict[str, _SetRows]()
    for table in TABLES:
        set_rows = sets.setdefault(table.set_name, _SetRows())
        for row in map(read_row, fetch(table.select, ())):
            if row.mac is None:
                details.append(f"{_name(table, row)}: {ADDED}")
            elif macs.is_valid(table, row):
                set_rows.terms.append(macs.digest_term(row.mac))
            else:
                set_rows.wrong += 1
                details.append(f"{_name(table, row)}: {CHANGED}")
    for set_name, set_rows in sets.items():
        details += _verify_set(fetch, macs, set_name, set_rows, known.get(set_name, 0))
    return [Finding("row", 0, 0, detail) for detail in details]


def _verify_set(
    fetch: Fetch, macs: RowMacs, name: str, rows: _SetRows, known: int
) -> Iterator[str]:
    """Yield what is wrong with a set as a whole."""
    found = fetch(SELECT_SET, (name,))
    if len(found) != 1:
        yield DIGEST_GONE.format(name=name)
        return
    summary = summary_of(found[0])
    if not macs.is_valid_summary(name, summary):
        yield DIGEST_CHANGED.format(name=name)
        return
    members, valid = summary.members, len(rows.terms)
    if members > valid + rows.wrong:
        count = members - valid - rows.wrong
        yield REMOVED.format(count=count, name=name, members=members)
    elif valid > members:
        yield RESTORED.format(count=valid - members, name=name, members=members)
    elif not rows.wrong:
        expected = macs.summarize(name, members, sum(rows.terms), summary.version)
        if expected != summary:
            yield OTHER_ROWS.format(name=name)
    if summary.version < known:
        yield SET_BACK.format(name=name, known=known, version=summary.version)


def _name(table: ProtectedTable, row: ProtectedRow) -> str:
    """Name a row for people, never by a secret."""
    values = dict(zip(table.columns, row.values, strict=True))
    if table is CALLER_KEYS:
        return f"caller key {_text(values['id'])} ({_text(values['name'])})"
    if table is CALLER_SECRETS:
        return f"secret …{_text(values['last_four'])} of caller key {_text(values['key_id'])}"
    return f"erasure {_text(values['alias'])} (app {_text(values['app'])})"


def _text(value: object) -> str:
    text = value.hex() if isinstance(value, bytes) else str(value)
    return text[:100].encode(errors="replace").decode()
