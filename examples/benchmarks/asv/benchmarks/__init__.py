"""Benchmarks that airspeed velocity runs over the history of the project.

In the folder of asv.conf.json, `asv run --python=same --quick` runs them once on the installed
package. `asv run NEW..OLD` and `asv publish` compare commits. The extra `benchmark` is needed.
"""
