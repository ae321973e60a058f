"""The agent that runs on a device."""
