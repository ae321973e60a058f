"""Four nodes, each with a crowd of devices of one type, and a client at each, as processes.

The devices of a node are one process, which runs each of them as its own program would. They wake
when they like, some are always awake; to anycast all of them wake equally soon. A device can vanish
for good in three ways: it is silent, its owner has it forgotten, or the operator of its node.

Not handled here: breaking anything else (``any_chaos``), and what a client does (``any_client``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from abci_app.admin_client import AdminClient
from device_agent.directory import AgentDirectory, create, read_device_id
from edgistry.adapters.grant_client import ClientKeys
from edgistry.adapters.leveldb import LevelKeyValue
from edgistry.adapters.node_client import BlockingNodeClient
from edgistry.errors import NoEpochKeyError, Refused
from edgistry.woof_store import WoofStore

from .agents import EFFECTS, EFFECTS_WOOF, device_manifest
from .any_client import AREA, write_identity
from .following_client import read_lines
from .harness import Cluster
from .linked_world import FollowerProcess, LinkedWorld, PythonProcess, agent_config
from .programs import run

TYPE = "valve"
ALL = (0, 1, 2, 3)
PERIODS_S = (0, 1, 2)
"""Of devices, in turns."""

HANDLERS = """
import asyncio
import pathlib
from edgistry.handlers import handler

@handler(first_wait_s=0.1, longest_wait_s=0.5)
async def do(context, woof, seq, element):
    with (pathlib.Path(__file__).parents[2] / "begun").open("ab") as file:
        file.write(b"{name}\\n")
    await context.put("ledger/effects", element)
    await asyncio.sleep(0.1)
    return b"{name} did " + element

@handler
async def read(context, woof, seq, element):
    return b"{name} read"
"""
SETTINGS = {"do": "history = 10000", "read": "read = true\nhistory = 10000"}


class Device:
    """One of a crowd; it says in its answers which one it is."""

    def __init__(self, number: int, folder: Path) -> None:
        self.name = f"device{number}"
        # Modules have their names for as long as the process of the crowd lives.
        module = f"valve{number}"
        self.layout: AgentDirectory = create(
            folder / self.name,
            config=agent_config(PERIODS_S[number % len(PERIODS_S)], module=module),
            manifest=device_manifest(TYPE, **SETTINGS) + EFFECTS_WOOF,
            handlers=HANDLERS.format(name=self.name),
        )
        self.id = read_device_id(self.layout)
        self._kept: list[bytes] | None = None

    def agent(self, command: str, *words: str, typed: str = "") -> None:
        """``edgistry-agent COMMAND DIR WORDS``, of a device that does not run."""
        run("edgistry-agent", command, str(self.layout.root), *words, typed=typed)

    def effects(self) -> list[bytes]:
        """What calls have done, in order; of a device that does not run."""
        if self._kept is None:
            store = LevelKeyValue(self.layout.database)
            try:
                return [element for _, element in WoofStore(store).scan(EFFECTS, 1)]
            finally:
                store.close()
        return self._kept

    def forget(self) -> None:
        """Its owner has it destroyed; what it did is remembered here."""
        self._kept = self.effects()
        self.agent("forget", "--yes")


class Crowd(PythonProcess):
    """The devices of the node ``home``, one process."""

    MODULE = "device_crowd"

    def __init__(self, folder: Path, *, home: int, numbers: Sequence[int]) -> None:
        super().__init__(folder)
        self.home = home
        self.there = [Device(number, folder) for number in numbers]
        self.gone: list[Device] = []
        """Those that vanished."""

    @property
    def words(self) -> list[str]:
        return [str(device.layout.root) for device in self.there]

    @property
    def begun(self) -> Path:
        """A file that becomes longer whenever a handler begins that changes something."""
        return self.folder / "begun"

    def last_at_work(self) -> Device | None:
        """Whose handler has begun last, unless it has vanished since."""
        names = self.begun.read_text().split() if self.begun.exists() else []
        return next((device for device in self.there if names[-1:] == [device.name]), None)


class AnyClient(FollowerProcess):
    """A client that has no service in mind."""

    MODULE = "any_client"

    def told(self) -> list[dict[str, object]]:
        """What ``call_any`` did for it, unless it was killed meanwhile."""
        return read_lines(self.folder / "told")


class AnyWorld(LinkedWorld):
    """Four nodes, ``devices`` at each, and a client at each."""

    def __init__(self, cluster: Cluster, stack: contextlib.ExitStack, *, devices: int) -> None:
        super().__init__(cluster, stack, entries=ALL, homes=ALL)
        self.crowds = [
            Crowd(
                cluster.parent / f"crowd{home}",
                home=home,
                numbers=range(home * devices, (home + 1) * devices),
            )
            for home in ALL
        ]
        self.clients = [self._client(entry) for entry in ALL]
        for each in self.others:
            stack.callback(each.kill)

    @property
    def others(self) -> list[Crowd | AnyClient]:
        """All that are no nodes."""
        return [*self.crowds, *self.clients]

    @property
    def devices(self) -> list[Device]:
        """Those that have not vanished."""
        return [device for crowd in self.crowds for device in crowd.there]

    def _client(self, entry: int) -> AnyClient:
        link = self.link(self.cluster.port(entry), entry=entry)
        folder = self.cluster.parent / f"client{entry}"
        client = AnyClient(folder, entry=entry, url=f"http://127.0.0.1:{link}")
        write_identity(folder, ClientKeys.generate())
        return client

    def begin(self) -> None:
        """Start everything; nobody asks for any service before all are listed at all nodes."""
        self.cluster.start()
        for crowd in self.crowds:
            link = self.link(self.cluster.port(crowd.home), home=crowd.home)
            codes = self.pairing_codes(crowd.home, len(crowd.there))
            for device, code in zip(crowd.there, codes, strict=True):
                url = f"http://127.0.0.1:{link}"
                device.agent("pair", "--node", url, "--code", "-", typed=code)
            crowd.start()
        for number in ALL:
            self.cluster.wait_until(
                f"all services are listed at node {number}",
                lambda: self._listed(number) == len(self.devices),  # noqa: B023
            )
        for client in self.clients:
            client.start()

    def _listed(self, number: int) -> int:
        """Services that a node lists."""
        with (
            contextlib.suppress(NoEpochKeyError),
            BlockingNodeClient(self.cluster.api(number)) as node,
        ):
            return len(list(node.services(type=TYPE, limit=1000, **AREA)))
        return 0

    def told(self) -> list[dict[str, object]]:
        """What ``call_any`` did for clients that lived on."""
        return [line for client in self.clients for line in client.told()]

    def effects(self) -> dict[str, list[str]]:
        """Which devices an element was put at by a call, of all that ever were; all are stopped."""
        found: dict[str, list[str]] = {}
        for crowd in self.crowds:
            crowd.kill()
            for device in [*crowd.there, *crowd.gone]:
                for element in device.effects():
                    found.setdefault(element.decode(), []).append(device.name)
        return found

    # --- devices that vanish --------------------------------------------------------------------

    def vanish_silently(self, crowd: Crowd, device: Device) -> None:
        """It is never heard of again, and nobody says so. The crowd is dead, and stays so."""
        crowd.there.remove(device)
        crowd.gone.append(device)

    def vanish_by_owner(self, crowd: Crowd, device: Device) -> None:
        """Its owner has it forgotten. The crowd is dead, and stays so."""
        self.vanish_silently(crowd, device)
        device.forget()

    def vanish_by_operator(self, crowd: Crowd, device: Device) -> bool:
        """The operator of its node has it forgotten while it runs; whether the node has heard."""
        with (
            contextlib.suppress(Refused),
            AdminClient(self.cluster.directory(crowd.home)) as admin,
        ):
            admin.revoke_device(device.id, forget=True)
            crowd.there.remove(device)
            crowd.gone.append(device)
            return True
        return False


@contextlib.contextmanager
def any_service_world(*, devices: int) -> Iterator[AnyWorld]:
    """Four nodes, ``devices`` at each, and what belongs to them, not started."""
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(Cluster())
        yield AnyWorld(cluster, stack, devices=devices)
