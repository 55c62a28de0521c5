"""The picture of an allocator that `torch.cuda.memory_snapshot()` gives, for memory_viz and for tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .blocks import ALLOCATED, PENDING, UNMAPPED, Block

if TYPE_CHECKING:
    from .reporting import ReportingSource

_STATES = {ALLOCATED: "active_allocated", PENDING: "active_pending_free"}


def segments_of(allocator: ReportingSource, device_index: int = 0) -> list[dict[str, Any]]:
    """Segments in address order.  Bytes; of an expandable segment each mapped stretch is one."""
    pool_ids = {id(pool): pool_id for pool_id, pool in allocator.private_pools.items()}
    found: list[dict[str, Any]] = []
    for head in allocator.heads():
        for run in _mapped_runs(head):
            first = run[0]
            active = [b for b in run if b.state in _STATES]
            found.append(
                {
                    "device": device_index,
                    "address": first.address,
                    "total_size": sum(b.size for b in run),
                    "allocated_size": sum(b.size for b in run if b.state == ALLOCATED),
                    "active_size": sum(b.size for b in active),
                    "requested_size": sum(b.requested for b in active),
                    "stream": first.stream,
                    "segment_type": "small" if first.home.pool.small else "large",
                    "segment_pool_id": pool_ids.get(id(first.home.pool.private), (0, 0)),
                    "is_expandable": first.segment is not None,
                    "frames": [],
                    "blocks": [
                        {
                            "address": b.address,
                            "size": b.size,
                            "requested_size": b.requested,
                            "state": _STATES.get(b.state, "inactive"),
                            "frames": [],
                        }
                        for b in run
                    ],
                }
            )
    found.sort(key=lambda segment: int(segment["address"]))
    return found


def _mapped_runs(head: Block) -> Iterator[list[Block]]:
    run: list[Block] = []
    block: Block | None = head
    while block is not None:
        if block.state != UNMAPPED:
            run.append(block)
        elif run:
            yield run
            run = []
        block = block.next
    if run:
        yield run
