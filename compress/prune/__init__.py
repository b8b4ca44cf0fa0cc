"""The verb `prune`: cut whole structures out of a model, so that the rest stays an ordinary smaller model."""
