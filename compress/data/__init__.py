"""From sources to text to tokens to windows; the built-in stories; fingerprints."""
