"""From texts to rows of token ids, and from computed rows to embeddings, scores, sparse and token vectors."""
