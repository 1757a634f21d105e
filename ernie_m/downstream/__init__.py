"""Fine-tuning and scoring of any Hugging Face encoder on the paper's benchmarks, a file a task.

`task` says what a task file gives; `task_files` finds and reads its data; `seed` trains one seed, `experiment` all;
`report` puts the scores beside the paper's. `tatoeba` needs no training and stands by itself.

In: an encoder in Hugging Face's format, a benchmark's files. Out: scores of each seed and language. Start reading at task.
"""
