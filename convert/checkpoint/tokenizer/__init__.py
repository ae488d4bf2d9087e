"""The tokenizer of a checkpoint: all of its files, read as transformers reads them."""
