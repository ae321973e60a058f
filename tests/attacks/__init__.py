"""Attacks on privacy, each run on what is shipped and on a naive variant that must not stand it."""
