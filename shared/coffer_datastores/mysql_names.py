"""What names may be on a server of the MySQL family."""

from __future__ import annotations

import re

# Any printable characters of the first plane of Unicode, which is all that the server's names know, and no space at the
# ends. A slash cannot travel in the API's paths.
NAME = r"(?!\s)[^\x00-\x1f\x7f-\x9f\ud800-\udfff/\\\U00010000-\U0010ffff]+(?<!\s)"
DATABASES = frozenset({"mysql", "information_schema", "performance_schema", "sys"})
"""The server's own."""
# the server takes "#mysql50#" before a name for a directory's name
DATABASE_PATTERN = re.compile(rf"(?!#mysql50#|(?i:{'|'.join(sorted(DATABASES))})$)" + NAME)
