"""From kernel requests to union operations, and back.

Read in this order: `protocol.py` (the kernel's numbers), `wire.py` (bytes to a request, a reply to bytes),
`nodes.py` (what the kernel holds references to), `dispatch.py` (one table of all requests), `device.py` (/dev/fuse),
`server.py` (the loop, and helpers for what blocks), `mount.py` (get it mounted), `daemon.py` (a process of its own).
A READ goes server, device, wire, dispatch, operations, and comes back as return values.
"""
