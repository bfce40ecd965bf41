"""Presets: `generator=hf_gpt2`, `hf_llama`, `hf_qwen3` and `hf_mamba`."""
