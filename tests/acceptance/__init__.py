"""The gateway as its users meet it: real processes, real signals, real HTTP."""
