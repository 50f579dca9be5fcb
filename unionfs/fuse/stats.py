"""What a mount's daemon did and holds: the value of the virtual attribute user.unionfs.stats of the root.

Called by `calls.py`; `unionfs stats` shows it. Counting costs one addition a request, in the loop of `server.py`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unionfs.fuse.calls import Connection


def as_json(c: Connection) -> bytes:
    passing, copied = c.passthrough, c.operations.copied
    found = {
        "data_path": c.data_path.way,
        "why": c.data_path.why or c.passthrough.why,
        "coherent": c.data_path.coherent or c.data_path.way != "passthrough",
        "scheduling": c.scheduling,
        "requests": {name: count for name, count in zip(c.request_names, c.counts, strict=False) if count},
        "copy_ups": copied.files,
        "copied_bytes": copied.bytes,
        "backing_ids": {"live": passing.live_ids, "opened": passing.opened_ids, "closed": passing.closed_ids},
        "former_nodes": len(passing.former),
        "nodes": len(c.nodes),
        "open_handles": len(c.handles),
        "open_files": len(c.files),
    }
    return json.dumps(found).encode()
