"""The conformance kit, of four architectures: learned positions, RoPE and few keys, a narrow window, and a state."""

from mmgen_transformers import HfCausal

from mmgen.testing import conformance

SMALL = {"embed_dim": 32, "num_layers": 2, "num_heads": 2}

test_gpt2_conforms = conformance("generator", HfCausal, architecture="gpt2", **SMALL)
test_llama_conforms = conformance(
    "generator", HfCausal, architecture="llama", config={"num_key_value_heads": 1}, positions="own", **SMALL
)
test_mistral_conforms = conformance(
    "generator", HfCausal, architecture="mistral", config={"sliding_window": 14}, attention="eager", **SMALL
)
test_mamba_conforms = conformance("generator", HfCausal, architecture="mamba", embed_dim=16, num_layers=1)
