"""The command `align` in a checkout (ernie_m/commands/align.py).

deepspeed --num_gpus 8 launcher/align.py --model MODEL --pairs FILE --languages de,en --to OUT
"""

try:
    from ernie_m.commands.align import main
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}; install the package first: pip install -e .") from None

if __name__ == "__main__":
    main("launcher/align.py")
