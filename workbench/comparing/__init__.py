"""Several Systems beside each other on one question: what is asked, drawn, voted, and told of the answers."""
