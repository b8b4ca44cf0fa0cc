"""The Trainer wiring that `train` and `distill` share."""
