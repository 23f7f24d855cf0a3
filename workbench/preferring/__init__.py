"""What preference data are made of: pairs and their file, where they come from, what they look like."""
