"""What stands around the public API: budgets, slots, notes."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import abci_app.purse as purse_module
from abci_app.askers import SIGNED, address_of, claimed_tag
from abci_app.config import NodeConfig
from abci_app.doors import Doors, party_budget
from abci_app.http_signed import Signers
from abci_app.metrics import NodeMetrics
from abci_app.purse import CLIENTS_BEHIND, PartyBudget, Purse
from abci_app.slot_gate import SLOTTED, SlotGate
from edgistry.adapters.config import parse
from edgistry.adapters.http import Handler, Request, Response
from edgistry.errors import BudgetError, ConfigError, NotFoundError
from edgistry.query_cost import BASE, MAX_COST, cost_after, cost_before
from edgistry.requests_api import to_text
from edgistry.routes import OPERATIONS
from edgistry.signed_request import (
    CLIENT_HEADER,
    NONCE_HEADER,
    SIGNATURE_HEADER,
    TIME_HEADER,
    client_tag,
)

SLOT_US = 250_000


@dataclass
class HandClock:
    """Wound by hand: sleeping winds it."""

    now_us: int = 1_000_000_000
    left_us: list[int] = field(default_factory=list)

    async def sleep(self, seconds: float) -> None:
        self.now_us += round(seconds * 1_000_000)


async def answered(request: Request) -> Response:
    return Response(body=b"x" * 16 * 1024)


GOOD = b"g" * 64
NONCES = itertools.count()


def of(key: bytes, address: str = "10.0.0.1", signature: bytes = GOOD) -> Request:
    headers = {
        CLIENT_HEADER: to_text(key * 32),
        TIME_HEADER: "0",
        NONCE_HEADER: to_text(next(NONCES).to_bytes(16, "big")),
        SIGNATURE_HEADER: to_text(signature),
    }
    return Request(method="GET", path="/", address=address, headers=headers)


SIGNERS = Signers(verify=lambda _key, _message, signature: signature == GOOD, clock_us=lambda: 0)


def unsigned(address: str = "10.0.0.1") -> Request:
    return Request(method="GET", path="/", address=address)


# --- slots --------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 3 * SLOT_US), st.booleans(), st.booleans()), max_size=20),
)
async def test_answers_refusals_and_failures_leave_only_at_edges(
    work: list[tuple[int, bool, bool]],
) -> None:
    clock = HandClock()
    gate = SlotGate(slot_us=SLOT_US, clock_us=lambda: clock.now_us, sleep=clock.sleep)
    for takes_us, is_refused, is_bug in work:

        async def handler(
            request: Request,
            takes_us: int = takes_us,
            refused: bool = is_refused,
            bug: bool = is_bug,
        ) -> Response:
            clock.now_us += takes_us
            if refused:
                raise NotFoundError("no")
            if bug:
                raise RuntimeError("a bug")
            return Response()

        started_us = clock.now_us
        try:
            await gate.around("request_submit", handler)(unsigned())
        except (NotFoundError, RuntimeError):
            assert is_refused or is_bug
        assert clock.now_us % SLOT_US == 0
        assert clock.now_us - started_us < takes_us + SLOT_US
        clock.now_us += 12_345


async def test_jitter_is_added_behind_the_edge() -> None:
    clock = HandClock(now_us=1)
    gate = SlotGate(
        slot_us=SLOT_US,
        jitter_us=1000,
        clock_us=lambda: clock.now_us,
        draw=lambda bits: 1 << bits - 1,
        sleep=clock.sleep,
    )
    await gate.around("grant", answered)(unsigned())
    assert clock.now_us == SLOT_US + 500


async def test_what_is_about_no_single_service_leaves_at_once() -> None:
    gate = SlotGate(slot_us=SLOT_US)
    for name in ("discover", "status", "woof", "exchange"):
        assert gate.around(name, answered) is answered
    assert SlotGate(slot_us=0).around("grant", answered) is answered


def test_every_name_is_an_operation() -> None:
    names = {each.name for each in OPERATIONS}
    assert names >= SLOTTED
    assert names >= set(BASE) >= SIGNED


def test_all_that_is_about_one_service_waits_for_an_edge() -> None:
    names = {each.name for each in OPERATIONS if each.name.startswith("request_")}
    assert names | {"grant", "any_grant"} == SLOTTED


# --- budgets ------------------------------------------------------------------------------------


class Steady:
    now_s = 0.0

    def __call__(self) -> int:
        return round(self.now_s * 1_000_000)


def purse(burst: float = 10.0) -> tuple[Purse, Handler, Steady]:
    steady = Steady()
    made = Purse(rate_per_s=1.0, burst=burst, signers=SIGNERS, clock_us=steady)
    return made, made.around("discover", answered), steady


async def spend_all(handler: Handler, ask: Callable[[], Request], *, most: int = 1000) -> int:
    """How many questions were answered before one was refused."""
    for count in range(most):
        try:
            await handler(ask())
        except BudgetError:
            return count
    raise AssertionError("there is no end to it")


async def test_who_has_spent_a_budget_comes_back_when_told() -> None:
    made, handler, steady = purse()
    assert await spend_all(handler, unsigned) == 5  # 1 for asking, 1 for the answer
    with pytest.raises(BudgetError) as refused:
        await handler(unsigned())
    assert (refused.value.http_status, made.refused) == (429, 2)
    steady.now_s += refused.value.retry_after_s
    await handler(unsigned())


async def test_clients_have_budgets_of_their_own() -> None:
    _, handler, _ = purse()
    assert await spend_all(handler, lambda: of(b"a")) == 5
    assert await spend_all(handler, lambda: of(b"b")) == 5
    assert await spend_all(handler, unsigned) == 5


async def test_one_with_many_keys_has_not_as_many_budgets() -> None:
    _, handler, _ = purse()
    total = 0
    for number in range(256):
        try:
            await handler(of(bytes([number])))
            total += 1
        except BudgetError:
            pass
    assert total == 5 * CLIENTS_BEHIND, "1 for asking, 1 for the answer"
    await handler(of(b"z", address="10.0.0.2"))


async def test_an_address_pays_also_for_clients_that_have_spent_their_own() -> None:
    _, handler, _ = purse()
    assert await spend_all(handler, lambda: of(b"a")) == 5
    for _ in range(10 * CLIENTS_BEHIND):
        with pytest.raises(BudgetError):
            await handler(of(b"a"))
    with pytest.raises(BudgetError):
        await handler(of(b"b"))
    await handler(of(b"b", address="10.0.0.2"))


async def test_nobody_spends_what_is_anothers() -> None:
    made, handler, _ = purse()

    async def forged(request: Request) -> Response:
        raise NotFoundError("the signature does not verify")

    refusing = made.around("grant", forged)
    for _ in range(20):
        with pytest.raises(NotFoundError):
            await refusing(of(b"a", address="10.6.6.6"))
    assert await spend_all(handler, lambda: of(b"a")) == 5


async def test_whoever_repeats_what_another_has_signed_pays_for_it() -> None:
    _, handler, _ = purse()
    heard = of(b"a")
    await handler(heard)
    assert await spend_all(handler, lambda: replace(heard, address="10.6.6.6")) == 5
    assert await spend_all(handler, lambda: of(b"a")) == 4


async def test_questions_that_were_charged_are_not_remembered_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(purse_module, "MAX_REMEMBERED", 3)
    made, handler, _ = purse(burst=1000.0)
    asked = [of(b"a") for _ in range(10)]
    for each in asked:
        await handler(each)
    assert len(made._charged) == 3
    for each in asked[-3:]:
        assert made._is_copy(claimed_tag("discover", each) or b"", each)


async def test_a_nonce_that_is_none_is_for_the_operation_to_refuse() -> None:
    _, handler, _ = purse()
    asked = of(b"a")
    await handler(replace(asked, headers={**asked.headers, NONCE_HEADER: "\udcff"}))


async def test_copies_that_come_together_are_charged_once() -> None:
    made, handler, _ = purse()
    come = asyncio.Event()

    async def slow(request: Request) -> Response:
        await come.wait()
        return Response(body=b"x" * 16 * 1024)

    asking = made.around("discover", slow)
    copies = [asyncio.ensure_future(asking(each)) for each in [of(b"a")] * 5]
    await asyncio.sleep(0)
    come.set()
    await asyncio.gather(*copies)
    assert await spend_all(handler, lambda: of(b"a")) == 4


async def test_what_is_left_to_a_client_shows_to_nobody_else() -> None:
    made, handler, _ = purse()
    assert await spend_all(handler, lambda: of(b"a")) == 5

    async def refusing(request: Request) -> Response:
        raise NotFoundError("the signature does not verify")

    forged = made.around("discover", refusing)
    for name in (b"a", b"b"):  # one who has spent all, and one who has asked for nothing
        with pytest.raises(NotFoundError):
            await forged(of(name, address="10.6.6.6", signature=bytes(64)))
    with pytest.raises(BudgetError):
        await handler(of(b"a"))


async def test_a_party_pays_for_its_requests() -> None:
    steady = Steady()
    budget = PartyBudget(rate_per_s=1.0, burst=1000.0, clock_us=steady)
    for _ in range(1000):
        budget.spend(b"party")
    with pytest.raises(BudgetError):
        budget.spend(b"party")
    budget.spend(b"another")
    budget.give_back(b"party")
    budget.spend(b"party")


def test_an_address_pays_for_its_whole_network() -> None:
    def at(address: str) -> bytes:
        return address_of(unsigned(address))

    assert at("2001:db8::1") == at("2001:db8::2:1") != at("2001:db8:0:1::1")
    assert at("10.0.0.1") == at("::ffff:10.0.0.1") != at("10.0.0.2")
    assert at("") == at("")
    assert at("nonsense:") == b"nonsense:"


def test_claimed_clients_are_read_and_nonsense_is_nobody() -> None:
    assert claimed_tag("grant", of(b"a")) == client_tag(b"a" * 32)
    for text in ("", "!", to_text(b"short")):
        request = Request(method="GET", path="/", headers={CLIENT_HEADER: text})
        assert claimed_tag("grant", request) is None


async def test_who_is_named_without_a_signature_that_is_checked_pays_nothing() -> None:
    noted: list[bytes] = []
    made = Purse(rate_per_s=1.0, burst=10.0, signers=SIGNERS, clock_us=Steady())
    doors = Doors(purse=made, note=lambda name, request, response, who: noted.append(who))
    victim = of(b"a", address="10.6.6.6")
    submit, watch = doors.around("request_submit", answered), doors.around("watch", answered)
    assert await spend_all(submit, lambda: victim) == 5  # as an address, not sixteen times as much
    with pytest.raises(BudgetError):
        await watch(replace(victim, method="HEAD"))
    assert noted == [b"10.6.6.6"] * 5
    assert await spend_all(doors.around("discover", answered), lambda: of(b"a")) == 5


def test_dear_questions_cost_more_and_free_ones_nothing() -> None:
    plain = cost_before("discover", {"region": "bay"}, 0)
    wide = cost_before("discover", {"radius_km": "500"}, 0)
    polygon = cost_before("discover_by_body", {}, 1_000_000)
    assert plain == 1.0 < wide < polygon < MAX_COST
    assert cost_before("status", {}, 9) == cost_after("status", 9) == 0.0
    assert cost_before("discover", {"radius_km": "nan"}, 0) == 1.0
    assert cost_before("discover", {"radius_km": "x"}, 0) == 1.0
    assert cost_after("discover", 1 << 40) == MAX_COST


# --- all of it ----------------------------------------------------------------------------------


def configured(text: str) -> NodeConfig:
    return parse(f'name = "n"\n{text}', NodeConfig, source="node.toml")


async def test_doors_are_what_node_toml_asks_for() -> None:
    off = Doors.of(configured("[privacy]\nslot_ms = 0\n[budgets]\nrate_per_s = 0\n"))
    assert off.around("grant", answered) is answered
    assert off.purse is None
    off.watch(NodeMetrics())
    assert party_budget(configured("[budgets]\nrate_per_s = 0\n")) is None
    default = Doors.of(configured(""))
    assert default.around("grant", answered) is not answered
    default.watch(NodeMetrics())
    assert party_budget(configured("")) is not None
    for wrong in (
        "[privacy]\nslot_ms = -1\n",
        "[privacy]\nslot_ms = 60001\n",
        "[budgets]\nburst = 999\n",
        "[budgets]\nrate_per_s = -1\n",
        "[audit]\nhistory = 0\n",
        "[audit]\ndays = 0\n",
    ):
        with pytest.raises(ConfigError):
            configured(wrong)


async def test_what_was_asked_is_noted_with_who_is_known_to_have_asked() -> None:
    heard: list[tuple[str, bool, bytes]] = []
    doors = Doors(note=lambda name, _, response, who: heard.append((name, bool(response), who)))

    async def refused(request: Request) -> Response:
        raise NotFoundError("no")

    await doors.around("discover", answered)(of(b"a"))
    await doors.around("discover", answered)(unsigned())
    with pytest.raises(NotFoundError):
        await doors.around("grant", refused)(of(b"a"))
    assert doors.around("status", answered) is answered
    assert heard == [
        ("discover", True, client_tag(b"a" * 32)),
        ("discover", True, b"10.0.0.1"),
        ("grant", False, b"10.0.0.1"),
    ]


async def test_real_sleep_reaches_the_edge() -> None:
    gate = SlotGate(slot_us=20_000)
    await asyncio.wait_for(gate.around("grant", answered)(unsigned()), 5)
