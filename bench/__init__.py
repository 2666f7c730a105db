"""The benchmark: performance of the gateway as ratios to yardsticks measured in the same run.

plan        durations and amounts: the full run and the quick one
keys        a caller key with a valid checksum                                            (pure)
bodies      request bodies: one event, a batch, a batch with the caller's ids             (pure)
figures     one measured slice, percentiles, medians of ratios per round                  (pure)
report      rows, targets, the table, the JSON file, the exit status                      (pure)
wrk         the script that wrk runs, and its output                                      (pure)
wire        HTTP/1.1 as bytes: write requests, read responses                             (pure)
generator   our own load generator, a separate program: closed loop, open loop, fixed count
children    processes: start, wait until ready, pin, pause, measure memory, stop
servers/    the echo, the seed and the upstream, as ASGI apps
stage       commands, environments and cores of the servers
load        load on one server, by wrk or by the generator
scenarios/  the measurements, one module for each group of rows
cost, tracking, encryption   commands that measure the cost of single parts
__main__    the command
"""
