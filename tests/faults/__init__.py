"""Faults on purpose: what checkpoints must survive, tried by force. `make faults` counts what came of it."""
