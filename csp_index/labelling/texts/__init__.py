"""Candidate texts that are not a plain vocabulary: lists in files, and labels that models proposed."""
