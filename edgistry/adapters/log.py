"""Logs: plain, readable lines, one an event, with its facts as ``key=value``.

Rules kept here:

* Loggers are named explicitly (``edgistry.node.registry``), never after the module: the packages
  have other names when installed.
* A line is ``time level logger event key=value …``; time is UTC with milliseconds.
* A log file is kept by size: at most ``BACKUPS`` + 1 files of ``MAX_LOG_BYTES``.
* Secrets are not passed to a logger; nothing is filtered here.

This is the only module that imports structlog. Not handled here: metrics, and the engine's own
log, which the engine writes.
"""

from __future__ import annotations

import logging
import logging.handlers
import sys
from pathlib import Path
from typing import Any, Literal

import structlog

Level = Literal["debug", "info", "warning", "error"]
Logger = structlog.stdlib.BoundLogger

MAX_LOG_BYTES = 16 << 20
BACKUPS = 3

_ROOT = "edgistry"


def get_logger(name: str) -> Logger:
    """The logger called ``name`` (``edgistry.node.…``); usable before ``setup_logging``."""
    logger: Logger = structlog.stdlib.get_logger(name)
    return logger


def setup_logging(*, level: Level, path: Path | None, console: bool = False) -> None:
    """From now on events of ``level`` and above go to ``path`` and, if asked, to stderr.

    Calling it again replaces the earlier set-up.
    """
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.add_log_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger(_ROOT)
    close_logging()
    root.setLevel(level.upper())
    root.propagate = False
    if path is not None:
        root.addHandler(
            logging.handlers.RotatingFileHandler(
                path, maxBytes=MAX_LOG_BYTES, backupCount=BACKUPS, encoding="utf-8"
            )
        )
    if console:
        root.addHandler(logging.StreamHandler(sys.stderr))
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_logger_name,
            structlog.stdlib.add_log_level,
            structlog.stdlib.ExtraAdder(),
        ],
        processors=[
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _line,
        ],
    )
    for handler in root.handlers:
        handler.setFormatter(formatter)


def close_logging() -> None:
    """Close the files that ``setup_logging`` opened; events go where Python sends them again."""
    root = logging.getLogger(_ROOT)
    root.setLevel(logging.NOTSET)
    root.propagate = True
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()


def _line(_logger: Any, _method: str, event: Any) -> str:
    """One line for an event; line breaks in values are escaped, so that nobody can forge one."""
    facts = dict(event)
    facts.pop("_record", None)
    facts.pop("_from_structlog", None)
    when = facts.pop("timestamp", "")[:23] + "Z"
    level, name = facts.pop("level", "?"), facts.pop("logger", "?")
    text = str(facts.pop("event", "")).replace("\n", "\\n")
    trace = facts.pop("exception", None)
    words = [when, f"{level:<7}", str(name), text]
    words += [f"{key}={_value(value)}" for key, value in facts.items()]
    line = " ".join(words)
    return f"{line}\n{trace}" if trace else line


def _value(value: object) -> str:
    text = value.hex() if isinstance(value, bytes) else str(value)
    if text and not any(char.isspace() or char in "\"'=" for char in text):
        return text
    return repr(text)
