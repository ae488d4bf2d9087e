"""Mining of hard negatives for contrastive training. It needs no package for training."""
