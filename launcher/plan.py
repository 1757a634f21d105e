"""The command `plan` in a checkout (ernie_m/commands/plan.py).

python launcher/plan.py --hostfile hostfiles/v100x64 --recipe large
"""

try:
    from ernie_m.commands.plan import main
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}; install the package first: pip install -e .") from None

if __name__ == "__main__":
    main("launcher/plan.py")
