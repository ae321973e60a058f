"""Strict TOML: what is accepted, and that every refusal names the file and the key."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgistry.adapters.config import MAX_CONFIG_BYTES, load, parse, render, section, setting, tables
from edgistry.errors import ConfigError, InvalidValueError


def check_port(value: int) -> None:
    if not 1 <= value <= 65535:
        raise InvalidValueError("a port is 1 to 65535")


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    host: str = setting("127.0.0.1", help="Where.")
    port: int = setting(27000, help="Which.\nSecond line.", check=check_port)
    share: float = setting(0.5, help="A part.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    name: str = setting(help="Required.")
    kind: Literal["solo", "many"] = setting("solo", help="A choice.")
    peers: tuple[str, ...] = setting((), help="A list.")
    loud: bool = setting(False, help="A switch.")
    note: str | None = setting(None, help="May be left out.")
    door: Door = section(Door, help="A table.")

    def __post_init__(self) -> None:
        if self.loud and self.kind == "solo":
            raise InvalidValueError("alone there is nobody to be loud for")


def read(text: str) -> Settings:
    return parse(text, Settings, source="node.toml")


def test_values_left_out_take_their_defaults() -> None:
    assert read('name = "a"') == Settings(name="a", door=Door())


def test_every_kind_of_value_is_read() -> None:
    value = read(
        'name="a"\nkind="many"\npeers=["x","y"]\nloud=true\nnote="n"\n[door]\nport=1\nshare=2'
    )
    assert value == Settings(
        name="a",
        kind="many",
        peers=("x", "y"),
        loud=True,
        note="n",
        door=Door(port=1, share=2.0),
    )


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "name: missing"),
        ('name="a"\nnmae="b"', "nmae: unknown key; did you mean 'name'?"),
        ('name="a"\nzzz=1', "zzz: unknown key; known: name, kind"),
        ("name=1", "name: must be a text, not 1"),
        ('name="a"\nkind="two"', 'kind: must be one of "solo", "many"'),
        ('name="a"\nkind=[]', 'kind: must be one of "solo", "many"'),
        ('name="a"\npeers="x"', "peers: must be a list"),
        ('name="a"\npeers=["x",1]', "peers[1]: must be a text"),
        ('name="a"\nloud=1', "loud: must be true or false"),
        ('name="a"\ndoor=1', "door: must be a table"),
        ('name="a"\n[door]\nport="80"', "door.port: must be a whole number"),
        ('name="a"\n[door]\nport=true', "door.port: must be a whole number"),
        ('name="a"\n[door]\nport=0', "door.port: a port is 1 to 65535"),
        ('name="a"\n[door]\nshare=nan', "door.share: must be a finite number"),
        ('name="a"\n[door]\nshare=1' + "0" * 400, "door.share: out of range"),
        ('name="a"\n[door]\nprot=1', "door.prot: unknown key; did you mean 'port'?"),
        ('name="a"\nloud=true', "alone there is nobody"),
        ("name=", "not TOML"),
        ("name=" + "9" * 5000, "not TOML"),
        ("name=" + "[" * 5000, "not TOML"),
    ],
)
def test_a_refusal_names_the_file_and_the_key(text: str, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert str(caught.value).startswith("node.toml: ")
    assert part in str(caught.value)


def test_a_missing_file_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml: cannot be read: No such file"):
        load(tmp_path / "absent.toml", Settings)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_bytes(b'name = "\xff"')
    with pytest.raises(ConfigError, match=r"node\.toml: not UTF-8 text \(byte 8\)"):
        load(path, Settings)


def test_an_oversized_file_is_not_parsed(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_bytes(b"#" * (MAX_CONFIG_BYTES + 1))
    with pytest.raises(ConfigError, match="more than"):
        load(path, Settings)


def test_a_rendered_file_carries_the_help_as_comments() -> None:
    text = render(Settings(name="a", door=Door()), title="A node.\n\nEdit it.")
    assert text.startswith("# A node.\n#\n# Edit it.\n")
    assert '# Required.\nname = "a"' in text
    assert "# A table.\n[door]" in text
    assert "# Which.\n# Second line.\nport = 27000" in text


_names = st.text(st.characters(codec="utf-8"), max_size=20)


@settings(deadline=None, max_examples=200)
@given(
    st.builds(
        Settings,
        name=_names,
        kind=st.just("many"),
        peers=st.lists(_names, max_size=4).map(tuple),
        loud=st.booleans(),
        note=st.none() | _names,
        door=st.builds(
            Door, port=st.integers(1, 65535), share=st.floats(allow_nan=False, allow_infinity=False)
        ),
    )
)
def test_what_is_rendered_reads_back_the_same(value: Settings) -> None:
    assert read(render(value, title="t")) == value


@settings(deadline=None, max_examples=300)
@given(
    st.text(max_size=200)
    | st.lists(
        st.sampled_from(["name", "door", "=", "[", "]", ".", '"', "\n", "1", "{", "}", "peers"]),
        max_size=20,
    ).map("".join)
)
def test_any_text_gives_a_value_or_a_config_error(text: str) -> None:
    try:
        outcome: object = read(text)
    except ConfigError as error:
        outcome = str(error)
    assert isinstance(outcome, Settings) or str(outcome).startswith("node.toml: ")


# --- tables of one kind -------------------------------------------------------------------------


def check_name(value: str) -> None:
    if not value:
        raise InvalidValueError("a room needs a name")


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    name: str = setting(help="What it is called.", check=check_name)
    width: int = setting(1, help="In metres.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Flat:
    room: tuple[Room, ...] = tables(help="The rooms.")


def test_tables_of_one_kind_are_read_in_order() -> None:
    house = parse('[[room]]\nname = "a"\n[[room]]\nname = "b"\nwidth = 2', Flat, source="s")
    assert house == Flat(room=(Room(name="a"), Room(name="b", width=2)))


def test_rendered_tables_are_read_back() -> None:
    house = Flat(room=(Room(name="a"), Room(name="b", width=2)))
    assert parse(render(house, title=""), Flat, source="s") == house


def test_no_tables_are_rendered_as_an_example_that_changes_nothing() -> None:
    text = render(Flat(), title="")
    assert "# [[room]]" in text
    assert "#   # What it is called.\n#   name =\n" in text
    assert parse(text, Flat, source="s") == Flat()


def test_tables_may_be_added_below_the_example() -> None:
    text = render(Flat(), title="") + '\n[[room]]\nname = "a"\n'
    assert parse(text, Flat, source="s") == Flat(room=(Room(name="a"),))


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("room = 3", r"room: must be tables, written \[\[room\]\]"),
        ("[[room]]", r"room\[0\]\.name: missing"),
        ('[[room]]\nname = "a"\n[[room]]\nname = ""', r"room\[1\]\.name: "),
        ('[[room]]\nname = "a"\ncolour = 1', r"room\[0\]\.colour: unknown key"),
    ],
)
def test_what_is_wrong_in_a_table_is_found_by_its_place(text: str, where: str) -> None:
    with pytest.raises(ConfigError, match=where):
        parse(text, Flat, source="s")
