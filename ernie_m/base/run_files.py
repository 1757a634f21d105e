"""Names of the files in a run folder: one list for the code that writes them and the code that reads them.

RUN/config.yaml       the resolved configuration, and which data and tokenizer it was started on
RUN/metrics.jsonl     a line a step             RUN/curves.png   the same to look at
RUN/checkpoints/      step_00001000/ ..., latest
RUN/.lock             held by the running job (flock: the kernel releases it, however the job ends)
RUN/spikes.jsonl      losses out of line, with their rows         RUN/samples.jsonl   rows of every step, if asked for
RUN/skipped_steps.json    steps left out, on all later starts too
RUN/started_from.json     which weights the run was started from (init_from), and what of the model they lack
RUN/backbone/             of an encoder of transformers (model.backbone): all but the trained weights
RUN/stop_requested    made by whoever wants the job to stop in order
RUN/last_stop.json    why the last job ended, when it ended in order
RUN/incidents.jsonl   ranks that died or hung   RUN/restarts.jsonl   what the supervisor did about it
RUN/tensorboard/, RUN/wandb/, RUN/wandb.json   of these trackers, if asked for
RUN/COMPLETE          written last: its presence, not an exit code, says that training is done
"""

CONFIG_FILE = "config.yaml"
DATA_IDENTITY = "data_identity"
"""Its section that says which data and tokenizer the run was started on."""
METRICS_FILE = "metrics.jsonl"
CURVES_FILE = "curves.png"
CHECKPOINTS_FOLDER = "checkpoints"
LOCK_FILE = ".lock"
SPIKES_FILE = "spikes.jsonl"
SAMPLES_FILE = "samples.jsonl"
SKIPPED_STEPS_FILE = "skipped_steps.json"
START_FILE = "started_from.json"
BACKBONE_FOLDER = "backbone"
STOP_FILE = "stop_requested"
LAST_STOP_FILE = "last_stop.json"
INCIDENTS_FILE = "incidents.jsonl"
LEDGER_FILE = "restarts.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
WANDB_FOLDER = "wandb"
WANDB_FILE = "wandb.json"
COMPLETE_FILE = "COMPLETE"

OF_TRAINING = (
    CONFIG_FILE,
    METRICS_FILE,
    CURVES_FILE,
    CHECKPOINTS_FOLDER,
    SPIKES_FILE,
    SAMPLES_FILE,
    SKIPPED_STEPS_FILE,
    START_FILE,
    BACKBONE_FOLDER,
    STOP_FILE,
    LAST_STOP_FILE,
    INCIDENTS_FILE,
    TENSORBOARD_FOLDER,
    WANDB_FOLDER,
    WANDB_FILE,
    COMPLETE_FILE,
)
"""What a run leaves; --from_scratch deletes it."""
BEFORE_TRAINING = (LOCK_FILE, LEDGER_FILE, STOP_FILE)
"""What may lie in a folder that no run was started in."""
