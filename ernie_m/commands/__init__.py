"""What a user types: a file a command, which parses, builds and runs; no logic of training lives here.

In:     the arguments of this process.   Out: what the rooms below make of them; a mistake is one line and exit code 2.
Knows:  every room below, imported only once the arguments are right: --help needs no torch.
Start:  choice (`ernie-m COMMAND`, the table of commands), then pretrain. launcher/ has a thin script for each.
        A long command has a second file, named after it: evaluate_translation.
"""
