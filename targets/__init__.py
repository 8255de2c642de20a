"""Hardware, runtimes and devices: everything that is known about where a model will run. Imports no torch."""
