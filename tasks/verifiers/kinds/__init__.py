"""Each file is one verifier: its settings and its verdict. Nothing registers it, and none imports a heavy library
before it is asked.
"""
