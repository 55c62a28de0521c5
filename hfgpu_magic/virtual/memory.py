"""The memory of one virtual card: who holds how many bytes of it.

A real card keeps no books by owner; what PyTorch and nvidia-smi see is one number, the free bytes.
Here the three things that lower it are kept apart, so a report can say which one was in the way.
"""

from __future__ import annotations

from bisect import bisect_left


class DeviceMemory:
    """Physical memory of one device.  All values are bytes.

    `total` is what `torch.cuda.get_device_properties(i).total_memory` reports.  `context` is held by the
    CUDA context of this process (driver state, loaded kernels), `other_processes` by everybody else.
    `reserved` is what the caching allocators of this process took with cudaMalloc or cuMemCreate.
    """

    __slots__ = ("context", "other_processes", "reserved", "total")

    def __init__(self, total: int, context: int = 0, other_processes: int = 0) -> None:
        for name, value in (("total", total), ("context", context), ("other_processes", other_processes)):
            if value < 0:
                raise ValueError(f"{name} cannot be negative, got {value}")
        self.total = total
        self.context = context
        self.other_processes = other_processes
        self.reserved = 0

    @property
    def free(self) -> int:
        """What `torch.cuda.mem_get_info()[0]` reports; never negative."""
        return max(0, self.total - self.context - self.other_processes - self.reserved)

    @property
    def process(self) -> int:
        """What nvidia-smi shows beside this process: context and reserved memory."""
        return self.context + self.reserved

    def reserve(self, nbytes: int) -> bool:
        """Take `nbytes`, as cudaMalloc does; False (and nothing taken) when they are not there."""
        if nbytes > self.total - self.context - self.other_processes - self.reserved:
            return False
        self.reserved += nbytes
        return True

    def release(self, nbytes: int) -> None:
        """Give back `nbytes` taken by `reserve`."""
        if nbytes > self.reserved:
            raise ValueError(f"cannot release {nbytes} bytes, only {self.reserved} are reserved")
        self.reserved -= nbytes

    def __repr__(self) -> str:
        return (
            f"DeviceMemory(total={self.total}, context={self.context}, "
            f"other_processes={self.other_processes}, reserved={self.reserved})"
        )


class AddressSpaceError(RuntimeError):
    """The range of addresses given to the allocator is used up, which no real card can be."""


class AddressSpace:
    """Hands out the addresses cudaMalloc would return; bytes throughout.

    Linux drivers give large segments falling addresses, Windows rising ones.  It shows in one place only:
    among free blocks of one size the allocator takes the lowest address.  Falling addresses reproduce
    every recording of the evidence.  An address is used afresh until the range is used up; only then are
    released ranges given out again (the highest that fits, or the lowest when `ascending`).
    """

    __slots__ = ("_high", "_holes", "_low", "ascending", "bottom", "top")

    GRANULARITY = 2 << 20  # cudaMalloc and cuMemAddressReserve place segments on 2 MiB pages

    def __init__(self, top: int, size: int, *, ascending: bool = False) -> None:
        page = self.GRANULARITY
        self.top = top // page * page
        self.bottom = -(-(top - size) // page) * page
        if self.bottom <= 0 or self.bottom >= self.top:
            raise ValueError(f"an address space of {size} bytes does not fit below {top:#x}")
        self.ascending = ascending
        self._low, self._high = self.bottom, self.top  # the part never handed out
        self._holes: list[tuple[int, int]] = []  # released (address, size), sorted, coalesced

    @property
    def largest(self) -> int:
        """Bytes of the longest range still to be had."""
        return max(self._high - self._low, max((length for _, length in self._holes), default=0))

    def take(self, size: int) -> int:
        """The address of a fresh range of `size` bytes."""
        size = -(-size // self.GRANULARITY) * self.GRANULARITY
        if self._high - self._low >= size:
            if self.ascending:
                address, self._low = self._low, self._low + size
            else:
                address = self._high = self._high - size
            return address
        order = range(len(self._holes)) if self.ascending else range(len(self._holes) - 1, -1, -1)
        for i in order:
            start, length = self._holes[i]
            if length >= size:
                del self._holes[i]
                address = start if self.ascending else start + length - size
                if length > size:
                    rest = start + size if self.ascending else start
                    self._holes.insert(i, (rest, length - size))
                return address
        raise AddressSpaceError(
            f"No {size} consecutive bytes are left between {self.bottom:#x} and {self.top:#x}."
        )

    def give(self, address: int, size: int) -> None:
        """Return a range obtained from `take`."""
        size = -(-size // self.GRANULARITY) * self.GRANULARITY
        holes = self._holes
        i = bisect_left(holes, (address, 0))
        if i < len(holes) and address + size == holes[i][0]:
            size += holes.pop(i)[1]
        if i and holes[i - 1][0] + holes[i - 1][1] == address:
            start, length = holes.pop(i - 1)
            address, size, i = start, length + size, i - 1
        holes.insert(i, (address, size))
