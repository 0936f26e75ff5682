"""POP state: `state/pops.json`, rewritten every second or two, small, signed, with an expiry.

The bytes are JSON `{"payload": {...}, "seal": "<hex>"}`; the seal signs the payload's very bytes,
so nobody has to agree on a canonical form.
"""

import msgspec

from popsteer.errors import TableError, TrustError
from popsteer.signing import Signer, Verifier

KEY = "state/pops.json"
VERSION = 1


class PopState(msgspec.Struct, frozen=True, kw_only=True):
    """What the planner says of one POP."""

    up: bool = True
    shed: float = 0.0
    """Share of this POP's answers that go to their next candidate instead, 0 to 1."""
    drained: bool = False
    """By an operator's order: no answer names it while another candidate lives."""
    fresh_ms: int = 0
    """When its last signal was measured; 0 is never."""
    load_bps: float = 0.0
    capacity_bps: float = 0.0
    """0 is unlimited."""
    rated_bps: float = 0.0
    """The same before links and orders; 0 is unlimited or unknown."""
    reason: str = ""
    """Why it is not simply up, in words; empty when it is."""


class State(msgspec.Struct, frozen=True, kw_only=True):
    """All POPs at one time."""

    version: int = VERSION
    generation: int
    """Rises with every rewrite; a reader never goes back."""
    created_ms: int
    expires_ms: int
    """After this a reader trusts only its own health checks."""
    table_generation: int = 0
    pops: dict[str, PopState] = {}
    heartbeat_ms: dict[str, int] = {}
    """By stream, the newest heartbeat that the planner has heard: how fresh all of this is."""


class _Envelope(msgspec.Struct):
    payload: msgspec.Raw
    seal: str = ""


def encode(state: State, signer: Signer | None = None) -> bytes:
    """The bytes of a state, sealed when a signer is given."""
    payload = msgspec.json.encode(state)
    seal = signer.sign(payload).hex() if signer else ""
    return msgspec.json.encode(_Envelope(msgspec.Raw(payload), seal))


def decode(data: bytes, verifier: Verifier | None = None) -> State:
    """The state in the bytes; with a verifier only if its seal is good.

    Raises:
        TrustError: the seal is missing or wrong.
        TableError: not a state of this version.
    """
    try:
        envelope = msgspec.json.decode(data, type=_Envelope)
        seal = bytes.fromhex(envelope.seal)
    except ValueError as error:
        raise TableError(f"not a POP state: {error}") from None
    if verifier is not None:
        if not seal:
            raise TrustError("the POP state is not signed")
        verifier.verify(bytes(envelope.payload), seal)
    try:
        state = msgspec.json.decode(envelope.payload, type=State)
    except ValueError as error:
        raise TableError(f"not a POP state: {error}") from None
    if state.version != VERSION:
        raise TableError(f"a POP state of version {state.version}; this code reads {VERSION}")
    return state
