"""From a plan to artifacts and a dataset."""
