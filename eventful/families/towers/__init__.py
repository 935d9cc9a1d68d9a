"""Vision towers of `transformers`: their layers taken apart, everything else as it is."""
