"""Training: recipes are tuples of stages, and each stage adds to the draft of a model.

No stage calls BLAS, so inner products are written as ``(a * b).sum()``. BLAS divides a long sum by
its number of threads, so the last digits would depend on that number. Its threads also wait
actively for milliseconds after their work, on the processors that the kernels need next.
"""
