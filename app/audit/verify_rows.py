"""Are caller keys and erasures as the gateway left them? Finds what was added, changed, removed or
put back by hand.
"""

from collections.abc import Iterator, Mapping

from app.audit.findings import Finding
from app.audit.row_macs import (
    CALLER_KEYS,
    CALLER_SECRETS,
    SUMMARY,
    TABLES,
    Fetch,
    Row,
    RowMacs,
    Table,
    read_row,
    summary_of,
)

ADDED = "it has no MAC: it was put there by hand"
CHANGED = "it is not what the gateway wrote: it was changed, or put there, by hand"
NOT_MADE = (
    "the digest of {name} is not made, although there are rows: start the gateway once; "
    "if it says audit.rows_not_adopted, somebody changed the database by hand"
)
GONE_DIGEST = "the digest of {name} is gone: it was removed by hand"
CHANGED_DIGEST = "the digest of {name} is not what the gateway wrote: it was changed by hand"
REMOVED = "{count} of {name} gone: removed by hand ({members} rows were there)"
PUT_BACK = (
    "{count} more of {name} than there were ({members}): rows that were gone were put back by hand"
)
OTHERS = (
    "{name} are not the rows that the gateway left: some were put back by hand as they were earlier"
)
SET_BACK = "{name} were set back by hand to how they were earlier: the audit knows of change {known}, they say {version}"


def verify(fetch: Fetch, macs: RowMacs, known: Mapping[str, int]) -> list[Finding]:
    """Hold each row against its MAC, and each set against its digest. `known`: the newest change of
    each set that the audit knows of.
    """
    found: dict[str, list[int]] = {}
    doubtful: dict[str, int] = {}
    findings = list[Finding]()
    for table in TABLES:
        terms = found.setdefault(table.of_set, [])
        for row in map(read_row, fetch(table.select, ())):
            if row.mac is not None and macs.fits(table, row):
                terms.append(macs.term(row.mac))
                continue
            changed = row.mac is not None
            doubtful[table.of_set] = doubtful.get(table.of_set, 0) + changed
            findings.append(_finding(f"{_name(table, row)}: {CHANGED if changed else ADDED}"))
    for name, terms in found.items():
        told = _of_set(fetch, macs, name, terms, doubtful.get(name, 0), known.get(name, 0))
        findings += [_finding(one) for one in told]
    return findings


def _finding(detail: str) -> Finding:
    return Finding("row", 0, 0, detail)


def _of_set(
    fetch: Fetch, macs: RowMacs, name: str, terms: list[int], doubtful: int, known: int
) -> Iterator[str]:
    """Yield what is wrong with a set as a whole. `doubtful`: how many rows are there whose MACs are
    wrong.
    """
    rows = fetch(SUMMARY, (name,))
    if len(rows) != 1:
        yield GONE_DIGEST.format(name=name)
        return
    summary = summary_of(rows[0])
    if summary.mac is None:
        if terms or doubtful or known:
            yield NOT_MADE.format(name=name)
        return
    if not macs.fits_set(name, summary):
        yield CHANGED_DIGEST.format(name=name)
        return
    members = summary.members
    if (gone := members - len(terms) - doubtful) > 0:
        yield REMOVED.format(count=gone, name=name, members=members)
    elif (more := len(terms) - members) > 0:
        yield PUT_BACK.format(count=more, name=name, members=members)
    elif not doubtful and macs.summary(name, members, sum(terms), summary.version) != summary:
        yield OTHERS.format(name=name)
    if summary.version < known:
        yield SET_BACK.format(name=name, known=known, version=summary.version)


def _name(table: Table, row: Row) -> str:
    """Name a row for people; never by a secret."""
    told = dict(zip(table.columns, row.values, strict=True))
    if table is CALLER_KEYS:
        return f"caller key {_text(told['id'])} ({_text(told['name'])})"
    if table is CALLER_SECRETS:
        return f"secret …{_text(told['last_four'])} of caller key {_text(told['key_id'])}"
    return f"erasure {_text(told['alias'])} (app {_text(told['app'])})"


def _text(value: object) -> str:
    shown = value.hex() if isinstance(value, bytes) else str(value)
    return shown[:100].encode(errors="replace").decode()
