"""Evaluation of adversarial-purification defenses: cells, attacks, the judge, the store, the report."""
