import stat
from pathlib import Path

import pytest

from popsteer.errors import ConfigError, TrustError
from popsteer.signing import (
    KEY_ID_BYTES,
    SIGNATURE_BYTES,
    create_signer,
    load_signer,
    verifier,
)


def test_a_created_key_is_kept_private_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "planner.key"
    first = create_signer(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert create_signer(path).public_hex == first.public_hex == load_signer(path).public_hex


def test_any_trusted_key_will_do(tmp_path: Path) -> None:
    old, new = create_signer(tmp_path / "old"), create_signer(tmp_path / "new")
    both = verifier((old.public_hex, new.public_hex))
    for signer in (old, new):
        seal = signer.sign(b"body")
        assert len(seal) == KEY_ID_BYTES + SIGNATURE_BYTES
        both.verify(b"body", seal)


def test_what_does_not_match_is_refused(tmp_path: Path) -> None:
    signer = create_signer(tmp_path / "key")
    seal = signer.sign(b"body")
    trusted = verifier((signer.public_hex,))
    for body, wrong in (
        (b"bodY", seal),
        (b"body", seal[:-1]),
        (b"body", seal[:-1] + bytes([seal[-1] ^ 1])),
    ):
        with pytest.raises(TrustError, match="does not match"):
            trusted.verify(body, wrong)
    for unknown in (b"", bytes(72)):
        with pytest.raises(TrustError, match="unknown key"):
            trusted.verify(b"body", unknown)
    with pytest.raises(TrustError, match="unknown key"):
        verifier(()).verify(b"body", seal)


@pytest.mark.parametrize("text", ["", "abc", "zz" * 32, "00" * 31])
def test_what_is_no_public_key_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match=r"trust\.public_keys") as refused:
        verifier((text,))
    assert repr(text) in str(refused.value)


@pytest.mark.parametrize("text", [None, "", "hello", "00" * 31])
def test_what_is_no_private_key_is_named(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "planner.key"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=r"trust\.signing_key") as refused:
        load_signer(path)
    assert str(path) in str(refused.value)
