"""The device-class profile: what a microcontroller needs to verify derived capabilities."""
