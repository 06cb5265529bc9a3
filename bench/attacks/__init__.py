"""Attacks on stochastic defenses: one attack, one file; the registered name is the file's stem."""

from bench.attacks.base import Attack, Trace, attacks, register

__all__ = ["Attack", "Trace", "attacks", "register"]
