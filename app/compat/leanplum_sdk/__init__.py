"""Leanplum's own protocol, for unmodified Leanplum SDKs and client libraries.

- `endpoint`: authenticates, reads and answers a request
- `request`: parses a request into a call with its arguments and entries, and corrects times
- `classify`: decides for each entry whether it is accepted for later, relayed now or refused
- `execute`: executes the entries, and puts their answers into the reply
- `call_plan`, `steps`, `relayed_entries`: plan and execute a call that has relayed entries
- `transfers`: relays uploads, downloads and imports of CSV
- `response`: renders Leanplum's envelope, without the fields that would redirect an SDK
"""
