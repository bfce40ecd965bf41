"""The three tasks: from a batch to an optimizer step."""
