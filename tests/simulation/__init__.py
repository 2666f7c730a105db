"""A deterministic simulation of several gateway processes, their database and Leanplum."""
