"""The command `demo` in a checkout (ernie_m/commands/demo.py).

python launcher/demo.py --to demo
"""

try:
    from ernie_m.commands.demo import main
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}; install the package first: pip install -e .") from None

if __name__ == "__main__":
    main("launcher/demo.py")
