"""Help for people: examine a machine, write a first recipe."""
