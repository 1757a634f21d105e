"""The command `doctor` in a checkout (ernie_m/commands/doctor.py).

python launcher/doctor.py --hostfile hostfiles/v100x64 --recipe large --data DATA --run RUN --bandwidth
"""

try:
    from ernie_m.commands.doctor import main
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}; install the package first: pip install -e .") from None

if __name__ == "__main__":
    main("launcher/doctor.py")
