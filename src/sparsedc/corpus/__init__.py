"""From text to budgets: `sources` → `documents` → `tokenizer` → `packing` → `tokens` and `budgets`.

Each step reads the directory of the step before and writes one of its own, whole or not at all. The trainer
needs only `tokens`, which imports numpy and nothing else.
"""
