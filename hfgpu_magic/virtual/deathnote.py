"""A C function `void note(void *p)` that appends `p` to a list, without Python and without a compiler.

It may run on any thread, without Python's lock, and while an error is being raised; a ctypes callback
may not.  It is some forty bytes of machine code in memory of its own (ctypes itself works that way):

    i = atomic_fetch_add(&list->count, 1);  list->entries[i & MASK] = p;

Python reads the list under its lock with `take`.  On a machine whose instructions are not known here,
or that forbids such memory, `supported` says False and the caller has to do without.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import platform
import struct
import sys
from collections.abc import Iterator

#: Entries of the list, a power of two: more deaths than this between two allocations would be lost.
_ENTRIES = 1 << 21
_MASK = _ENTRIES - 1
_HEADER = 16


class _Note:
    """The list and the function that fills it.  Never freed: storages outlive Python's modules."""

    def __init__(self) -> None:
        self._buffer = mmap.mmap(-1, _HEADER + 8 * _ENTRIES)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._buffer))
        self.words = memoryview(self._buffer).cast("Q")
        self.read = 0
        code = _code(base)
        if sys.platform == "win32":
            self._executable = mmap.mmap(-1, mmap.PAGESIZE)
            self.function = _windows_executable(code)
            return
        self._executable = _posix_executable(code)
        self.function = ctypes.addressof(ctypes.c_char.from_buffer(self._executable))
        _clear_instruction_cache(self.function, len(code))


def _code(base: int) -> bytes:
    """The function for this machine; `base` is the list's address."""
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64"):
        windows = sys.platform == "win32"  # its first argument is in rcx, everybody else's in rdi
        return b"".join(
            (
                b"\x48\xb8" + struct.pack("<Q", base),  # mov rax, base
                b"\xba\x01\x00\x00\x00",  # mov edx, 1
                b"\xf0\x48\x0f\xc1\x10",  # lock xadd [rax], rdx
                b"\x81\xe2" + struct.pack("<I", _MASK),  # and edx, MASK
                (b"\x48\x89\x4c" if windows else b"\x48\x89\x7c") + b"\xd0\x10",  # mov [rax+rdx*8+16], arg
                b"\xc3",  # ret
            )
        )
    if machine in ("aarch64", "arm64"):
        words = (
            0x580000E1,  # ldr x1, base (28 bytes on)
            0xC85F7C22,  # 1: ldxr x2, [x1]
            0x91000443,  # add x3, x2, #1
            0xC8047C23,  # stxr w4, x3, [x1]
            0x35FFFFA4,  # cbnz w4, 1b
            0x92405042,  # and x2, x2, #MASK (21 ones)
            0x14000003,  # b 2f
        )
        tail = (
            0x91004021,  # 2: add x1, x1, #16
            0xF8227820,  # str x0, [x1, x2, lsl #3]
            0xD65F03C0,  # ret
        )
        return struct.pack("<7I", *words) + struct.pack("<Q", base) + struct.pack("<3I", *tail)
    raise NotImplementedError(machine)


def _posix_executable(code: bytes) -> mmap.mmap:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANON
    jit = sys.platform == "darwin" and platform.machine() == "arm64"
    if jit:
        flags |= 0x800  # MAP_JIT: the only writable and executable memory on Apple's processors
    memory = mmap.mmap(-1, mmap.PAGESIZE, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    protect = ctypes.CDLL(None).pthread_jit_write_protect_np if jit else lambda _: None
    protect(0)
    memory.write(code)
    protect(1)
    return memory


def _clear_instruction_cache(address: int, size: int) -> None:
    """ARM processors may fetch stale instructions unless told; x86 needs nothing."""
    if platform.machine().lower() not in ("aarch64", "arm64"):
        return
    if sys.platform == "darwin":
        ctypes.CDLL(None).sys_icache_invalidate(ctypes.c_void_p(address), ctypes.c_size_t(size))
    else:
        clear = ctypes.CDLL("libgcc_s.so.1").__clear_cache
        clear(ctypes.c_void_p(address), ctypes.c_void_p(address + size))


def _windows_executable(code: bytes) -> int:
    kernel = ctypes.windll.kernel32  # type: ignore[attr-defined]
    kernel.VirtualAlloc.restype = ctypes.c_void_p
    kernel.VirtualAlloc.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint32, ctypes.c_uint32]
    address = kernel.VirtualAlloc(None, mmap.PAGESIZE, 0x3000, 0x40)
    if not address:
        raise OSError("VirtualAlloc refused executable memory")
    ctypes.memmove(address, code, len(code))
    return int(address)


_note: _Note | None = None


@functools.cache
def supported() -> bool:
    """Whether this machine can have the function: a known processor, and no policy against such memory."""
    global _note
    try:
        _note = _Note()
    except (OSError, AttributeError, NotImplementedError):
        return False
    return True


def address() -> int:
    """The function's address, to be asked for only where it is `supported`."""
    assert supported()
    assert _note is not None
    return _note.function


def pending() -> bool:
    """Whether something was noted that `take` has not given."""
    return _note is not None and _note.words[0] != _note.read


def take() -> Iterator[int]:
    """What was noted, in order.  Callers take turns."""
    note = _note
    if note is None:
        return
    words = note.words
    while note.read != words[0]:
        place = 2 + (note.read & _MASK)
        value = words[place]
        if not value:  # counted, but another thread is still about to write it
            return
        words[place] = 0
        note.read += 1
        yield value
