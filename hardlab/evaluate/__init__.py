"""Evaluation of frozen features: extraction, nearest neighbours, linear probes, and the published protocols."""
