"""The shared vocabulary: nouns, bytes between processes, configuration; no component.

Read in this order: names, samples, table, state, orders, evidence, config.
"""

__version__ = "0.1.0"
