"""Datasets, the text tokenizer, batch order, the token cache and the data module."""
