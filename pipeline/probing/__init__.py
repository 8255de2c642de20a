"""Measures which engine and which quantisation scheme are fastest on a machine, and writes a profile that says so."""
