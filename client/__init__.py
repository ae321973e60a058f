"""The `edgistry` command line."""
