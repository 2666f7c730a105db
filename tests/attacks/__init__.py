"""Attacks on a running gateway, and what a well-behaved caller notices of them: `python -m
tests.attacks`.

rows        the attacks by name: with how many connections, how fast, and what may be answered
bodies      what attackers send
sending     one request at a time, and what became of it
attacker    a process that runs one attack, at a low priority
caller      a process of its own: single events on one connection, 50 a second, each timed from when it was due
outages     the attacks that no request makes: a silent database, a deleted file, a hostile Leanplum
measuring   starts a gateway and both processes, and makes the rows of the table
table       prints them
"""
