"""The command `ablate` in a checkout (ernie_m/commands/ablate.py).

python launcher/ablate.py objectives --data DATA --to RUNS --recipe small --steps 20000 --tatoeba TATOEBA
"""

try:
    from ernie_m.commands.ablate import main
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}; install the package first: pip install -e .") from None

if __name__ == "__main__":
    main("launcher/ablate.py")
