"""The world outside: storage, network, configuration files."""
