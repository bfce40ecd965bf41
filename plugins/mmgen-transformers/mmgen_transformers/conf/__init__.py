"""Presets: `generator=hf_gpt2`, `hf_llama` and `hf_qwen3`."""
