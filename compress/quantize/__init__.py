"""The verb `quantize`: put weights on an integer grid in blocks."""
