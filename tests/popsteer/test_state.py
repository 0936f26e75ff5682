import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from popsteer import state as states
from popsteer.errors import TableError, TrustError
from popsteer.signing import Signer, verifier
from popsteer.state import PopState, State

SIGNER = Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
OTHER = Signer(Ed25519PrivateKey.from_private_bytes(bytes(32)))
TRUSTED = verifier((SIGNER.public_hex,))
STATE = State(
    generation=3,
    created_ms=1_000,
    expires_ms=11_000,
    table_generation=7,
    pops={"fra1": PopState(shed=0.25, load_bps=1e9), "ams1": PopState(up=False, reason="no route")},
)


def test_bytes_give_the_state_back() -> None:
    assert states.decode(states.encode(STATE, SIGNER), TRUSTED) == STATE
    assert states.decode(states.encode(STATE)) == STATE


def test_only_a_trusted_key_signs() -> None:
    with pytest.raises(TrustError, match="not signed"):
        states.decode(states.encode(STATE), TRUSTED)
    with pytest.raises(TrustError, match="unknown key"):
        states.decode(states.encode(STATE, OTHER), TRUSTED)


def test_a_changed_payload_does_not_pass() -> None:
    sealed = states.encode(STATE, SIGNER)
    with pytest.raises(TrustError, match="does not match"):
        states.decode(sealed.replace(b'"shed":0.25', b'"shed":0.75'), TRUSTED)


def test_every_flipped_bit_and_every_cut_is_refused() -> None:
    sealed = states.encode(STATE, SIGNER)
    for at in range(len(sealed)):
        damaged = bytearray(sealed)
        damaged[at] ^= 1 << at % 8
        for data in (bytes(damaged), sealed[:at]):
            try:
                found = states.decode(data, TRUSTED)
            except (TableError, TrustError):
                continue
            # Case of a hex digit, or white space: not one word of the payload.
            assert found == STATE


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"payload": 1}', b'{"payload": {}}', b'{"payload":{},"seal":"x"}']
)
def test_what_is_no_state_is_refused(data: bytes) -> None:
    with pytest.raises(TableError, match="not a POP state"):
        states.decode(data)


def test_another_version_is_refused() -> None:
    later = states.encode(State(version=2, generation=1, created_ms=0, expires_ms=1))
    with pytest.raises(TableError, match="version 2; this code reads 1"):
        states.decode(later)
