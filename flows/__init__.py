"""Prefect flows and the command line: settings in, stages chained, references out. Only here is Prefect imported."""
