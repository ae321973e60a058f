"""The part of the demonstration about who learns what of a station, and who need not choose one.

What stands in the table is what the commands above it answered: to the operator of the station's
home node, to one client at two nodes, to another client, and to somebody who does not say who asks.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from demo_devices import AREA, ENTRY, HOME, OTHER, STATIONS, person

if TYPE_CHECKING:
    from demo import Demo

NAME, LATITUDE, LONGITUDE, _ = STATIONS[0]
ANY = (*AREA, "--type", "weather")
UNKNOWN = "-"


class Privacy:
    """What is told to whom about one of the stations of ``Stations``, which are called already."""

    def __init__(self, demo: Demo) -> None:
        self.demo = demo
        self.tell = demo.tell
        self.client = person(demo.directory / "client")
        self.other = person(demo.directory / "other")

    def show(self) -> None:
        """All of it, in order."""
        self.compare()
        self.explain()
        self.call_any()

    def compare(self) -> None:
        """What each of them knows of the station, side by side."""
        self.tell.step(f"Who knows what of the station in {NAME}")
        self.tell.fact("The operator of its home node asks there:")
        row = self._of_operator("list")
        paired = self._of_operator("paired")
        cell = row["cell"]
        self.tell.fact("A client asks two other nodes:")
        mine = self._found(ENTRY, self.client, cell)
        again = self._found(OTHER, self.client, cell)
        self.tell.fact("Another client asks, and then without saying who it is:")
        others = self._found(OTHER, self.other, cell)
        counts = self._ask(OTHER, self.other, "--browse")["counts"]
        [count] = [each for each in counts if each["cell"] == cell]
        handles = [each["handle"] for each in (mine, again, others)]
        if handles[0] != handles[1] or handles[0] == handles[2]:
            raise self.demo.failed(f"handles are not each client's own: {handles}")
        operator = {
            "name": row["name"],
            "position": f"{row['lat']:.4f},{row['lon']:.4f}",
            "device": paired["device"],
            "record": row["handle"],
            "handle": UNKNOWN,
        }
        self._check_unknown(operator, [mine, again, others, counts])
        columns = [
            (f"operator of node {HOME}", {**operator, **_seen(row)}),
            (f"a client, node {ENTRY}", {**_seen(mine), "handle": mine["handle"][:16]}),
            (f"the same, node {OTHER}", {**_seen(again), "handle": again["handle"][:16]}),
            ("another client", {**_seen(others), "handle": others["handle"][:16]}),
            ("who signs nothing", {"cell": cell, "type": count["type"]}),
        ]
        self.demo.facts["handles"] = handles
        self.tell.say("")
        self.tell.table(_side_by_side(columns))
        self.tell.say("")
        self.tell.fact(
            "One client has one handle for it, at every node, until the epoch ends; nobody"
        )
        self.tell.fact(
            "else has that one. Who signs nothing gets counts and no handle: here there is"
        )
        self.tell.fact(f"{count['services']} service of {count['owners']} owner in the cell")

    def explain(self) -> None:
        """What would be published of a place, before anything is."""
        self.tell.step("What would be published of a place? Computed here, told to nobody")
        where = ("--lat", str(LATITUDE), f"--lon={LONGITUDE}")
        self.tell.table(self.demo.run("edgistry", "privacy", "explain", *where, person=self.other))

    def call_any(self) -> None:
        """Somebody who was granted nothing yet, and minds only what kind of service it is."""
        self.tell.step("The other client does not choose: any weather station near Seattle will do")
        words = ("edgistry", "call", "--any", *ANY, "read", "--node", self.demo.url(OTHER))
        done = self.demo.run_fully(*words, person=self.other)
        self.tell.text(done.stderr + done.stdout)
        self.demo.facts["any"] = {"at": OTHER, "reading": json.loads(done.stdout)}
        self.tell.fact(f"node {OTHER} chose one; its home node granted it, sealed, on the way")

    # --- its parts -------------------------------------------------------------------------------

    def _of_operator(self, what: str) -> dict[str, Any]:
        """The station's row in `edgistry-node device list` or `paired`."""
        found = self.demo.run_json("edgistry-node", "device", what, self.demo.node(HOME))
        [row] = [each for each in found["devices"] if each["name"] == NAME]
        row_of: dict[str, Any] = row
        return row_of

    def _ask(self, at: int, whose: dict[str, str], *more: str) -> dict[str, Any]:
        words = ("edgistry", "discover", *ANY, "--node", self.demo.url(at), *more, "--json")
        answer: dict[str, Any] = json.loads(self.demo.run(*words, person=whose))
        return answer

    def _found(self, at: int, whose: dict[str, str], cell: str) -> dict[str, Any]:
        """The service in ``cell``: of these stations each has a cell of its own."""
        services = self._ask(at, whose)["services"]
        [service] = [each for each in services if each["cell"] == cell]
        service_of: dict[str, Any] = service
        return service_of

    def _check_unknown(self, operator: dict[str, str], told: list[Any]) -> None:
        """Nothing of what the operator knows beyond the published is in what was ``told``."""
        text = json.dumps(told)
        secret = [operator[each] for each in ("name", "device", "record")]
        for each in (*secret, str(LATITUDE), str(LONGITUDE)):
            if each in text:
                raise self.demo.failed(f"a client is told {each!r}")


def _seen(service: dict[str, Any]) -> dict[str, str]:
    """What is published of a service."""
    return {
        "type": service["type"],
        "cell": service["cell"],
        "actions": ",".join(sorted(service["actions"])),
    }


def _side_by_side(columns: list[tuple[str, dict[str, str]]]) -> str:
    """A table with a column for each of those who know something."""
    names = ("name", "position", "device", "record", "handle", "type", "cell", "actions")
    lines = ["\t".join(("", *(title for title, _ in columns)))]
    lines += [
        "\t".join((name, *(each.get(name, UNKNOWN) for _, each in columns))) for name in names
    ]
    return "\n".join(lines)
