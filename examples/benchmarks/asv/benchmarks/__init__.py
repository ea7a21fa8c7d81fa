"""Benchmarks that airspeed velocity runs over the history of the project.

In the folder of asv.conf.json: `asv run --python=same --quick` tries them on the installed
package, `asv run NEW..OLD` and `asv publish` follow the commits. Needs the extra `benchmark`.
"""
