"""The child process of an isolated handler: ``python -m edgistry.adapters.faas_child FD PARENT``.

Rules kept here:

* It limits itself before it loads the handler's module, and serves one handler, one element after
  the other, until its parent closes the socket or ends it.
* What the handler prints goes to pipes that the parent reads.
* It writes nothing: no files, no compiled modules.

Not handled here: time-outs, and what a handler may ask (``faas_asked.py`` checks it).
"""

from __future__ import annotations

import socket
import sys

from ..faas_frames import Ended, Ready, Setup
from ..faas_outcome import failure_of, one_line
from .faas_child_context import Parent, flush, serve
from .faas_limits import end_with_parent, forbid_processes, limit_processor_time, limit_resources
from .faas_module import load_handlers


def main(descriptor: int, parent_pid: int) -> None:
    """Serve the handler that the parent names."""
    end_with_parent(parent_pid)
    sys.dont_write_bytecode = True
    parent = Parent(socket.socket(fileno=descriptor))
    setup = parent.receive()
    if not isinstance(setup, Setup):
        raise SystemExit(1)
    limit_resources(memory_bytes=setup.memory_mb << 20, files=setup.files)
    forbid_processes()
    limit_processor_time(setup.cpu_s)
    try:
        handler = load_handlers(setup.module).require(setup.handler)
    except BaseException as error:
        # Whatever the module raises while it is imported, SystemExit too.
        flush()
        parent.send(Ended(failure=one_line(f"cannot be loaded: {failure_of(error).reason}")))
        raise SystemExit(0) from None
    parent.send(Ready())
    if handler.is_async:
        # Loaded here: an event loop takes a good part of the time in which a child starts.
        from .faas_child_async import run_async

        run_async(parent, handler)
    else:
        serve(parent, handler)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
