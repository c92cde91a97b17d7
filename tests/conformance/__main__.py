"""`python -m tests.conformance` writes docs/conformance.md."""

from tests.conformance.deviations import DOCUMENT, document

DOCUMENT.write_text(document())
