"""`popsteer bench NAME`: run one of the benchmarks that are there."""

import importlib
from pathlib import Path
from pkgutil import iter_modules

import benchmarks
from popsteer.errors import ConfigError

NAMES = ("policies", "dns", "solver", "pipeline", "probes")


def bench(
    name: str | None = None, /, *, json: Path | None = None, plots: Path | None = None
) -> int | None:
    """Run a benchmark and print its figures; without a name, list them.

    Args:
        name: policies, dns, solver, pipeline or probes.
        json: Write the figures to this file too.
        plots: Write charts into this folder.
    """
    there = present()
    if name is None:
        for own in there:
            doc = importlib.import_module(f"benchmarks.{own}").__doc__ or ""
            print(f"{own:<10} {doc.strip().splitlines()[0] if doc else ''}")
        return None
    if name not in there:
        known = ", ".join(there) or "none yet"
        raise ConfigError(f"no benchmark {name!r}; there is: {known}")
    run = importlib.import_module(f"benchmarks.{name}").run
    result = run(json=json, plots=plots)
    return result if isinstance(result, int) else None


def present() -> list[str]:
    """The benchmarks of this installation."""
    found = {module.name for module in iter_modules(benchmarks.__path__)}
    return [name for name in NAMES if name in found]
