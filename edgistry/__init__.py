"""Edgistry: a blockchain-backed registry and request broker for devices that sleep."""
