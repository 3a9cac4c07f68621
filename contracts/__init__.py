"""What both ends of the cable agree on: specs, episode messages, reward signal, package, release, wire.

Pure but for two doors: `contracts.files` (disk) and `contracts.sockets` (network). Never imports torch
or any other room.
"""

__version__ = "0.1.0"
