"""Users' files: rows, pools, turns, applications read; outputs written."""
