"""What a model is: cards, and where its files come from. It imports nothing else of Fletcher."""
