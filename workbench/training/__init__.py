"""What tuning methods share: examples as tokens, one training loop (TRL's), checkpoints that are whole."""
