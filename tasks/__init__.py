"""The work: recipes, the driver, engines, scorers, cuts. Imports no Prefect, no DuckDB; only parallel.py imports
Ray.
"""
