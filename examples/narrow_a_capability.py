"""An issuer grants, a holder narrows offline, the issuer verifies a request. No network.

python examples/narrow_a_capability.py
"""

from __future__ import annotations

import secrets
import time

from edgistry import Issuer, Refused, Right, Verifier
from edgistry.envelope import Operation

MINUTE_US = 60_000_000


def main() -> None:
    now_us = time.time_ns() // 1000
    issuer = Issuer.from_secret(secrets.token_bytes(32), epoch=0)
    everything = issuer.mint(serial=secrets.randbits(32))

    # Whoever holds a capability can pass on less of it, without asking anyone.
    reader = everything.derive(
        allow=Right.GET | Right.LATEST,
        object_name="sensors/temp",
        not_after_us=now_us + 120 * MINUTE_US,
    )
    print(f"{everything} became {reader}: {len(reader.public)} public bytes")

    # A request is bound to one operation, client and deadline; the secret itself never travels.
    client = secrets.token_bytes(8)
    verifier = Verifier(issuer)
    for operation, target in (
        (Operation.LATEST, "sensors/temp"),
        (Operation.LATEST, "sensors/door"),
        (Operation.DELETE, "sensors/temp"),
    ):
        request = reader.bind(
            operation, target, client=client, sequence=now_us, deadline=now_us + MINUTE_US
        )
        try:
            verifier.check(request.encoded, now_us=now_us)
            print(f"{operation.name.lower()} {target}: allowed")
        except Refused as refusal:
            print(f"{operation.name.lower()} {target}: {refusal.code}")


if __name__ == "__main__":
    main()
