"""The command line, from a checkout: `python cli.py` runs `difftrack.cli`."""

from difftrack.cli import app

__all__ = ["app"]

if __name__ == "__main__":
    app()
