"""Who a person is to nodes and devices: two keys of their own, made once.

Rules kept here:

* One file, ``identity.key`` in the keyring's folder, 0600: the seed to sign with and the key that
  grants are sealed to, as hexadecimal digits. It is made when it is first needed.
* A file that others can read, or that is damaged, is refused: whoever has the keys can take what
  was granted to this person. So is one in a folder that others can enter: they may have put it
  there.

Not handled here: capabilities (``keyring``).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from edgistry.adapters.grant_client import ClientKeys
from edgistry.adapters.secret_files import (
    check_secret_folder,
    make_secret_folder,
    others_may_read,
    read_secret,
    write_secret,
)
from edgistry.errors import AlreadyThereError, FileError, NotFoundError

from .keyring import Keyring

_KEY_BYTES = 32
_TITLE = "# Who you are to nodes and devices. Keep it to yourself, and keep a backup.\n"


def identity_file(environment: Mapping[str, str] = os.environ) -> Path:
    """Where the user's keys are kept."""
    return Keyring.of_user(environment).folder / "identity.key"


def read_identity(environment: Mapping[str, str] = os.environ) -> ClientKeys:
    """The user's keys, made now if there are none.

    Raises:
        FileError: the file is damaged, others can read it, or it cannot be written.
        DirectoryError: others have access to the folder.
    """
    path = identity_file(environment)
    try:
        data = read_secret(path, limit=1024)
    except NotFoundError:
        pass
    else:
        check_secret_folder(path.parent)
        return _parse(path, data)
    make_secret_folder(path.parent)
    keys = ClientKeys.generate()
    text = f"{_TITLE}{keys.signing.hex()}{keys.sealing.hex()}\n"
    try:
        write_secret(path, text.encode(), force=False)
    except AlreadyThereError:  # another program has just made it
        return _parse(path, read_secret(path, limit=1024))
    return keys


def _parse(path: Path, data: bytes) -> ClientKeys:
    if others_may_read(path):
        raise FileError(f"others can read {path}; say `chmod 600 {path}`")
    lines = data.decode("ascii", "replace").splitlines()
    try:
        keys = bytes.fromhex("".join(line for line in lines if not line.startswith("#")))
    except ValueError:
        keys = b""
    if len(keys) != 2 * _KEY_BYTES:
        raise FileError(f"{path} is damaged; restore it, or remove it to be somebody else")
    return ClientKeys(signing=keys[:_KEY_BYTES], sealing=keys[_KEY_BYTES:])
