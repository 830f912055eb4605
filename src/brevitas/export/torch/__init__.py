"""Export to TorchScript. Layer: export (L8)."""
