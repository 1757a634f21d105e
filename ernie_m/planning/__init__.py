"""Before a job is booked: the memory it takes on each GPU, the micro-batch that fits, the time a step will take.

memory   bytes of a rank by part and moment of a step, from the recipe's shape alone
speed    FLOPs and traffic of a step
step     seconds of a step: a roofline for each kind of work of a micro-batch, with stated efficiencies
reading  how many keys a token reads, counted on data
plan     every ZeRO stage and precision, the largest micro-batch that fits, the one to take
report   a table, the recipe as it is, and a line of advice with its reasons

Everything is arithmetic: no torch, no GPU, and no data except for `reading`.

In: a recipe, a device, a number of ranks. Out: plans with memory and seconds. Start reading at plan.
"""
