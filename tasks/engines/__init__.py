"""Engines answer requests: a server (`openai:`), a model in this process (`vllm:`, `llamacpp:`), a recording."""
