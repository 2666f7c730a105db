"""The Leanplum gateway: accept events and user updates durably, and deliver them to Leanplum.

One event, from the socket to its receipt:

    HTTP in ─ server.http1 ─ server.middleware ─ api.events
       ─ http.authentication (callers) ─ http.rate_limiting (limits)
       ─ http.body ─ ingest.validate (calls enrichment, tracking.checker) ─ ingest.service
                                                                                     │
       202 ─ one durable commit (database.writer) ─ outbox.accept ───────────────────┘
                         │
            outbox (SQLite or PostgreSQL)
               └─ outbox.waiting_items ─ delivery.window ─ leanplum.mapping ─ leanplum.client
                                  delivery.deliverer                        │ Leanplum
                  outbox.settle ─ delivery.verdicts ─ leanplum.replies ─────┘
                                  delivery.bisection, when a call is refused as a whole

The architecture page in docs/ explains it. Packages, outermost layer first; each imports
only from those below it:

    cli          commands; the only reader of the environment, except for TLS and proxy variables
                 (leanplum.connections)
    server       startup, shutdown, composition (bootstrap, handlers), HTTP server, health, pages
    api          /v1, one module per resource
    console      pages for operators, with sessions
    compat       compatibility endpoints: Leanplum's protocol for SDKs, and Segment's
    pages        what HTML pages share: static files, templates, style
    http         request plumbing that api and compat share
    tracking     the tracking plan, the names that an app uses, and violations
    enrichment   normalization of items, and privacy rules
    ingest       the use case: validate (a faulty body is enriched first), enrich, check, accept;
                 independent of HTTP
    delivery     pack waiting items, send them, decide what each response means
    relay        calls to Leanplum while the caller waits
    receipts     find receipts, render them, explain why an item waits
    outbox       the durable queue
    callers      caller keys: their form, their store, their lookup
    audit        tamper-evident records of who did what
    apps         Leanplum apps and their client keys
    encryption   encryption of contents in the database
    database     connections, migrations, group commit
    limits       rate limits: token buckets, in memory or shared in Valkey
    telemetry    logs and metrics
    settings     settings and their sources
    leanplum     everything about Leanplum: actions, mapping, client, replies
    model, ids, urls, errors, clock, patterns, process_lock, suggestions
                 shared types, identifiers, URLs, errors, time, regular expressions, locks between
                 processes, "did you mean"
    simulator    a stand-alone simulator of Leanplum that shares no code with leanplum
"""

__version__ = "0.1.0"
