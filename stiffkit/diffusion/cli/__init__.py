"""The command line, ``stiffkit``: see docs/guides/imagenet.md."""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; without its packages, say which extra brings them."""
    try:
        from .app import app
    except ModuleNotFoundError as error:
        sys.exit(f"stiffkit: no package {error.name!r}: pip install 'stiffkit[cli]'")
    app()
