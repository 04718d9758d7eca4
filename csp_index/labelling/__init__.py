"""Candidates and evidence to scores, confidence, and the labels that are kept."""
