"""Named WooFs: what each operation does and refuses, on both stores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgistry.adapters.leveldb import LevelKeyValue
from edgistry.errors import (
    CorruptDatabaseError,
    ElementEvictedError,
    ElementLostError,
    ElementNotYetError,
    EmptyWoofError,
    InvalidValueError,
    LimitExceededError,
    MissingNamespaceError,
    MissingWoofError,
    NamespaceNotEmptyError,
    TooLargeError,
    WoofExistsError,
)
from edgistry.kv import KeyValue, MemoryKeyValue
from edgistry.woof import MAX_NUMBER, WoofId
from edgistry.woof_keys import ELEMENTS, WOOFS, elements_of, number_bytes
from edgistry.woof_state import MAX_OPEN

from .woof_tools import World


@pytest.fixture(params=["memory", "leveldb"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KeyValue]:
    opened: KeyValue = (
        MemoryKeyValue() if request.param == "memory" else LevelKeyValue(tmp_path / "woofs.ldb")
    )
    yield opened
    opened.close()


@pytest.fixture
def world(store: KeyValue) -> World:
    return World(store)


# --- the window --------------------------------------------------------------------------------


def test_window_is_the_formula_for_every_history_to_64_and_200_puts(store: KeyValue) -> None:
    world = World(store)
    for history in range(1, 65):
        name = f"w/h{history}"
        world.create(name, history)
        elements = {}
        for number in range(1, 201):
            elements[number] = f"{history}/{number}".encode()
            assert world.put(name, elements[number]) == number
            earliest = max(1, number - history + 1)
            window = world.woofs.window(name)
            assert (window.earliest, window.latest) == (earliest, number)
            assert world.woofs.get(name, earliest) == elements[earliest]
            assert world.woofs.newest(name) == (number, elements[number])
            with pytest.raises(ElementNotYetError):
                world.woofs.get(name, number + 1)
            if earliest > 1:
                with pytest.raises(ElementEvictedError):
                    world.woofs.get(name, earliest - 1)
            if number % 20 == 0:
                expected = [(at, elements[at]) for at in range(earliest, number + 1)]
                assert list(world.woofs.scan(name)) == expected
                assert world.woofs.tail(name, 1000) == expected[::-1]


def test_evicted_elements_leave_the_store(world: World) -> None:
    world.create("a/b", 3)
    for _ in range(50):
        world.put("a/b", b"x")
    kept = [key for key, _ in world.store.scan(ELEMENTS, ELEMENTS + b"\xff")]
    assert len(kept) == 3 + 1  # and the end mark


def test_a_put_changes_at_most_two_keys(world: World) -> None:
    world.create("a/b", 1)
    world.put("a/b", b"x")
    with world.woofs.lock:
        staging = world.woofs.begin()
        staging.put("a/b", b"y")
        assert len(staging.changes) == 2
        staging.take_back()


# --- what CSPOT's ring gets wrong ----------------------------------------------------------------
# CSPOT keeps a WooF as a ring of slots in mapped memory, `head` and `tail` being slot numbers
# (woofc.c: WooFAppend, WooFRead, WooFReadTail, WooFEarliest).


def test_ring_fault_newest_of_an_empty_woof_is_a_refusal_and_not_zeros(world: World) -> None:
    # The ring compares numbers of slots that were never written, 0 <= 0 <= 0, and copies one.
    world.create("a/b", 4)
    with pytest.raises(EmptyWoofError):
        world.woofs.newest("a/b")
    with pytest.raises(EmptyWoofError):
        world.woofs.get("a/b", 1)
    assert world.woofs.tail("a/b", 4) == []
    assert list(world.woofs.scan("a/b")) == []


@pytest.mark.parametrize("history", [2, 3, 4, 5])
def test_ring_fault_tail_does_not_repeat_an_element_where_the_ring_wraps(
    world: World, history: int
) -> None:
    # Stepping back from slot 0 the ring goes to slot 0 again, not to its last one.
    world.create("a/b", history)
    for number in range(1, 3 * history + 1):
        world.put("a/b", b"%d" % number)
        tail = [at for at, _ in world.woofs.tail("a/b", history)]
        assert len(set(tail)) == len(tail)


@pytest.mark.parametrize("history", [1, 2, 3, 4, 5])
def test_ring_fault_tail_has_the_oldest_element_too(world: World, history: int) -> None:
    # Once the ring is full its tail slot holds an element, but reading stops before it.
    world.create("a/b", history)
    for number in range(1, 3 * history + 1):
        world.put("a/b", b"%d" % number)
        earliest = max(1, number - history + 1)
        assert world.woofs.tail("a/b", history)[-1] == (earliest, b"%d" % earliest)


@pytest.mark.parametrize("history", [1, 2, 3, 4, 5])
def test_ring_fault_earliest_is_a_number_that_can_be_got_and_not_a_slot(
    world: World, history: int
) -> None:
    # The ring answers (tail + 1) % history; with a history of 1 that is always 0.
    world.create("a/b", history)
    for number in range(1, 3 * history + 1):
        world.put("a/b", b"%d" % number)
        earliest = world.woofs.earliest("a/b")
        assert earliest == max(1, number - history + 1)
        assert world.woofs.get("a/b", earliest) == b"%d" % earliest


def test_creating_again_does_not_empty_the_woof(world: World) -> None:
    # CSPOT opens the file with "w+" and so truncates it.
    assert world.create("a/b", 4)
    world.put("a/b", b"x")
    assert not world.create("a/b", 4)
    assert world.woofs.newest("a/b") == (1, b"x")


def test_a_handler_gets_its_own_element_although_the_history_has_moved_on(world: World) -> None:
    # In the ring later puts overwrite the slot before its handler has read it.
    world.create("a/b", 1)
    for number in range(1, 6):
        world.put("a/b", b"%d" % number, handler="h")
    due = [(each.number, each.element) for each in world.woofs.triggers("h")]
    assert due == [(number, b"%d" % number) for number in range(1, 6)]


# --- reading -----------------------------------------------------------------------------------


def test_missing_empty_evicted_and_future_are_four_refusals(world: World) -> None:
    with pytest.raises(MissingWoofError):
        world.woofs.get("a/b", 1)
    world.create("a/b", 2)
    with pytest.raises(EmptyWoofError):
        world.woofs.get("a/b", 1)
    for _ in range(3):
        world.put("a/b", b"x")
    with pytest.raises(ElementEvictedError):
        world.woofs.get("a/b", 1)
    with pytest.raises(ElementNotYetError):
        world.woofs.get("a/b", 4)
    with pytest.raises(InvalidValueError):
        world.woofs.get("a/b", 0)


def test_every_reading_operation_refuses_a_missing_woof(world: World) -> None:
    world.create("a/c", 2)
    woofs = world.woofs
    for read in (woofs.info, woofs.window, woofs.latest, woofs.earliest, woofs.newest, woofs.scan):
        with pytest.raises(MissingWoofError):
            read("a/b")
    with pytest.raises(MissingWoofError):
        woofs.tail("a/b", 1)


def test_scan_gives_the_part_of_the_range_that_is_readable(world: World) -> None:
    world.create("a/b", 4)
    for number in range(1, 8):
        world.put("a/b", b"%d" % number)

    def numbers(*bounds: int) -> list[int]:
        return [at for at, _ in world.woofs.scan("a/b", *bounds)]

    assert numbers() == [4, 5, 6, 7]
    assert numbers(5) == [5, 6, 7]
    assert numbers(-3, 5) == [4, 5]
    assert numbers(6, 100) == [6, 7]
    assert numbers(6, 5) == numbers(8, 9) == numbers(1, 3) == []


def test_tail_gives_the_newest_first_and_no_more_than_asked_for(world: World) -> None:
    world.create("a/b", 4)
    for number in range(1, 8):
        world.put("a/b", b"%d" % number)
    assert [at for at, _ in world.woofs.tail("a/b", 2)] == [7, 6]
    assert [at for at, _ in world.woofs.tail("a/b", 99)] == [7, 6, 5, 4]
    assert world.woofs.tail("a/b", 0) == world.woofs.tail("a/b", -1) == []


def test_woofs_with_neighbouring_ids_do_not_mix(world: World) -> None:
    world.create("a/b", 3)
    world.create("a/c", 3)
    world.put("a/c", b"c")
    assert world.woofs.latest("a/b") == 0
    world.put("a/b", b"b")
    assert list(world.woofs.scan("a/b")) == [(1, b"b")]
    assert list(world.woofs.scan("a/c")) == [(1, b"c")]


def test_more_woofs_than_are_kept_in_memory_all_work(store: KeyValue) -> None:
    world = World(store)
    count = MAX_OPEN + 50
    world.decide(lambda staging: staging.create_namespace("many"))
    for at in range(count):
        world.decide(lambda staging, at=at: staging.create(f"many/w{at}", 2))  # type: ignore[misc]
        world.put(f"many/w{at}", b"%d" % at)
    assert len(world.woofs._state.open) <= MAX_OPEN
    for at in (0, 1, count // 2, count - 1):
        assert world.woofs.newest(f"many/w{at}") == (1, b"%d" % at)
        assert world.put(f"many/w{at}", b"again") == 2


def test_an_element_that_damage_has_taken_is_told_and_not_stepped_over(world: World) -> None:
    world.create("a/b", 10)
    for number in range(1, 6):
        world.put("a/b", b"%d" % number)
    prefix = elements_of(world.woofs.info("a/b").id)
    world.store.write([(prefix + number_bytes(number), None) for number in (2, 3)], sync=False)
    with pytest.raises(ElementLostError, match="element 2 ") as get_refused:
        world.woofs.get("a/b", 2)
    scanned = world.woofs.scan("a/b")
    assert next(scanned) == (1, b"1")
    with pytest.raises(ElementLostError, match="element 2 ") as scan_refused:
        next(scanned)
    assert (get_refused.value.resume_at, scan_refused.value.resume_at) == (3, 4)
    assert [at for at, _ in world.woofs.scan("a/b", 4)] == [4, 5]


def test_a_record_that_does_not_decode_is_refused_as_damage(world: World) -> None:
    world.store.write([(WOOFS + b"a/b", b"\x93\x01\x02")], sync=False)
    with pytest.raises(CorruptDatabaseError, match="WoofRecord"):
        world.woofs.info("a/b")


# --- putting -----------------------------------------------------------------------------------


def test_numbers_go_on_after_a_restart(world: World) -> None:
    world.create("a/b", 2)
    for _ in range(5):
        world.put("a/b", b"x")
    world.restart()
    assert world.put("a/b", b"y") == 6
    assert [at for at, _ in world.woofs.scan("a/b")] == [5, 6]


def test_oversized_and_wrong_sized_elements_are_refused_and_take_no_number(world: World) -> None:
    world.create("a/any", 2)
    world.create("a/eight", 2, element_size=8)
    with pytest.raises(TooLargeError):
        world.put("a/any", bytes(65537))
    with pytest.raises(InvalidValueError):
        world.put("a/eight", b"seven b")
    with pytest.raises(TooLargeError):
        world.put("a/eight", b"nine byte")
    assert world.put("a/any", bytes(65536)) == 1
    assert world.put("a/eight", b"8 bytes.") == 1


def test_a_buffer_is_copied_so_that_changing_it_later_changes_nothing(world: World) -> None:
    world.create("a/b", 2)
    buffer = bytearray(b"before")
    with world.woofs.lock:
        staging = world.woofs.begin()
        staging.put("a/b", buffer)  # type: ignore[arg-type]
        buffer[:] = b"after!"
        world.store.write(staging.changes, sync=False)
        staging.settle()
    assert world.woofs.get("a/b", 1) == b"before"


def test_text_is_no_element(world: World) -> None:
    world.create("a/b", 2)
    with pytest.raises(TypeError):
        world.put("a/b", "text")  # type: ignore[arg-type]


def test_the_last_number_is_given_and_then_no_more(world: World) -> None:
    world.create("a/b", 2)
    prefix = elements_of(world.woofs.info("a/b").id)
    world.store.write([(prefix + number_bytes(MAX_NUMBER - 1), b"planted")], sync=False)
    world.restart()
    assert world.put("a/b", b"last") == MAX_NUMBER
    with pytest.raises(LimitExceededError):
        world.put("a/b", b"too many")
    assert world.woofs.newest("a/b") == (MAX_NUMBER, b"last")
    assert [at for at, _ in world.woofs.scan("a/b")] == [MAX_NUMBER - 1, MAX_NUMBER]


# --- creating and deleting ---------------------------------------------------------------------


def test_a_woof_needs_its_namespace(world: World) -> None:
    with pytest.raises(MissingNamespaceError):
        world.decide(lambda staging: staging.create("a/b", 2))
    assert world.decide(lambda staging: staging.create_namespace("a"))
    assert not world.decide(lambda staging: staging.create_namespace("a"))
    assert world.decide(lambda staging: staging.create("a/b", 2))


@pytest.mark.parametrize(("history", "element_size"), [(5, 0), (4, 8)])
def test_creating_again_with_other_parameters_is_refused(
    world: World, history: int, element_size: int
) -> None:
    world.create("a/b", 4)
    world.put("a/b", b"x")
    with pytest.raises(WoofExistsError, match="history 4 and element size 0"):
        world.create("a/b", history, element_size)
    assert world.woofs.info("a/b").history == 4
    assert world.woofs.newest("a/b") == (1, b"x")


@pytest.mark.parametrize("history", [0, 2**33])
def test_creating_with_history_out_of_range_is_refused(world: World, history: int) -> None:
    with pytest.raises(InvalidValueError):
        world.create("a/b", history)
    with pytest.raises(MissingWoofError):
        world.woofs.info("a/b")


def test_lists_are_of_what_exists_and_sorted(world: World) -> None:
    for name in ("b/z", "b/a", "a/x", "b.c/q"):
        world.create(name, 3)
    world.put("b/a", b"x")
    assert world.woofs.namespaces() == ["a", "b", "b.c"]
    assert [(each.name, each.window.latest) for each in world.woofs.woofs("b")] == [
        ("b/a", 1),
        ("b/z", 0),
    ]
    assert world.woofs.woofs("nowhere") == []


def test_a_deleted_woof_is_missing_and_a_new_one_of_its_name_is_another(world: World) -> None:
    world.create("a/b", 3)
    for _ in range(5):
        world.put("a/b", b"old", idempotency_key=b"key")
    before = world.woofs.info("a/b").id
    world.decide(lambda staging: staging.delete("a/b"))
    for refused in (lambda: world.woofs.get("a/b", 1), lambda: world.put("a/b", b"x")):
        with pytest.raises(MissingWoofError):
            refused()
    with pytest.raises(MissingWoofError):
        world.decide(lambda staging: staging.delete("a/b"))
    assert world.create("a/b", 7)
    assert world.woofs.info("a/b").id != before
    assert world.put("a/b", b"new", idempotency_key=b"key") == 1
    assert list(world.woofs.scan("a/b")) == [(1, b"new")]


def test_sweeping_removes_all_of_a_deleted_woof_and_nothing_else_in_bounded_steps(
    world: World,
) -> None:
    world.create("a/kept", 30)
    before = dict(world.store.scan(b"", None))
    world.create("a/b", 20)
    for number in range(47):
        world.put("a/b", b"x", idempotency_key=b"%d" % number)
    world.decide(lambda staging: staging.delete("a/b"))
    left = [world.woofs.has_garbage]
    for _ in range(4):
        world.restart()  # it may happen at any moment
        with world.woofs.lock:
            staging = world.woofs.begin()
            assert staging.sweep(6)
            assert len(staging.changes) <= 6 * 3 + 2
            world.store.write(staging.changes, sync=False)
            staging.settle()
        left.append(world.woofs.has_garbage)
    assert left == [True, True, True, True, False]
    assert not world.decide(lambda staging: staging.sweep(6))
    after = dict(world.store.scan(b"", None))
    assert set(after) - set(before) == set()
    assert world.woofs.info("a/kept").id == WoofId(1)


def test_a_namespace_is_deleted_only_when_it_is_empty(world: World) -> None:
    world.create("a/b", 3)
    with pytest.raises(NamespaceNotEmptyError):
        world.decide(lambda staging: staging.delete_namespace("a"))
    world.decide(lambda staging: staging.delete("a/b"))
    world.decide(lambda staging: staging.delete_namespace("a"))
    with pytest.raises(MissingNamespaceError):
        world.decide(lambda staging: staging.delete_namespace("a"))
    assert world.woofs.namespaces() == []


def test_a_namespace_that_is_a_prefix_of_another_is_told_from_it(world: World) -> None:
    world.create("ab/x", 3)
    world.decide(lambda staging: staging.create_namespace("a"))
    world.decide(lambda staging: staging.delete_namespace("a"))
    assert world.woofs.namespaces() == ["ab"]


# --- what is not written yet ---------------------------------------------------------------------


def test_decisions_see_unwritten_ones_and_readers_do_not(world: World) -> None:
    with world.woofs.lock:
        first = world.woofs.begin()
        first.create_namespace("a")
        first.create("a/b", 3)
        assert first.put("a/b", b"1", idempotency_key=b"k") == 1
        second = world.woofs.begin()
        assert second.put("a/b", b"2") == 2
        assert second.put("a/b", b"1 again", idempotency_key=b"k") == 1
        assert not second.create("a/b", 3)
    with pytest.raises(MissingWoofError):
        world.woofs.get("a/b", 1)
    with world.woofs.lock:
        world.store.write(first.changes, sync=False)
        first.settle()
    assert world.woofs.window("a/b").latest == 1
    with pytest.raises(ElementNotYetError):
        world.woofs.get("a/b", 2)
    with world.woofs.lock:
        world.store.write(second.changes, sync=False)
        second.settle()
    assert list(world.woofs.scan("a/b")) == [(1, b"1"), (2, b"2")]


def test_what_is_taken_back_leaves_no_trace(world: World) -> None:
    world.create("a/b", 3)
    world.put("a/b", b"1")
    before = dict(world.store.scan(b"", None))
    with world.woofs.lock:
        staging = world.woofs.begin()
        staging.put("a/b", b"2", handler="h", idempotency_key=b"k")
        staging.create("a/c", 3)
        staging.delete("a/b")
        staging.create("a/b", 9)
        staging.take_back()
        assert staging.changes == []
    assert world.put("a/b", b"2", idempotency_key=b"k") == 2
    assert dict(world.store.scan(b"", None)).keys() >= before.keys()
    assert world.woofs.info("a/b").history == 3
    assert world.woofs.handlers_waiting() == []
    with pytest.raises(MissingWoofError):
        world.put("a/c", b"x")


def test_after_a_failed_write_everything_unwritten_is_forgotten(world: World) -> None:
    world.create("a/b", 3)
    world.put("a/b", b"1")
    with world.woofs.lock:
        first = world.woofs.begin()
        first.put("a/b", b"lost", idempotency_key=b"k", handler="h")
        second = world.woofs.begin()
        second.delete("a/b")
        world.woofs.forget_unwritten()
    assert world.put("a/b", b"2", idempotency_key=b"k") == 2
    assert list(world.woofs.scan("a/b")) == [(1, b"1"), (2, b"2")]


# --- idempotency -------------------------------------------------------------------------------


def test_a_retried_put_gets_the_first_number_and_appends_nothing(world: World) -> None:
    world.create("a/b", 3)
    assert world.put("a/b", b"1", idempotency_key=b"k") == 1
    world.put("a/b", b"2")
    world.restart()
    assert world.put("a/b", b"1", idempotency_key=b"k", handler="h") == 1
    assert world.woofs.latest("a/b") == 2
    assert world.woofs.handlers_waiting() == []


def test_the_first_number_is_answered_even_when_its_element_is_evicted(world: World) -> None:
    world.create("a/b", 1)
    assert world.put("a/b", b"1", idempotency_key=b"k") == 1
    world.put("a/b", b"2")
    assert world.put("a/b", b"1", idempotency_key=b"k") == 1


def test_one_key_in_two_woofs_is_two_puts(world: World) -> None:
    world.create("a/b", 3)
    world.create("a/c", 3)
    world.put("a/b", b"x")
    assert world.put("a/b", b"1", idempotency_key=b"k") == 2
    assert world.put("a/c", b"1", idempotency_key=b"k") == 1


def test_keys_are_remembered_for_as_many_puts_as_promised_and_then_leave_the_store(
    store: KeyValue,
) -> None:
    world = World(store, remembered_keys=8)
    world.create("a/b", 2)
    quiet = len(list(store.scan(b"", None)))
    for number in range(1, 41):
        assert world.put("a/b", b"x", idempotency_key=b"%d" % number) == number
        for known in range(max(1, number - 7), number + 1):
            assert world.put("a/b", b"x", idempotency_key=b"%d" % known) == known
        if number % 9 == 0:
            world.restart()
    assert len(list(store.scan(b"", None))) == quiet + 2 + 8 * 2
    assert world.put("a/b", b"x", idempotency_key=b"1") == 41  # long forgotten
    for _ in range(8):
        world.put("a/b", b"x")
    assert len(list(store.scan(b"", None))) == quiet + 2
