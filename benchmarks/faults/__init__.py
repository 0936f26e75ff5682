"""The fault matrix: the real stream, broken in every way that is known, counted exactly.

Producers with their spill, Kinesis, the MultiLangDaemon and its record processors run as processes
of their own; a proxy stands between them and the local AWS. What was sent is known per (prefix,
POP) and compared with the partials. `popsteer bench pipeline --faults` and `tests/faults` both run
`benchmarks.faults.matrix`.
"""
