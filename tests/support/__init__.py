"""Code that the tests of several folders share. A test imports from here and from helper modules
of its own folder, never from another test.

    gateway          a gateway in this process, and HTTP to it
    http_server      a gateway behind its real HTTP server in this process, and a raw socket to it
    processes        the gateway's commands as processes
    fork_server      the same processes, started by a fork of one that has imported the gateway
    simulator        a simulated Leanplum, and what its tests ask it
    tls_simulator    the simulator behind TLS, and a proxy in front of it
    hostile_server   a server that answers as Leanplum never should
    unreachable      addresses to which no connection can be made
    postgres, pgbouncer, valkey    real servers
    database_proxy   a proxy in front of PostgreSQL that can fall silent
    chromium         a real browser, as a process
    browser          the same, driven by Playwright: pages, screenshots, accessibility
    segment, sdk     calls of the two foreign protocols
    tracking_plans   small tracking plans
    wait             `until` and `free_port`
"""
