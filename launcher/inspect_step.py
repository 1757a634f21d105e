"""The command `inspect_step` in a checkout (ernie_m/commands/inspect_step.py).

python launcher/inspect_step.py --run RUN --step 1200 --decode
"""

try:
    from ernie_m.commands.inspect_step import main
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}; install the package first: pip install -e .") from None

if __name__ == "__main__":
    main("launcher/inspect_step.py")
