"""What all export targets share. Layer: export (L8)."""
