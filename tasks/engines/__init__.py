"""Engines answer requests: a server (`openai:`), a provider (`anthropic:`, `gemini:`, `bedrock:`), a model in this
process (`vllm:`, `llamacpp:`), a recording.
"""
