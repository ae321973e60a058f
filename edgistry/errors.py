"""Every expected refusal in Edgistry, in one tree.

Rules kept here:

* ``Refused`` is the only root. Code that refuses input raises a leaf of it; anything else that
  escapes is a bug, and in consensus code a bug stops the node.
* Each leaf has a ``code`` (stable, kebab-case, what programs match on), a ``number`` (stable, the
  ABCI result code; consensus data, so a number is never reused), an ``http_status``, an
  ``exit_code`` for command lines (1 refused, 2 usage, 3 cannot reach, 4 timed out) and a ``help``
  sentence that says what to do next.
* Evidence is in ``detail`` (for people) and in typed attributes of the leaves that need them.
  No secret ever enters either.

Not handled here: how an error is shown (the command lines and the HTTP server do that).
"""

from __future__ import annotations

from typing import ClassVar


class Refused(Exception):
    """Root of all expected refusals.

    ``detail`` says what was wrong with this input; the class says what kind of wrong it is.
    """

    code: ClassVar[str] = "refused"
    number: ClassVar[int] = 1
    http_status: ClassVar[int] = 400
    exit_code: ClassVar[int] = 1
    wire_status: ClassVar[int] = 20
    """What an authenticated reply says (the status table of ``envelope.py``); 20 is REJECTED."""
    help: ClassVar[str] = "Read the detail, correct the request and send it again."

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail

    def __str__(self) -> str:
        return self.detail

    def advice(self) -> str:
        """What the person who reads this should do next."""
        return self.help


# --- bytes and values -------------------------------------------------------------------------


class MalformedError(Refused):
    """The bytes are not what the format asks for."""

    code = "malformed"
    number = 2
    wire_status = 23
    help = "Correct what the detail names; docs/protocol.md has the layouts of binary formats."


class TooLargeError(Refused):
    """The input is larger than its limit."""

    code = "too-large"
    number = 3
    http_status = 413
    wire_status = 14
    help = "Send less at once; the limit is in the detail."


class InvalidValueError(Refused):
    """Well-formed input with a value outside its range."""

    code = "invalid-value"
    number = 4
    http_status = 422
    help = "Correct the value that the detail names."


# --- registry transactions ---------------------------------------------------------------------


class WrongChainError(Refused):
    """Signed for another chain."""

    code = "wrong-chain"
    number = 10
    http_status = 409
    help = "Check that the node directory belongs to this cluster: its chain id must match."


class NotAMemberError(Refused):
    """The signer is not a member of this chain."""

    code = "not-a-member"
    number = 11
    http_status = 403
    help = "Only nodes listed in the chain's genesis may write to the registry."


class BadSignatureError(Refused):
    """The signature does not verify."""

    code = "bad-signature"
    number = 12
    http_status = 403
    help = "Sign with the node's registry key (keys/registry.key), not its validator or p2p key."


class WrongSequenceError(Refused):
    """A sequence number that is not the next one."""

    code = "wrong-sequence"
    number = 13
    http_status = 409
    help = "Sequences are strictly consecutive per node; resend from the committed sequence."

    def __init__(self, detail: str, *, expected: int, got: int) -> None:
        super().__init__(detail)
        self.expected = expected
        self.got = got


class NotOwnerError(Refused):
    """The record or region belongs to another node."""

    code = "not-owner"
    number = 14
    http_status = 403
    help = "Only the node that published a record or region may change it."


class NotFoundError(Refused):
    """No such thing here."""

    code = "not-found"
    number = 15
    http_status = 404
    wire_status = 9
    help = "Check the name; the list command of the same noun shows what exists."


class WrongVersionError(Refused):
    """A versioned value was changed from a version that is not the current one."""

    code = "wrong-version"
    number = 16
    http_status = 409
    help = "Read the current version and put the next one."


class DuplicateError(Refused):
    """The same key twice where one is allowed."""

    code = "duplicate"
    number = 17
    http_status = 409
    help = "Send each key once."


class PrivacyEpochError(Refused):
    """A transaction about the keys of a privacy epoch that is neither the current nor the next."""

    code = "privacy-epoch"
    number = 18
    http_status = 409
    help = "Read which epoch the chain is in (`edgistry-node status DIR`) and begin anew from it."


class EpochNotDueError(PrivacyEpochError):
    """The current privacy epoch is not over yet."""

    code = "epoch-not-due"
    number = 19
    help = "Wait until the current epoch has lasted its time."


class MembershipError(Refused):
    """A change of the chain's members that cannot be made, or was signed for another moment."""

    code = "membership"
    number = 25
    http_status = 409
    help = "See `edgistry-node member list DIR`, and let the members sign a new proposal."


class TooFewSignaturesError(Refused):
    """A change of the chain's members that too few of them have signed."""

    code = "too-few-signatures"
    number = 26
    http_status = 403
    help = "Let further members sign the same file: `edgistry-node member sign DIR FILE`."


# --- discovery ---------------------------------------------------------------------------------


class UnknownRegionError(NotFoundError):
    """No region of that name on the chain."""

    code = "unknown-region"
    number = 30
    help = "`edgistry region list` shows the regions this cluster knows."


class LimitExceededError(Refused):
    """A query that would cost more than the node is willing to spend."""

    code = "limit-exceeded"
    number = 31
    http_status = 422
    help = "Ask for a smaller area, a type, or fewer results; the limit is in the detail."


class NotYetError(Refused):
    """The node has not reached the height that was asked for."""

    code = "not-yet"
    number = 32
    http_status = 503
    exit_code = 4
    help = "Try again in a moment, or ask another node."

    def __init__(self, detail: str, *, retry_after_s: int = 5) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


# --- running a node ----------------------------------------------------------------------------


class ConfigError(Refused):
    """A configuration file or a node directory that cannot be used as it is."""

    code = "config"
    number = 50
    exit_code = 2
    help = "Correct the file and key that the detail names."


class DirectoryError(Refused):
    """A directory in the wrong state: not empty, missing, or with unsafe permissions."""

    code = "directory"
    number = 51
    help = "Choose another directory, or repair this one as the detail says."


class PortInUseError(Refused):
    """A port that the node needs is taken."""

    code = "port-in-use"
    number = 52
    help = "Stop the other program, or choose other ports in node.toml (cluster: --base-port)."


class DatabaseLockedError(Refused):
    """Another process has the database open."""

    code = "database-locked"
    number = 53
    help = "Wait until the other process has ended, or stop it; one at a time has the directory."


class CorruptDatabaseError(Refused):
    """The database refuses to open, or what it holds contradicts itself."""

    code = "corrupt-database"
    number = 54
    http_status = 500
    wire_status = 19
    help = "Nothing was changed. Stop the node and run `edgistry-node repair DIR`: it keeps a copy."


class DatabaseLayoutError(CorruptDatabaseError):
    """The database is whole, and was written by another version of this program."""

    code = "database-layout"
    number = 68
    help = (
        "Run the version that wrote it, or make the nodes anew (`edgistry-node init` or `cluster"
        " init`) and import the devices again: layouts are not converted."
    )


class StorageError(Refused):
    """The disk did not do as asked.

    What could not be written cannot be seen; after a restart it is there whole, or not at all.
    """

    code = "storage"
    number = 65
    http_status = 507
    wire_status = 19
    help = "Correct what the detail says, then restart the program; reading goes on meanwhile."


class DiskFullError(StorageError):
    """No space is left on the device."""

    code = "disk-full"
    number = 66
    help = "Free some space, then restart the program; reading goes on meanwhile."


class ChainMismatchError(Refused):
    """The application's state and the engine's chain do not belong together."""

    code = "chain-mismatch"
    number = 55
    help = "Put back the directory that belongs to this chain; docs/operations.md, 'Mixed-up data'."


class EngineError(Refused):
    """The consensus engine cannot be installed, found or started."""

    code = "engine"
    number = 56
    help = "Run `edgistry-node engine install` and read what it prints."


class NodeFailedError(Refused):
    """A node that was started ended by itself."""

    code = "node-failed"
    number = 64
    help = "Read what it printed; the directory logs/ of the node has the rest."


class UnavailableError(Refused):
    """The service cannot do this now, but may later."""

    code = "unavailable"
    number = 57
    http_status = 503
    wire_status = 17
    help = "Wait and try again; `edgistry-node status DIR` says what the node is waiting for."


class BusyError(UnavailableError):
    """As many requests of this kind as may wait are waiting already."""

    code = "busy"
    number = 67
    help = "Wait a second and try again, or ask another node."
    retry_after_s: ClassVar[int] = 1


class CannotReachError(Refused):
    """Nobody answers at that address."""

    code = "cannot-reach"
    number = 58
    http_status = 502
    exit_code = 3
    help = "Check that the node runs (`edgistry-node status DIR`) and that --node is its address."
    may_have_arrived = False
    """Whether there was a connection, which broke: what was sent may have been taken."""


class TimedOutError(Refused):
    """No answer in the time that was given."""

    code = "timed-out"
    number = 59
    http_status = 504
    exit_code = 4
    help = "Wait longer, or ask another node."


class PermissionRefusedError(Refused):
    """The caller may not do this."""

    code = "permission"
    number = 60
    http_status = 403
    help = "Run the command as the user that owns the node directory."


# --- HTTP ----------------------------------------------------------------------------------------


class UnknownRouteError(Refused):
    """The HTTP API has no such path."""

    code = "unknown-route"
    number = 70
    http_status = 404
    help = "GET /openapi.json lists every path of this node."


class MethodNotAllowedError(Refused):
    """The path exists, but not with this method."""

    code = "method-not-allowed"
    number = 71
    http_status = 405
    help = "Use one of the methods in the Allow header."

    def __init__(self, detail: str, *, allowed: tuple[str, ...]) -> None:
        super().__init__(detail)
        self.allowed = allowed


class RequestTooSlowError(Refused):
    """The request did not arrive completely in time."""

    code = "request-too-slow"
    number = 72
    http_status = 408
    help = "Send the whole request at once, over a better connection if need be."


class UnexpectedAnswerError(Refused):
    """Somebody answered, but not as an Edgistry node does."""

    code = "unexpected-answer"
    number = 73
    http_status = 502
    help = "Check that the address is that of an Edgistry node, and that it is not much older."


class NodeProblemError(Refused):
    """The node refused for a reason that this program has no name for.

    ``problem_code`` and ``advice()`` are the node's own words.
    """

    code = "node-problem"
    number = 74
    http_status = 502

    def __init__(self, detail: str, *, problem_code: str, advice: str) -> None:
        super().__init__(detail)
        self.problem_code = problem_code
        self._advice = advice

    def advice(self) -> str:
        return self._advice or self.help


class FileError(Refused):
    """A file that cannot be read or written as asked."""

    code = "file"
    number = 62
    help = "Check the path and its permissions."


class AlreadyThereError(Refused):
    """Something of that name is there, and is not replaced unasked."""

    code = "already-there"
    number = 63
    http_status = 409
    help = "Choose another name, or say --force to replace what is there."


# --- authority (capability.md) -----------------------------------------------------------------


class UnknownVersionError(MalformedError):
    """A format version that this program does not know."""

    code = "unknown-version"
    number = 101
    help = "Update this program, or ask the issuer for a capability of version 1."


class WidenedError(MalformedError):
    """A block claims more than the block before it grants."""

    code = "widened"
    number = 102
    help = "A holder can only narrow; ask the issuer for a capability that grants more."


class UnknownCaveatError(MalformedError):
    """A caveat that must be understood and is not."""

    code = "unknown-caveat"
    number = 103
    help = "Update this program: it cannot enforce this caveat, so it must refuse."


class AuthorityError(Refused):
    """A request that its capabilities do not authorise.

    ``reply`` is the encoded answer to send, when a server made one: generic before the request's
    tag has verified, exact and with a tag afterwards.
    """

    code = "authority"
    number = 104
    http_status = 403
    wire_status = 1
    help = "`edgistry cap show` says who may do what with a capability, and until when."

    reply: bytes | None = None


class BadTagError(AuthorityError):
    """The envelope's tag does not belong to its content, its capabilities and this issuer."""

    code = "bad-tag"
    number = 105
    help = "Use a capability that this issuer signed, and send the envelope unchanged."


class WrongEpochError(AuthorityError):
    """The capability was signed under another epoch of its issuer."""

    code = "wrong-epoch"
    number = 106
    help = "The issuer has started a new epoch; ask it for a new capability."


class NoRightError(AuthorityError):
    """No entry of the capability holds every right that the operation needs."""

    code = "no-right"
    number = 107
    wire_status = 6
    help = "Ask whoever gave you the capability for one that allows this on this target."


class CaveatError(AuthorityError):
    """A caveat of the capability does not hold for this request; ``caveat`` is its name."""

    code = "caveat"
    number = 108
    wire_status = 7
    help = "Make the request as the caveat demands, or ask for a capability without it."

    def __init__(self, detail: str, *, caveat: str) -> None:
        super().__init__(detail)
        self.caveat = caveat

    def advice(self) -> str:
        if self.caveat == "require":
            return (
                "Send it beside this one: `edgistry cap add FILE` keeps it, --beside FILE names it."
            )
        return self.help


class RevokedError(AuthorityError):
    """The capability, or one that it was derived from, was revoked."""

    code = "revoked"
    number = 109
    wire_status = 8
    help = "Ask the issuer for a new capability."


class ExpiredError(AuthorityError):
    """The request's own deadline has passed; it was not executed."""

    code = "expired"
    number = 110
    wire_status = 5
    help = "Bind a new request with a later deadline."


class ResynchroniseError(AuthorityError):
    """The request's sequence does not fit the issuer's replay state.

    ``sequence_epoch`` and ``sequence_floor`` are what the client continues from.
    """

    code = "resynchronise"
    number = 111
    http_status = 409
    wire_status = 3
    help = "Bind a new request with the sequence epoch, and a sequence above the floor, given here."

    def __init__(self, detail: str, *, sequence_epoch: int, sequence_floor: int) -> None:
        super().__init__(detail)
        self.sequence_epoch = sequence_epoch
        self.sequence_floor = sequence_floor


class StaleError(ResynchroniseError):
    """The sequence is used, too old, or of an earlier sequence epoch."""

    code = "stale"
    number = 112


class FutureError(ResynchroniseError):
    """The sequence is more than five minutes ahead of the issuer's clock."""

    code = "future"
    number = 113
    wire_status = 4
    help = "Correct the clock, or bind a new request with the issuer's time given here."


class TooManyClientsError(AuthorityError):
    """All replay states of this grant are in use by other clients."""

    code = "too-many-clients"
    number = 114
    http_status = 429
    wire_status = 17
    help = "Wait until the other clients' deadlines have passed, or ask for a grant of your own."


class BadRequestError(AuthorityError):
    """An authentic request that makes no sense: unknown operation, or payload of another shape."""

    code = "bad-request"
    number = 115
    http_status = 422
    wire_status = 23
    help = "Send the operation and payload as docs/protocol.md lists them."


class DenySetFullError(AuthorityError):
    """The issuer already denies as many capabilities as it can remember."""

    code = "deny-set-full"
    number = 116
    http_status = 507
    wire_status = 18
    help = "Raise the issuer's epoch: it kills every capability signed so far and empties the set."


class CannotFlattenError(AuthorityError):
    """The chain has no equivalent of one block: too large, or nothing could satisfy it."""

    code = "cannot-flatten"
    number = 117
    http_status = 422
    wire_status = 14
    help = "Keep the chain as it is, or derive one with fewer entries and caveats."


class BadReplyError(AuthorityError):
    """A reply that the issuer did not make for this request, or not as received."""

    code = "bad-reply"
    number = 118
    http_status = 502
    help = "Do not believe it; send the same envelope again."


class UnprovenRefusalError(AuthorityError):
    """A refusal without a tag: the issuer could not verify the request, or somebody forged it."""

    code = "unproven-refusal"
    number = 119
    help = (
        "A hint only: check that the capability belongs to this issuer and its epoch, then send "
        "the same envelope again."
    )


class OutcomeUnknownError(AuthorityError):
    """The request may have been carried out; the issuer no longer remembers whether it was."""

    code = "outcome-unknown"
    number = 120
    http_status = 504
    help = (
        "Look at what it was to change, for instance by reading the WooF, before sending it anew."
    )


class NoCapabilityError(NotFoundError):
    """Nothing in the keyring allows this."""

    code = "no-capability"
    number = 121
    help = "Ask whoever grants it, then `edgistry cap add FILE`, or say --capability FILE."


# --- WooFs ---------------------------------------------------------------------------------------


class EmptyWoofError(NotFoundError):
    """Nothing was ever put into this WooF."""

    code = "woof-empty"
    number = 140
    wire_status = 10
    help = "Put an element first, or wait for the one who does."


class ElementEvictedError(NotFoundError):
    """The element was there and is gone: the WooF's history has moved past it."""

    code = "woof-evicted"
    number = 141
    http_status = 410
    wire_status = 11
    help = "Read from the earliest element that is left; the detail has its number."

    earliest: int | None = None
    """Number of the first element that can be read, where that is known."""


class ElementNotYetError(NotFoundError):
    """The number lies in the future: that many elements were not put yet."""

    code = "woof-not-yet"
    number = 142
    wire_status = 12
    help = "Wait until the element is put; the detail has the newest number."

    latest: int | None = None
    """Number of the newest element, where that is known."""


class MissingWoofError(NotFoundError):
    """No WooF of that name was created here, or it was deleted."""

    code = "woof-missing"
    number = 143
    help = "Create it first: `edgistry woof create URI --history N`."


class MissingNamespaceError(NotFoundError):
    """No namespace of that name was created here."""

    code = "namespace-missing"
    number = 144
    help = "Create it first: `edgistry namespace create URI`."


class WoofExistsError(Refused):
    """A WooF of that name exists with other parameters."""

    code = "woof-exists"
    number = 145
    http_status = 409
    wire_status = 13
    help = (
        "Use another name, or the parameters in the detail, or delete the WooF with its elements."
    )


class NamespaceNotEmptyError(Refused):
    """The namespace cannot be deleted while it has WooFs."""

    code = "namespace-not-empty"
    number = 146
    http_status = 409
    wire_status = 13
    help = "Delete its WooFs first."


class ElementLostError(NotFoundError):
    """The element should be readable and is not there: its file was damaged.

    ``resume_at`` is the number after it, from where reading may go on.
    """

    code = "woof-lost"
    number = 147
    http_status = 410
    wire_status = 19
    help = "Stop the node and run `edgistry-node repair DIR --check`: it says what else is damaged."

    resume_at: int | None = None


class TriggerSettledError(NotFoundError):
    """The handler's invocation has ended already: nothing more can be done in its name."""

    code = "trigger-settled"
    number = 148
    help = "Put in the name of an invocation only while it runs."


# --- handlers ------------------------------------------------------------------------------------


class UnknownHandlerError(NotFoundError):
    """No handler of that name is in the table of this program."""

    code = "handler-unknown"
    number = 160
    wire_status = 15
    help = "`edgistry-node handlers list DIR` shows the names; [handlers] in node.toml, the module."


class DivergedError(Refused):
    """A handler that was tried again decided otherwise than before."""

    code = "handler-diverged"
    number = 161
    http_status = 409
    wire_status = 16
    help = "Let the handler decide by its element alone: puts it has made are not made again."


# --- pairing and grants --------------------------------------------------------------------------


class SealError(Refused):
    """What is sealed does not open."""

    code = "cannot-open"
    number = 180
    help = "Use the key, and the program, that it was sealed for."


class WrongNodeKeyError(Refused):
    """Whoever answers is not the node that is trusted."""

    code = "wrong-node-key"
    number = 181
    http_status = 502
    help = "Check the address, and make a new pairing code at the node you mean."


class PairingCodeError(Refused):
    """The pairing code is unknown here, was used, or is too old."""

    code = "pairing-code"
    number = 182
    http_status = 403
    help = "Make a new code with `edgistry-node pair-code DIR`; each is good for one device."


class NotPairedError(Refused):
    """The device and the node are not paired, or no longer."""

    code = "not-paired"
    number = 183
    http_status = 403
    help = "Pair them: `edgistry-node pair-code DIR` at the node, `edgistry-agent pair` there."


class AlreadyPairedError(Refused):
    """The device is paired already."""

    code = "already-paired"
    number = 184
    http_status = 409
    help = "Un-pair the device first: that makes all that was signed with its old key void."


class ClientSignatureError(Refused):
    """Not signed by a client, or not lately."""

    code = "client-signature"
    number = 186
    http_status = 401
    help = "Sign with the client's key; `edgistry grant request` does, and needs a right clock."


class GrantRefusedError(Refused):
    """The node's policy does not grant this."""

    code = "grant-refused"
    number = 185
    http_status = 403
    help = "Ask the node's operator, who decides in node.toml, section [grants]."


# --- requests to devices -------------------------------------------------------------------------


class MailboxFullError(Refused):
    """There is no room for another request to this service."""

    code = "mailbox-full"
    number = 200
    http_status = 429
    wire_status = 18
    help = "Nothing was queued: send the same request again after the time in Retry-After."

    def __init__(self, detail: str, *, retry_after_s: int = 60) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s

    def advice(self) -> str:
        return f"Nothing was queued: send the same request again in {self.retry_after_s} s."


class ServiceFullError(MailboxFullError):
    """Many clients together have filled what a node keeps for a service; nodes say it to nodes."""

    code = "service-full"
    number = 208


class UnknownRequestError(NotFoundError):
    """No request with this id and this fetch key is known here, or no longer."""

    code = "request-unknown"
    number = 201
    help = "`edgistry request list` shows your requests; an outcome is kept for a day."


class NotEndedError(Refused):
    """The request has no outcome yet."""

    code = "not-ended"
    number = 202
    http_status = 409
    wire_status = 12
    help = "Fetch it first, and acknowledge the outcome that it gives."


class KeyReusedError(Refused):
    """An idempotency key that stands for another request."""

    code = "key-reused"
    number = 203
    http_status = 409
    wire_status = 13
    help = "Use a new idempotency key for a new request, and the old fetch key for the old one."


class SentBeforeError(Refused):
    """The very same request came before, under another idempotency key or for another service."""

    code = "sent-before"
    number = 207
    http_status = 409
    wire_status = 13
    help = "Bind a new request. The outcome of the earlier one is for who has its fetch key."


class TwoAgentsError(Refused):
    """Two programs poll with one device's identity; this is the one that was replaced."""

    code = "two-agents"
    number = 204
    http_status = 409
    wire_status = 17
    help = "Stop one of the two. A copied device directory needs `edgistry-agent init` anew."


class CallEndedError(Refused):
    """The call of a service has ended without an answer of its handler; ``state`` says how."""

    code = "call-ended"
    number = 205
    http_status = 409
    help = (
        "Expired, cancelled, rejected: it was not carried out, unless it says that nobody knows."
        " Failed or dead: it may have been."
    )

    def __init__(self, detail: str, *, state: str = "") -> None:
        super().__init__(detail)
        self.state = state


class CallPendingError(TimedOutError):
    """The call of a service has not ended yet; it goes on by itself."""

    code = "call-pending"
    number = 206
    help = "`edgistry request status ID --wait 60s` waits, `edgistry request cancel ID` stops it."


# --- privacy -------------------------------------------------------------------------------------


class PolicyRefusedError(Refused):
    """The device's privacy policy shows more than its node allows."""

    code = "policy-refused"
    number = 250
    http_status = 403
    help = (
        "Change [privacy] in the device's manifest, or ask the node's operator for another limit."
    )


class BudgetError(Refused):
    """This client has asked for more than its share for now."""

    code = "budget"
    number = 251
    http_status = 429
    help = "Ask again after the time in Retry-After, or for a smaller area."

    def __init__(self, detail: str, *, retry_after_s: int = 1) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class NoMemberError(NotFoundError):
    """No service of the asked type in that area can take a request now."""

    code = "no-member"
    number = 252
    help = (
        "Ask for a larger area or another type, or later: `edgistry discover` shows what is there."
    )


class MembersBusyError(Refused):
    """All services of the asked type in that area have as much to do for this client as they may.

    What they have to do for others brings it about for nobody.
    """

    code = "members-busy"
    number = 245
    http_status = 429
    help = "Fetch what was answered, or ask again after the time in Retry-After."

    def __init__(self, detail: str, *, retry_after_s: int = 15) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class MissingLibraryError(Refused):
    """This needs a library that is not installed here."""

    code = "missing-library"
    number = 253
    http_status = 500
    help = "`pip install 'edgistry[explain]'` installs what this command needs."


# --- hosts ---------------------------------------------------------------------------------------


class NoRegistryError(NotFoundError):
    """This is a host: it has WooFs and handlers, and no registry."""

    code = "no-registry"
    number = 220
    help = "Ask an Edgistry node: hosts know no services and no regions."


# --- privacy -----------------------------------------------------------------------------------


class UnknownHandleError(NotFoundError):
    """A handle that was not given to this client, in this epoch, by this cluster."""

    code = "unknown-handle"
    number = 240
    help = "Discover again: a handle is good for the client and the epoch it was given in."


class UnknownCursorError(NotFoundError):
    """A cursor that was not given to this client in this epoch."""

    code = "unknown-cursor"
    number = 241
    help = "List anew from the beginning: a cursor is good for one client and one epoch."


class EpochEndedError(UnknownCursorError):
    """The privacy epoch ended while services were being listed: those to come have new handles."""

    code = "epoch-ended"
    number = 246
    help = "List anew. Handles from before go on working for a day, and are not told any more."


class NoEpochKeyError(UnavailableError):
    """This node has no key to make handles with."""

    code = "no-epoch-key"
    number = 242
    help = "Try again in a minute, or ask another node; browsing needs no handles."


def every_refusal() -> tuple[type[Refused], ...]:
    """All classes of the tree, root first, in a stable order (depth first, by definition)."""
    found: list[type[Refused]] = []

    def visit(kind: type[Refused]) -> None:
        found.append(kind)
        for child in kind.__subclasses__():
            visit(child)

    visit(Refused)
    return tuple(found)
