"""Compiled CPU kernels: one pass per row computes the scores and keeps the top K experts.

The router weights are sparse: feature ``j`` is connected to the experts
``indices[indptr[j]:indptr[j + 1]]`` and to no other. All kernels work on that one
representation. In a dense router every feature is connected to every expert. The experts of a
feature are in ascending order. No kernel allocates n_samples x n_experts numbers, takes a lock or
uses a global setting, so any number of Python threads may run them.
"""
