"""`python -m cope_cli` is `cope`."""

from cope_cli.cli.main import run

if __name__ == "__main__":
    run()
