"""Straight-through operations: autograd functions whose gradient differs from their maths.

Layer: ops (L1).
"""
