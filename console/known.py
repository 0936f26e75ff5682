"""Names that people type, checked against the configuration."""

import difflib

from popsteer.config import Config
from popsteer.errors import ConfigError


def known_pop(config: Config, pop: str) -> str:
    """The POP, if there is one of that id.

    Raises:
        ConfigError: names the nearest, or all.
    """
    ids = [str(one) for one in config.pop_ids()]
    if pop not in ids:
        near = difflib.get_close_matches(pop, ids, 1, 0.4)
        hint = f"did you mean {near[0]}?" if near else f"the POPs are {', '.join(sorted(ids))}"
        raise ConfigError(f"no POP {pop!r}; {hint}")
    return pop
