"""The command `supervise` in a checkout (ernie_m/commands/supervise.py).

python launcher/supervise.py --hostfile hostfiles/v100x64 -- launcher/pretrain.py --recipe large --run RUN
"""

try:
    from ernie_m.commands.supervise import main
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}; install the package first: pip install -e .") from None

if __name__ == "__main__":
    main("launcher/supervise.py")
