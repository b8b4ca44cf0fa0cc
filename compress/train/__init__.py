"""The verb `train`: fit a model to data with cross-entropy, without a teacher."""
