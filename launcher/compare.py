"""The command `compare` in a checkout (ernie_m/commands/compare.py).

python launcher/compare.py scores/xlmr scores/ours
"""

try:
    from ernie_m.commands.compare import main
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}; install the package first: pip install -e .") from None

if __name__ == "__main__":
    main("launcher/compare.py")
