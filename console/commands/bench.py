"""`popsteer bench NAME`: the benchmarks that are there; each brings its own options.

The benchmark's function is the command: `benchmarks.<name>.run`, whose parameters `json_path` and
`plots_dir` are `--json FILE` and `--plots DIR` for people.
"""

from pkgutil import iter_modules

from cyclopts import App, Parameter, default_name_transform

import benchmarks

BENCHMARKS = {
    "policies": "How well steering policies do in the closed-loop world",
    "dns": "Queries a second and latency of the answer path",
    "solver": "Time and quality of the assignment",
    "pipeline": "Readiness, freshness and memory of the whole loop",
    "probes": "Samples a second and accuracy of the agent",
}


def option_name(parameter: str) -> str:
    """`json_path` is `--json`, `plots_dir` is `--plots`; others as usual."""
    return default_name_transform(parameter.removesuffix("_path").removesuffix("_dir"))


app = App(
    name="bench",
    help="Measure popsteer itself.",
    default_parameter=Parameter(name_transform=option_name),
)

_present = {module.name for module in iter_modules(benchmarks.__path__)}
for _name, _help in BENCHMARKS.items():
    if _name in _present:
        app.command(f"benchmarks.{_name}:run", name=_name, help=_help)
