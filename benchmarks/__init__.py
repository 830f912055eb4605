"""Speed, memory and operation counts of quantized networks, as ratios to their float twins."""
