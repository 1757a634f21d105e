"""A job kept alive: started with deepspeed, watched through its run folder, restarted, its bad hosts left out.

policy         what to do after a start has ended (pure)
run_state      what the run folder says
ledger         RUN/restarts.jsonl and the summary
deepspeed_job  the deepspeed processes: command, ending them
environment    which variables ranks on other hosts get; handed: secrets among them, on no command line
remote         a command on several hosts
orphans        ranks that outlived their launcher
supervisor     the loop over all these

In: the command of a training. Out: the training finished, or one line that says why not. Start reading at supervisor.
"""
