"""What Python programs call besides a session: named flows, functions on frames, the list of stages."""
