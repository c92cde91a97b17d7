"""The command line (being written)."""


def main() -> int:
    """Nothing yet."""
    return 0
