"""Data that the teacher writes: prompts, texts, filters, and the store in which they lie."""
