"""An example of an erasure statement; its signature and its proof are valid."""

from typing import Any

ERASED_USERS: list[dict[str, Any]] = [
    {
        "user": "3781d1d1fa7f2db06f94",
        "removed": {"waiting": 3, "inFlight": 1, "deadLetters": 1, "receipts": 12, "ids": 16},
        "fullErasure": True,
        "refusedUntil": "2026-02-01T12:00:00.000Z",
    },
]
RECORD = (
    '{"metadata":{"product":{"name":"leanplum-gateway","vendor_name":"leanplum-gate'
    'way"},"version":"1.4.0","sequence":2},"class_uid":6003,"category_uid":6,"activ'
    'ity_id":4,"type_uid":600304,"severity_id":1,"time":1769860800000,"status_id":1'
    ',"status_code":"202","actor":{"user":{"uid":"key_0123456789abcdef"}},"api":{"o'
    'peration":"DELETE /v1/users/{userId}","request":{"uid":"4bf92f35"}},"src_endpo'
    'int":{"ip":"192.0.2.1"},"unmapped":{"app":"default","accepted":1,"duplicates":'
    '0,"rejected":0,"actions":{"deleteUser":1},"itemsHash":"d6507ffe7c7750ff33b0046'
    '3e73dcfbcf0d2e0eb9558768caa357103be2cd975","user":"3781d1d1fa7f2db06f94","eras'
    'ures":[{"user":"3781d1d1fa7f2db06f94","removed":{"waiting":3,"inFlight":1,"dea'
    'dLetters":1,"receipts":12,"ids":16},"fullErasure":true,"refusedUntil":"2026-02'
    '-01T12:00:00.000Z"}]}}'
)
HASHES = [
    "mrmnEJO2liggbW6NDQMh0+xdBoGSSBSIJQ8M3DecEMg=",
    "0XiUuyGpKQz1gV68aFQAoR98x+/kgtVoPRfgxLofUtk=",
]
CHECKPOINT = (
    "leanplum-gateway/4753dce8f95f438b\n"
    "3\n"
    "/rFJTSGB6nrqZ0XGaRrogwY2akrmneFlvxCxbBDtk3I=\n"
    "\n"
    "\u2014 leanplum-gateway/4753dce8f95f438b gjMIZAznOledfFois9nA/jXlv5/zKeytKvQQO2CAt3xUjvKpm"
    "SNycf+MrDdLlpQnUxTTka/N7nFJM3UFbWMsCqF+0gQ=\n"
)
PUBLIC_KEY = (
    "leanplum-gateway/4753dce8f95f438b+82330864+AV8LbvcskJktJCAFQlSy8OWspp+SPUASOg7YtYODypwq"
)
STATEMENT: dict[str, Any] = {
    "recordId": 2,
    "erasedAt": "2026-01-31T12:00:00.000Z",
    "app": "default",
    "erasures": ERASED_USERS,
    "record": RECORD,
    "hashes": HASHES,
    "checkpoint": CHECKPOINT,
    "publicKey": PUBLIC_KEY,
}
