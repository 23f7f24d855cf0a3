"""What prompt search is made of: proposals, candidates with their scores, where a search stands, what it says."""
