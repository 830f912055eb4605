"""The networks in the layers of each library of quantization, one module for each.

A module is imported in the interpreter that has the library, and in no other.
"""
