"""Measures engines on a device, and says what the numbers allow to conclude."""
