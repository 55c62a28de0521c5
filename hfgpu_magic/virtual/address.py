"""Addresses for tensors that have no memory.

A virtual tensor has a real, distinct `data_ptr`, because programs compare, print and sort them.
Something may also *read* through such a pointer (numpy, safetensors, a C extension), which must
not crash.  So a range of addresses as large as the card is reserved, and every part of it is the
same few pages of an anonymous file: reads and writes anywhere land there and mean nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import sys

from ..errors import VirtualGPUError

_CHUNK = 256 << 20  # the one file that backs every address; sparse, so it costs what is touched
#: A process may have some 65,000 mappings (vm.max_map_count), and others need them too.
_MOST_CHUNKS = 8192
_PROT_NONE, _PROT_RW = 0, 3
_MAP_SHARED, _MAP_PRIVATE, _MAP_FIXED = 0x01, 0x02, 0x10
_MAP_ANON, _MAP_NORESERVE = 0x20, 0x4000


class AddressRange:
    """`size` bytes of address space starting at `base`; give it back with `close`."""

    def __init__(self, size: int) -> None:
        self._chunk = _CHUNK * -(-size // (_CHUNK * _MOST_CHUNKS))
        self.size = -(-size // self._chunk) * self._chunk
        self._fallback: mmap.mmap | None = None
        if sys.platform == "linux":
            self.base = self._map_linux()
        else:
            # Untouched anonymous pages cost nothing on macOS and Windows either, but Windows counts
            # them against the commit limit, so keep the range no larger than needed.
            try:
                self._fallback = mmap.mmap(-1, self.size)
            except OSError as error:
                raise VirtualGPUError(
                    f"This system refused to reserve {self.size >> 30} GiB of addresses for the virtual GPU "
                    f"({error}). A smaller card may work."
                ) from None
            self.base = ctypes.addressof(ctypes.c_char.from_buffer(self._fallback))

    def _map_linux(self) -> int:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [
            ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
        ]  # fmt: skip
        libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        failed = ctypes.c_void_p(-1).value
        base = libc.mmap(None, self.size, _PROT_NONE, _MAP_PRIVATE | _MAP_ANON | _MAP_NORESERVE, -1, 0)
        if base in (None, failed):
            raise VirtualGPUError(
                f"This system refused to reserve {self.size >> 30} GiB of addresses for the virtual GPU "
                f"({os.strerror(ctypes.get_errno())}). Raise `ulimit -v` or choose a smaller card."
            )
        self._libc = libc
        fd = os.memfd_create("hfgpu-virtual-gpu")
        try:
            os.ftruncate(fd, self._chunk)
            for offset in range(0, self.size, self._chunk):
                got = libc.mmap(base + offset, self._chunk, _PROT_RW, _MAP_SHARED | _MAP_FIXED, fd, 0)
                if got in (None, failed):
                    # The rest stays reserved but unreadable: still distinct addresses.
                    break
        finally:
            os.close(fd)
        return int(base)

    @property
    def top(self) -> int:
        return self.base + self.size

    def close(self) -> None:
        """Release the range.  Only when no tensor points into it any more."""
        if self._fallback is not None:
            with contextlib.suppress(BufferError):
                self._fallback.close()
            self._fallback = None
        elif self.size:
            self._libc.munmap(self.base, self.size)
        self.size = 0


_shared: AddressRange | None = None


def shared_range(size: int) -> AddressRange:
    """A range of at least `size` bytes, kept for the life of the process.

    Tensors may outlive the run that made them, so ranges are never unmapped, only outgrown.
    """
    global _shared
    # Several times the card, as a real driver has: fresh segments get fresh addresses.
    wanted = 8 * size + _CHUNK
    if _shared is None or _shared.size < wanted:
        _shared = AddressRange(wanted)
    return _shared
