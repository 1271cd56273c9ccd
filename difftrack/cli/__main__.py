"""The command line: python -m difftrack.cli."""

from difftrack.cli import app

if __name__ == "__main__":
    app()
