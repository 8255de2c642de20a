"""The program that travels to the device: Python 3.8, stdlib, numpy and the runtime, packed into one file.

It imports nothing of this project but itself, by relative imports, so it runs both as ``targets.ondevice`` and as the
top-level package ``ondevice`` inside ``ondevice.pyz``.
"""

VERSION = 1
