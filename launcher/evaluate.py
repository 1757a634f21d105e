"""The command `evaluate` in a checkout (ernie_m/commands/evaluate.py).

python launcher/evaluate.py gain --run RUN
"""

try:
    from ernie_m.commands.evaluate import main
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}; install the package first: pip install -e .") from None

if __name__ == "__main__":
    main("launcher/evaluate.py")
