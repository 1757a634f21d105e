"""The command `vocabulary` in a checkout (ernie_m/commands/vocabulary.py).

python launcher/vocabulary.py --model FOLDER --to OUT --trim en.txt,de.txt
"""

try:
    from ernie_m.commands.vocabulary import main
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}; install the package first: pip install -e .") from None

if __name__ == "__main__":
    main("launcher/vocabulary.py")
