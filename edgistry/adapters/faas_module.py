"""The module whose handlers a program runs, as its operator has named it.

Rules kept here:

* Only an operator's configuration names a module, never anything that came over a wire.
* It is looked for in the directory that belongs to the program, then among what is installed. A
  file that another module of the same name hides is refused, not silently ignored.
* A module that cannot be imported stops the program before it does anything, with the line at
  fault.

Not handled here: running handlers.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path

from ..errors import ConfigError, InvalidValueError, Refused
from ..handlers import HandlerTable, check_module


def load_handlers(module: str, directory: Path | None = None) -> HandlerTable:
    """The handlers of ``module``, found in ``directory`` or installed; none when it is empty.

    Raises:
        ConfigError: it is not there, fails when it is imported, or has no handler.
    """
    if not module:
        return HandlerTable()
    check_module(module)
    if directory is not None and str(directory) not in sys.path:
        # Last: a file of the operator's must not hide a part of the program.
        sys.path.append(str(directory))
    try:
        loaded = importlib.import_module(module)
    except Refused as error:
        raise ConfigError(f"handlers module {module}: {error.detail}{_line_of(error)}") from error
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            where = f" in {directory}" if directory is not None else ""
            raise ConfigError(f"handlers module {module}: not found{where}") from None
        raise ConfigError(f"handlers module {module}: {error}{_line_of(error)}") from error
    except (Exception, SystemExit) as error:
        # The operator's code, which may raise anything, and ends no program by being imported.
        words = f"{type(error).__name__}: {error}"
        raise ConfigError(f"handlers module {module}: {words}{_line_of(error)}") from error
    _check_not_hidden(module, getattr(loaded, "__file__", None), directory)
    try:
        table = HandlerTable.from_names(vars(loaded))
    except InvalidValueError as error:
        raise ConfigError(f"handlers module {module}: {error}") from None
    if not len(table):
        raise ConfigError(
            f"handlers module {module} has no handler; mark functions with @handler of"
            " edgistry.handlers"
        )
    return table


def _check_not_hidden(module: str, file: str | None, directory: Path | None) -> None:
    if directory is None or file is None:
        return
    base = directory.joinpath(*module.split("."))
    for own in (base.with_suffix(".py"), base / "__init__.py"):
        if own.exists() and own.resolve() != Path(file).resolve():
            raise ConfigError(f"{own} is hidden by {file}, which has the same name; rename yours")


def _line_of(error: BaseException) -> str:
    """Where in the operator's code it was raised, if it was."""
    if isinstance(error, SyntaxError):
        return ""  # it says so itself
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1] if frames else None
    if last is None or last.filename.startswith("<frozen"):
        return ""
    return f" ({last.filename}, line {last.lineno})"
