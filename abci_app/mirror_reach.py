"""Who may do what with the WooFs that a node keeps for its devices: mirrors, and results.

Rules kept here:

* A mirror says what the device said, so no request changes it: its numbers are counted on. Nobody
  creates anything where mirrors may come to be, either.
* What a paired device has mirrored is not deleted. What it has left behind may be, for the room.
* Handlers that run for a device, and what these fire, reach the WooFs of that device and no other:
  they read its mirrors and results and put into its results. They know them by the device's names.

Not handled here: keeping mirrors (``mirror_keeper``), running handlers.
"""

from __future__ import annotations

import functools

from edgistry.envelope import Operation
from edgistry.errors import NoRightError
from edgistry.faas_scope import Scope
from edgistry.kv import KeyValue
from edgistry.woof import split_name
from edgistry.woof_triggers import Trigger

from .mirror import CopyRecord, copy_component, copy_key, is_mirror_namespace, read_copy
from .mirror_keeper import copies_of
from .pairing import PairingTable


class MirrorReach:
    """Guards the WooFs of devices whose pairings and mirrors are in ``store``."""

    def __init__(self, store: KeyValue) -> None:
        self._store = store
        self._table = PairingTable(store)

    def scope_of(self, trigger: Trigger) -> Scope | None:
        """What the invocation may reach; ``None``: it is not for a device."""
        namespace, _, _ = trigger.woof.partition("/")
        if not is_mirror_namespace(namespace):
            return None
        found = self._copy(trigger.woof)
        return Scope(
            woof=trigger.woof if found is None else found.woof,
            real_name=functools.partial(_real_name, namespace),
            check_put=self._check_put,
        )

    def check_change(self, operation: Operation, target: str) -> None:
        """Return if a request may change ``target`` so.

        Raises:
            NoRightError: it may not, whatever its capability allows.
        """
        namespace, _, woof = target.partition("/")
        if not is_mirror_namespace(namespace):
            return
        if operation != Operation.DELETE:
            raise NoRightError(f"{target!r} is the node's copy of what a device has: read it")
        if woof and self._is_kept(target):
            raise NoRightError(
                f"{target!r} is kept for a device that is paired; it can be deleted when the device"
                " has left, or mirrors it no longer"
            )

    def _is_kept(self, name: str) -> bool:
        found = self._copy(name)
        paired = None if found is None else self._table.by_device(found.device)
        return paired is not None and any(each.name == name for each in copies_of(paired))

    def _check_put(self, name: str) -> None:
        found = self._copy(name)
        if found is None or not found.is_result:
            raise NoRightError(
                f"{name!r} is no [[result]] of the device's manifest, and handlers that run for"
                " the device put into nothing else"
            )

    def _copy(self, name: str) -> CopyRecord | None:
        data = self._store.get(copy_key(name))
        return None if data is None else read_copy(data)


def _real_name(namespace: str, woof: str) -> str:
    split_name(woof)
    return f"{namespace}/{copy_component(woof)}"
