"""click only: parse, call, print."""
