"""Devices that show more of where they are than node.toml allows by now.

Rules kept here:

* A limit is kept when a device is registered or paired. One that is tightened later changes and
  withdraws nothing by itself: its owner was promised otherwise, and a withdrawn service is gone for
  its clients. So the operator is told, with how many they are, until they have been registered
  anew or withdrawn.
* Looking at a million devices holds up nobody, and happens only where there are limits.

Not handled here: refusing what is registered now (``registration``, ``pairing_desk``).
"""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import Final

from edgistry.adapters.log import get_logger
from edgistry.errors import PolicyRefusedError
from edgistry.kv import KeyValue
from edgistry.policy import PolicyLimits, PrivacyPolicy, check_policy

from .admin_api import DeviceEntry
from .devices import Device, DeviceTable
from .slices import Slices

LOOK_AGAIN_S: Final = 60.0
_PORTION: Final = 256

logger = get_logger("edgistry.node")


class OverLimits:
    """The devices in ``store`` whose policies show more than ``limits`` allow."""

    def __init__(self, store: KeyValue, limits: PolicyLimits) -> None:
        self._table = DeviceTable(store)
        self._limits = limits
        self._keys: frozenset[bytes] = frozenset()

    async def run(self) -> None:
        """Look now, and again until there are none: none can come while the node runs."""
        if self._limits == PolicyLimits():
            return
        await self.look()
        for warning in self.warnings():
            logger.warning(warning)
        while self._keys:
            await asyncio.sleep(LOOK_AGAIN_S)
            await self.look_again()

    async def look(self) -> None:
        """Look at all devices."""
        slices = Slices()
        found: set[bytes] = set()
        after = b""
        # In portions, so that no iterator of the store is open while others run.
        while devices := list(islice(self._table.scan(after), _PORTION)):
            found.update(each.key for each in devices if self._is_over(each))
            after = devices[-1].key
            await slices.rest()
        self._keys = frozenset(found)

    async def look_again(self) -> None:
        """Look at those that were over the limits."""
        slices = Slices()
        left: set[bytes] = set()
        for key in self._keys:
            device = self._table.by_key(key)
            if device is not None and self._is_over(device):
                left.add(key)
            await slices.rest()
        self._keys = frozenset(left)

    def warnings(self) -> list[str]:
        """What the operator has to decide."""
        if not self._keys:
            return []
        return [
            f"{len(self._keys)} device(s) are listed that show more than [privacy] in node.toml"
            " allows now; `edgistry-node device list DIR --over-limits` names them: register or"
            " pair them anew with another policy, or withdraw them"
        ]

    def _is_over(self, device: Device) -> bool:
        return not device.withdrawing and is_over(device.policy, self._limits)


def is_over(policy: PrivacyPolicy, limits: PolicyLimits) -> bool:
    """Whether ``policy`` shows more than ``limits`` allow."""
    try:
        check_policy(policy, limits)
    except PolicyRefusedError:
        return True
    return False


def is_entry_over(entry: DeviceEntry, limits: PolicyLimits) -> bool:
    """The same of a device as ``device list`` has it; of one that leaves nothing is to be done."""
    policy = PrivacyPolicy(resolution=entry.resolution, noise_m=entry.noise_m, crowd=entry.crowd)
    return entry.state != "withdrawing" and is_over(policy, limits)
