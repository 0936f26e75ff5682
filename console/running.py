"""The running system as a command finds it: its configuration, its store, what it published.

Commands that talk to a running system take `--config FILE`; without it they find the
`popsteer up` of the current folder.
"""

import os
from pathlib import Path

from popsteer.config import Config
from popsteer.config_file import load
from popsteer.errors import ConfigError
from popsteer.signing import Verifier, verifier

CONFIG_VARIABLE = "POPSTEER_CONFIG"
DEFAULT_CONFIG = Path("popsteer-data") / "popsteer.toml"


def find_config(chosen: Path | None) -> Config:
    """The configuration named, else that of env POPSTEER_CONFIG, else of `popsteer up` here.

    Raises:
        ConfigError: there is none, or it cannot be used.
    """
    return load(find_config_file(chosen))


def find_config_file(chosen: Path | None) -> Path:
    """Where `find_config` finds it.

    Raises:
        ConfigError: there is none.
    """
    if chosen is not None:
        return chosen
    if named := os.environ.get(CONFIG_VARIABLE):
        return Path(named)
    if not DEFAULT_CONFIG.exists():
        raise ConfigError(
            f"no running system found: {DEFAULT_CONFIG} is not in this folder; start `popsteer "
            f"up` here, or name a configuration with --config FILE or {CONFIG_VARIABLE}"
        )
    return DEFAULT_CONFIG


def trusted(config: Config) -> Verifier | None:
    """The keys that tables and state must be signed with; None where none are configured."""
    return verifier(config.trust.public_keys) if config.trust.public_keys else None
