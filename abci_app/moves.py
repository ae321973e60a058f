"""Where the registry shows a service that moves, and from when on.

Rules kept here:

* A record that is put for the first time is shown at once. One that names another cell than before
  is shown there from the next privacy epoch on, and where it was until then: all handles change
  with the epoch, so that nobody can follow a handle from one cell to another.
* It is the epoch of the block that counts, not that of the sender: who is late waits for the epoch
  after.
* A coarser cell around where it is shows at once, also where a service is about to move: until then
  it is shown where it was, no finer than where it will be. So all that is seen of a handle is one
  cell, and later perhaps cells around it.
* Before the first epoch there are no handles, and nothing waits.

Pure, and the same on every node. Not handled here: when a node puts the record of a device that has
moved (``move_keeper``), crowds (``crowd``), and when a node shows an epoch (``shown``).
"""

from __future__ import annotations

from edgistry.cell import parent_of, resolution_of
from edgistry.codec import replace

from .schema import StoredService


def cell_in(service: StoredService, epoch: int) -> int:
    """The cell of ``service`` in the privacy epoch of that number, or later ones; 0: before all."""
    return service.cell if epoch >= service.since else service.before


def put_over(old: StoredService | None, new: StoredService, *, epoch: int) -> StoredService:
    """How ``new``, as its home node wants it, is kept when it is put in ``epoch`` over ``old``."""
    if old is None or not epoch:
        return new
    shown = cell_in(old, epoch)
    shown = parent_of(shown, min(resolution_of(shown), resolution_of(new.cell)))
    return new if shown == new.cell else replace(new, since=epoch + 1, before=shown)


def is_put(stored: StoredService | None, new: StoredService) -> bool:
    """Whether putting ``new`` over ``stored`` would change nothing that anybody sees."""
    return stored is not None and new == replace(stored, since=0, before=0)
