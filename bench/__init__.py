"""The benchmark: performance of the gateway as ratios to yardsticks measured in the same run.

plan        durations and amounts: the full run and the quick one
keys        a caller key with a valid checksum                                            (pure)
bodies      request bodies: one event, a batch, a batch with the caller's ids             (pure)
figures     one measured slice, percentiles, medians of ratios per round                  (pure)
report      rows, targets, the table, the JSON file, the exit status                      (pure)
ratios      the ratios of a run, compared with the committed ones in ratios.json
plot        the table as an image
wrk         the script that wrk runs, and its output                                      (pure)
wire        HTTP/1.1 as bytes: write requests, read responses                             (pure)
generator   our own load generator, a separate program: closed loop, open loop, fixed count
children    processes: start, wait until ready, pin, pause, measure memory, stop
servers/    the echo, the seed and the upstream, as ASGI apps
postgres    a PostgreSQL server: one from a wheel, or one that the user names
stage       commands, environments and cores of the servers
load        load on one server, by wrk or by the generator
scenarios/  the measurements, one module for each group of rows
cost, tracking, encryption, console, search   commands that measure the cost of single parts
item_cost   a command: the cost of an item, and the load that follows from it
usage, cost_of_items   processor time by thread, and bytes written, of an item
capacity, predictions, sizing, tables   the model, its check, and the tables of docs/scaling.md
__main__    the command
"""
