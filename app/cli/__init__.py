"""The command line, one module per command group: the only reader of the environment."""
