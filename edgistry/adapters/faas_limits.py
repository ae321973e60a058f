"""What a child process may do: limits that it puts on itself before it runs a handler.

Rules kept here:

* It ends with its parent, however the parent ends.
* Memory, open files and processor time are bounded; no core dumps, no files are written.
* It cannot start processes, leave its process group or signal others: the kernel refuses these
  calls (seccomp), also for root. Where that is not to be had, neither processes nor threads can be
  started (RLIMIT_NPROC, which does not bind root), and the parent kills the whole group.

This bounds faults, not enemies: the child still runs as the same user and may read its files.

Not handled here: the wall clock; the parent watches it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2

# Offsets in struct seccomp_data, and the few instructions of the filter (linux/filter.h).
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW: Final = 0x7FFF0000
_ERRNO: Final = 0x00050000
_CLONE_THREAD: Final = 0x00010000
_X32_BIT: Final = 0x40000000

_SYSTEM_CALLS: Final = {
    # machine: (its number, clone, clone3, those that are refused)
    "x86_64": (
        0xC000003E, 56, 435,
        # fork vfork execve kill ptrace setpgid setsid tkill process_vm_readv process_vm_writev
        # execveat pidfd_send_signal
        (57, 58, 59, 62, 101, 109, 112, 200, 310, 311, 322, 424),
    ),
    "aarch64": (
        0xC00000B7, 220, 435,
        # execve kill ptrace setpgid setsid tkill process_vm_readv process_vm_writev execveat
        # pidfd_send_signal
        (221, 129, 117, 154, 157, 130, 270, 271, 281, 424),
    ),
}  # fmt: skip


def end_with_parent(parent: int) -> None:
    """From now on this process is killed when ``parent``, which started it, ends."""
    _libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        # It ended before the kernel was told.
        os.kill(os.getpid(), signal.SIGKILL)


def limit_resources(*, memory_bytes: int, files: int) -> None:
    """Bound what this process may use, beside the memory that it uses already."""
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, 0)
    _lower(resource.RLIMIT_NOFILE, files)
    _lower(resource.RLIMIT_AS, _address_space() + memory_bytes)


def limit_processor_time(seconds: int) -> None:
    """Let the kernel end this process after ``seconds`` more of processor time."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + 1 + seconds
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def forbid_processes() -> None:
    """From now on this process can start no other and signal none."""
    if not _filter_system_calls():
        _lower(resource.RLIMIT_NPROC, 0)


def _lower(kind: int, limit: int) -> None:
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(kind, (limit, limit))


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    return pages * resource.getpagesize()


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    """``struct sock_fprog``: how many instructions, and where."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def _filter_system_calls() -> bool:
    """Whether the kernel took the filter; nothing is filtered otherwise."""
    code = _filter(platform.machine())
    if not code or not hasattr(_libc(), "prctl"):
        return False
    held = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.addressof(held))
    libc = _libc()
    # Without it only root may filter; it also means that no program gains rights by being run.
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    taken = libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)
    return bool(taken == 0)


def _filter(machine: str) -> bytes:
    """The filter program for ``machine``; empty when it is not known."""
    known = _SYSTEM_CALLS.get(machine)
    if known is None:
        return b""
    architecture, clone, clone3, refused = known
    # Another numbering of the calls (32 bit, x32) would slip past the list: all of it is refused.
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
        (_LOAD, 0, 0, _NUMBER),
        (_JUMP_AT_LEAST, 0, 1, _X32_BIT),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
        # The C library falls back to clone, whose flags can be seen: threads are allowed.
        (_JUMP_EQUAL, 0, 1, clone3),
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
        (_JUMP_EQUAL, 0, 4, clone),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_JUMP_BITS, 0, 1, _CLONE_THREAD),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
    ]
    for number in refused:
        steps += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | errno.EPERM)]
    steps.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *step) for step in steps)
