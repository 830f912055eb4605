"""The small parts that quantizers are assembled from, one folder per role.

Layer: core (L3).
"""
