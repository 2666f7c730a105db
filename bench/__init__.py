"""The performance harness: what the gateway costs, as ratios to yardsticks measured beside it in
one run.

plan        how long and how much: the full run and the quick one
keys        a caller key that passes its own checksum                                     (pure)
bodies      what is posted: one event, a batch, a batch with the caller's ids             (pure)
figures     one measured slice, percentiles, medians of per-round ratios                  (pure)
report      rows, targets, the table, the JSON file, the exit status                      (pure)
wrk         the script that wrk runs, and what it prints at the end                       (pure)
wire        HTTP/1.1 as bytes: requests written, answers read                             (pure)
generator   our own load, a program of its own: closed loop, open loop, or a fixed count
children    processes: started, awaited, pinned, paused, weighed, stopped by their own pid
servers/    the echo, the seed way and the upstream, as ASGI apps
stage       knows how each server is started
load        runs wrk or the generator against one server
scenarios/  what is measured, one module for each group of rows
__main__    the command
"""
