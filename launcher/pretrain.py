"""The command `pretrain` in a checkout (ernie_m/commands/pretrain.py).

deepspeed --hostfile hostfiles/v100x64 launcher/pretrain.py --recipe large --data DATA --run RUN
"""

try:
    from ernie_m.commands.pretrain import main
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}; install the package first: pip install -e .") from None

if __name__ == "__main__":
    main("launcher/pretrain.py")
