"""Prefect's server, deployments, and progress on its pages."""
