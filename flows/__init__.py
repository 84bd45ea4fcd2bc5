"""Prefect flows and the command line: settings in, stages chained, artifact references out. The only place that
imports Prefect.
"""
