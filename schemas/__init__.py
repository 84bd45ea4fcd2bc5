"""What everything else agrees on: rows, requests, settings, errors. Imports nothing of synthmill's other packages."""
