"""The bundle: what goes to the device, and the proof that it arrived whole."""
