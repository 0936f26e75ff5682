"""Ed25519 signatures (RFC 8032) over the SHA-256 of a body.

Tables and POP state are signed by the planner; a DNS node loads nothing unsigned. Keys are hex
in text. The key id is the first 8 bytes of the public key's SHA-256.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from popsteer.errors import ConfigError, TrustError

SIGNATURE_BYTES = 64
KEY_ID_BYTES = 8


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key."""

    key: Ed25519PrivateKey

    @property
    def public_hex(self) -> str:
        """The public key, as in `trust.public_keys`."""
        return self.key.public_key().public_bytes_raw().hex()

    def sign(self, body: bytes) -> bytes:
        """Key id and signature, 72 bytes."""
        public = self.key.public_key().public_bytes_raw()
        return _key_id(public) + self.key.sign(hashlib.sha256(body).digest())


@dataclass(frozen=True, slots=True)
class Verifier:
    """The trusted public keys, by key id."""

    keys: dict[bytes, Ed25519PublicKey]

    def verify(self, body: bytes, seal: bytes) -> None:
        """Return if `seal` is `Signer.sign(body)` by a trusted key.

        Raises:
            TrustError: unknown key, or the signature is not of this body.
        """
        key = self.keys.get(seal[:KEY_ID_BYTES])
        if key is None:
            raise TrustError(
                f"signed by unknown key {seal[:KEY_ID_BYTES].hex() or '(none)'}; trust.public_keys "
                f"has {', '.join(sorted(one.hex() for one in self.keys)) or 'none'}"
            )
        try:
            key.verify(seal[KEY_ID_BYTES:], hashlib.sha256(body).digest())
        except InvalidSignature:
            raise TrustError("the signature does not match the content") from None


def verifier(public_keys: tuple[str, ...]) -> Verifier:
    """From hex keys.

    Raises:
        ConfigError: names the key that is none.
    """
    keys: dict[bytes, Ed25519PublicKey] = {}
    for text in public_keys:
        try:
            raw = bytes.fromhex(text)
            keys[_key_id(raw)] = Ed25519PublicKey.from_public_bytes(raw)
        except ValueError:
            raise ConfigError(
                f"trust.public_keys: {text!r} is no Ed25519 public key (64 hex digits)"
            ) from None
    return Verifier(keys)


def load_signer(path: Path) -> Signer:
    """The private key in a file.

    Raises:
        ConfigError: no such file, or no key in it.
    """
    try:
        return Signer(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(path.read_text().strip())))
    except (OSError, ValueError) as error:
        raise ConfigError(f"trust.signing_key = {path}: {error}") from None


def create_signer(path: Path) -> Signer:
    """A new private key, written to a file that only its owner reads; an existing one is kept.

    Raises:
        ConfigError: there is a file without a key in it, or none can be made.
    """
    if path.exists():
        return load_signer(path)
    signer = Signer(Ed25519PrivateKey.generate())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise ConfigError(f"trust.signing_key = {path}: {error}") from None
    with os.fdopen(handle, "w") as file:
        file.write(signer.key.private_bytes_raw().hex() + "\n")
    return signer


def _key_id(public: bytes) -> bytes:
    return hashlib.sha256(public).digest()[:KEY_ID_BYTES]
