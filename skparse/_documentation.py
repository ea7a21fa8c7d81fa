"""Links from the HTML representation of an estimator to its page in the documentation."""

from importlib import metadata


def find_address():
    """Return the address of the documentation in the metadata of the package, "" without one."""
    try:
        entries = metadata.metadata("skparse").get_all("Project-URL", [])
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        return ""
    addresses = dict(entry.split(", ", 1) for entry in entries)
    return addresses.get("Documentation", "").rstrip("/")


class DocumentedMixin:
    """Mixin with what scikit-learn reads to write the link; without an address there is none."""

    _doc_link_module = "skparse"

    @property
    def _doc_link_template(self):
        address = find_address()
        page = "/generated/{estimator_module}.{estimator_name}.html"
        return address + page if address else ""
