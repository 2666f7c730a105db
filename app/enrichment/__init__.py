"""Enrichment: steps that complete and normalize items, and privacy rules.

A valid item is enriched after it was validated; a faulty one before it is validated again, because
a step may correct the fault. So the steps take any JSON object, are idempotent, and raise nothing.
Only `CallEnricher.check`, after them, refuses an item: for an unknown currency, if so configured.

- `config`: the enrichment file and everything wrong with it
- `build`: the steps for each action, built from the configuration
- `pipeline`: the steps for one caller of one app, and their use by one call
- `draft`: one item on its way through the steps; field paths
- `timestamps`, `client_facts`, `normalizers`, `reshape`, `privacy`: the steps
- `relayed_calls`: the privacy rules for calls that are relayed to Leanplum
- `service`: the files on disk, reloaded when they change

The order of the steps is always:

    privacy             rules over values, on values that later steps would rewrite
    contact, privacy    only where something is renamed, so that a rule over an old name applies
    flatten, rename     names
    values              values, by the configured maps
    time, location, device        from the clock, the address and the user agent
    defaults            missing values
    contact, currency, locale, timezone     how values are written
    values              once more, because maps apply to normalized values
    privacy             last, so that no step can bring back what must not be stored
"""
