"""The command `translate` in a checkout (ernie_m/commands/translate.py).

python launcher/translate.py --model RUN --from fr --to en < in > out
"""

try:
    from ernie_m.commands.translate import main
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}; install the package first: pip install -e .") from None

if __name__ == "__main__":
    main("launcher/translate.py")
