"""Verifiers: answers that can be checked, without a model. One file of kinds/ a verifier."""
