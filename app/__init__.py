"""The Leanplum gateway: a durable way from a company's backends to Leanplum.

One event, from the socket to its receipt:

    HTTP in ─ server.http1 ─ server.middleware ─ http.authentication ─ http.rate_limiting ─ http.body
                                                  (callers)             (limits)
       ─ ingest.validate ─ enrichment.pipeline ─ tracking.checker ─ outbox.accept ─ 202
                                                                      │ one durable commit
                                                                      │ (database.writer)
            outbox (SQLite or PostgreSQL) ────────────────────────────┘
               └─ outbox.claims ─ delivery.window ─ leanplum.mapping ─ leanplum.client ─ Leanplum
                                  delivery.deliverer                        │
                  outbox.settle ─ delivery.verdicts ─ leanplum.replies ─────┘
                                  delivery.bisection, when a call is refused as a whole

Packages, from the outermost layer to the innermost; each imports only from those below it:

    cli          the commands; the only reader of the environment
    server       startup and shutdown, the HTTP server, middleware, health, metrics, OpenAPI pages
    bootstrap    the composition root: opens everything in order, closes it in reverse
    api          /v1, one module for each resource
    compat       foreign protocols: Leanplum's own (SDKs) and Segment's
    http         request plumbing that api and compat share
    tracking     the tracking plan, the names an app uses, and what violates the plan
    enrichment   what is added to items, and what is removed from them, before they are validated
    ingest       validate, enrich, check, accept: independent of HTTP
    delivery     packs what waits, sends it, judges the answers
    relay        calls that are answered while the caller waits
    outbox       the durable queue
    callers      caller keys: their form, their store, their lookup on each request
    audit        tamper-evident records of who did what
    apps         the apps, and Leanplum's keys for each
    encryption   encryption of what rests on the disk
    database     connections, migrations, group commit
    limits       token buckets, in memory or shared in Valkey
    telemetry    logs and metrics
    settings     the settings, and where they are read from
    leanplum     everything about Leanplum: actions, mapping, client, replies
    model, ids, urls, errors, clock, patterns, suggestions
                 shared types, identifiers, URLs, errors, time, operators' patterns, "did you mean"
    simulator    a stand-in for Leanplum that shares no code with leanplum
"""

__version__ = "0.1.0"
