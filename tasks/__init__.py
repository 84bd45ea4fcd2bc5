"""The work: recipes, the driver, engines, scorers, cuts. No Prefect, no DuckDB; only parallel.py imports Ray."""
