"""Enrichment: what an item gets, or loses, before it is held against the rules. Pure; idempotent;
raises nothing.

- `draft`: one item on its way through the steps, and what is known of its call
- `moments`, `places`, `devices`, `norms`, `shaping`, `privacy`: the steps, each a small function over a draft
- `rows`: the privacy rules over the rows of an import
- `config`: what the file declares, and what is wrong with it
- `recipe`: the ordered steps for one caller of one app
- `enriching`: the refiner of one call

The order is always the same:

    privacy             first, by rules over values: what later steps write otherwise, as it was sent
    contact, privacy    only where something is renamed: a rule over an old name is kept as well
    flatten, rename     what things are called
    values              what they say, by the configured maps
    time, location, device        what the clock, the address and the user agent tell
    defaults            what was not said
    contact, currency, locale, timezone     how things are written
    values              once more: a map is of things as they are written
    privacy             last, so that nothing above can bring back what must go
"""
