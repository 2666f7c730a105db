"""The Leanplum gateway: a durable way from a company's backends to Leanplum.

The data's way, module by module:

    HTTP in ─ api.front ─ api.auth ─ limits.bucket ─ intake.bodies ─ intake.rules ─ outbox.accept ─ 202
              (context)   (callers)                                       │ one durable commit
                                                                          │ (database.writer)
                 outbox (database) ───────────────────────────────────────┘
                    └─ outbox.claims ─ delivery.window ─ leanplum.mapping ─ leanplum.client ─ Leanplum
                                       delivery.loop                              │
                       outbox.settle ─ delivery.verdicts ─ leanplum.replies ──────┘
                                       delivery.splitting, where a call is refused as a whole

    what follows a login, which makes two users one, waits for it: outbox.logins (outbox.accept,
    outbox.settle) while the caller waits: api.asks ─ relay.calls ─ leanplum.client, while its user
    is locked (delivery.user_locks) in Leanplum's own protocol (SDKs): doors.sdk ─ outbox.accept,
    relay.calls in Segment's (its libraries, and RudderStack's): doors.segment ─ intake.rules ─
    outbox.accept all of Leanplum's actions, for every step: leanplum.actions (shapes, questions,
    values, answers)

    who did what: audit.records, with the write itself ─ audit.sealing, into a tree (audit.tree, audit.merkle) signed in
     audit.notes ─ looked up and proven: api.audit, audit.queries, audit.proofs ─ audit.verifying, of audit.evidence
     MACs of caller keys and erasures: audit.row_macs ─ audit.row_verifying (audit.row_adopting: at the first start)
    what was refused again and again: audit.folding, which counts
    how fast: api.limiting ─ limits.policies, limits.bucket (in memory), limits.shared (with other replicas, in Valkey)

    beside the way: vault (what rests on the disk is sealed; who was erased), telemetry (logs, metrics), settings,
                    read from setting_sources (with units), clock, simulator (Leanplum's stand-in)
    whose Leanplum keys are used, and which: apps
    what is tracked, and what must not be: intake.plan, intake.taxonomy (pure), tracking (their files and tables)
    what items get and lose on the way in: enrichment (its files), intake.enrichment (its steps, pure)
    operators' patterns over callers' texts, in linear time: patterns
    the nouns: model, ids, request_ids (of SDKs' reqIds: how receipts are found by one), errors, urls
    for operators: dead_letters, plan_commands (by command; over HTTP in api.dead_letters, api.tracking)
    from outside in: serving (runs the server, with its protocol), main (the application), wiring (opens and closes all)
    what the operating system may give and take: confines
    how a stop goes, and how long each part of it may take: lifecycle
"""

__version__ = "0.1.0"
