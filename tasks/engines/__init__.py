"""Engines answer requests: a server (`openai:`), vLLM or llama.cpp in this process (`vllm:`, `llamacpp:`), a
recording (`replay:`).
"""
