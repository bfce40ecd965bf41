"""The components that learn, as plain modules: tensors in, tensors out."""
