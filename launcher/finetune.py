"""The command `finetune` in a checkout (ernie_m/commands/finetune.py).

deepspeed --num_gpus 8 launcher/finetune.py xnli --model HF_FOLDER --data XNLI --to RUN
"""

try:
    from ernie_m.commands.finetune import main
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}; install the package first: pip install -e .") from None

if __name__ == "__main__":
    main("launcher/finetune.py")
