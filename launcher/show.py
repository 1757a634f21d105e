"""The command `show` in a checkout (ernie_m/commands/show.py).

python launcher/show.py --run RUN --output report.html
"""

try:
    from ernie_m.commands.show import main
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}; install the package first: pip install -e .") from None

if __name__ == "__main__":
    main("launcher/show.py")
