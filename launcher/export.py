"""The command `export` in a checkout (ernie_m/commands/export.py).

python launcher/export.py --run RUN --to FOLDER
"""

try:
    from ernie_m.commands.export import main
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}; install the package first: pip install -e .") from None

if __name__ == "__main__":
    main("launcher/export.py")
