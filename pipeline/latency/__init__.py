"""Latency on the target as a function of channel widths: measured on few nets, and turned into the best widths."""
