"""Before a job starts: are its hosts ready for it (`ernie-m doctor`)?

host_agent    runs on every host and answers questions about it; needs no torch to start
link          TCP between two hosts
session       an agent at the other end of ssh
examination   asks all hosts everything, at once
checks        judges the answers: a table and problems with remedies (pure; with findings and gpu_checks)
job_checks    what concerns the job as a whole: batch, disk, exported environment

In: a hostfile and a job. Out: a table of hosts, and each problem with its remedy. Start reading at examination.
"""
