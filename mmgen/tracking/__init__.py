"""Where the figures go: metrics.jsonl, wandb, and the report."""
