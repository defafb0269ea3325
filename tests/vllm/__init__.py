"""The lane of the real vLLM engine: see ``.ci/vllm``, which makes its environment and runs it."""
